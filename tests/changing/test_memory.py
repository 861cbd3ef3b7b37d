"""Changes take no more memory for many events than for few, where every aggregate and every type differs too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

MEGABYTE = 1024 * 1024

CHANGE = """
import asyncio, resource, sys
from eventferry import Changes, pipeline
from eventferry.changing import moving

moving.cores = lambda: 2

async def many(count):
    for start in range(0, count, 1000):
        yield b"".join(
            b'{"threadCounter":%d,"threadId":0,"type":"TYPE_%d","timestamp":%d,"aggregateId":"user-%d",'
            b'"aggregateVersion":1,"payload":{"name":"%d"}}\\n' % (i, i, i, i, i)
            for i in range(start, start + 1000)
        )

class Nowhere:
    async def write(self, block): pass
    async def close(self): pass
    async def abort(self, error=None): pass

async def main(count, rules):
    changes = Changes(rules=rules, exclude_types=["TYPE_0"])
    await pipeline(many(count), changes, Nowhere())
    assert (changes.report.left_out, changes.report.changed) == (1, count - 1)
    status = open("/proc/self/status").read().splitlines()
    own = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    print((own + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) * 1024)

asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
"""

RULES = """
[pseudonyms]
key_file = "names.key"

[[rule]]
aggregate_prefix = "user-"
pseudonym_aggregate = true
pseudonym = ["/name"]
"""


def peak(count: int, rules: Path) -> int:
    """The most memory, in bytes, of a process that changes so many events, and of its worker."""
    child = subprocess.run(
        [sys.executable, "-c", CHANGE, str(count), str(rules)], stdout=subprocess.PIPE, text=True, check=True
    )
    return int(child.stdout)


def test_three_times_as_many_events_take_no_more_memory(tmp_path: Path) -> None:
    (tmp_path / "names.key").write_text("a key of at least sixteen bytes")
    (tmp_path / "rules.toml").write_text(RULES)
    few, many = (peak(count, tmp_path / "rules.toml") for count in (120_000, 360_000))
    print(f"{few / MEGABYTE:.0f} MB and {many / MEGABYTE:.0f} MB")
    assert many < few + 20 * MEGABYTE
