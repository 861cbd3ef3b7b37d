"""The rate of a copy with five rules, beside that of a plain copy.

python -m benchmarks.changes [--events 1000000] [--turns 3]

Both copy one SQLite store into a new one, and each is a process of its own. The CPU is that of the process and of the
worker in which rules run, the memory the peak of the larger of them. The rules concern every event: they redact and
remove members, give pseudonyms, and rename types and aggregates. A third copy goes through rules that no event meets.
On machines that others share a core is half as fast at times, so each copy with rules has a plain one before it and one
behind it: its rate is told by theirs, of all turns the median.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.command_line import asked
from benchmarks.make_events import make_events
from eventferry import open_store

RULES = """
[pseudonyms]
key_file = "key"

[[rule]]
type = ["ORDER_PLACED", "ORDER_CLOSED"]
rename = "ORDER_CHANGED"
[[rule]]
pseudonym = ["/customer"]
[[rule]]
redact = ["/note"]
[[rule]]
aggregate_prefix = "order-"
rename_aggregate = "purchase-"
[[rule]]
type = "ITEM_ADDED"
remove = ["/cents"]
set = { "/source" = "import" }
"""
IDLE = "".join(f'[[rule]]\ntype = "NEVER_{number}"\nredact = ["/note"]\n' for number in range(5))
COPY = """
import asyncio, sys
from eventferry import Changes, open_store, pipeline

async def main(source, target, rules):
    async with open_store(source) as one, open_store(target) as other:
        await other.init()
        changes = [Changes(rules=rules)] if rules else []
        await pipeline(one.export_events(), *changes, other.import_events())

asyncio.run(main(*sys.argv[1:]))
"""


class Copy(NamedTuple):
    """What a copy took."""

    seconds: float
    cpu: float
    megabytes: float


async def fill(place: Path, count: int) -> None:
    """Make the store that is copied."""
    async with open_store(str(place)) as store:
        await store.init()
        async with store.import_events() as stream:
            events = make_events(count)
            while block := b"".join(islice(events, 5000)):
                await stream.write(block)


def copied(source: Path, rules: str) -> Copy:
    """Copy the store, with rules if there are any."""
    target = source.with_name("target.db")
    began = time.monotonic()
    child = subprocess.Popen([sys.executable, "-c", COPY, str(source), str(target), rules])
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - began
    for file in source.parent.glob("target.db*"):
        file.unlink()
    if child.returncode:
        raise RuntimeError("the copy failed")
    return Copy(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def main() -> None:
    """Measure, and print what was found."""
    given = asked(__doc__, events=1_000_000, turns=3)
    with tempfile.TemporaryDirectory() as folder:
        source, five, idle = (Path(folder) / name for name in ("source.db", "five.toml", "idle.toml"))
        (Path(folder) / "key").write_text("a key of a benchmark")
        five.write_text(RULES)
        idle.write_text(IDLE)
        asyncio.run(fill(source, given.events))
        plain = [copied(source, "")]
        kinds = {"rules that no event meets": str(idle), "five rules": str(five)}
        found: dict[str, list[tuple[float, Copy]]] = {kind: [] for kind in kinds}
        for _ in range(given.turns):
            for kind, rules in kinds.items():
                changed = copied(source, rules)
                plain.append(copied(source, ""))
                around = (plain[-2].seconds + plain[-1].seconds) / 2
                found[kind].append((around / changed.seconds, changed))
        _tell("plain", given.events, plain)
        for kind, turns in found.items():
            _tell(kind, given.events, [each for _, each in turns])
            print(f"    {median(ratio for ratio, _ in turns):.2f} of a plain copy's rate", flush=True)


def _tell(kind: str, events: int, copies: Sequence[Copy]) -> None:
    seconds, cpu = (median(getattr(each, name) for each in copies) for name in ("seconds", "cpu"))
    print(
        f"{kind}: {events / seconds:,.0f} events/s, CPU {cpu / events * 1e6:.2f} µs an event, "
        f"{max(each.megabytes for each in copies):.0f} MB",
        flush=True,
    )


if __name__ == "__main__":
    main()
