"""Large rows take little memory: not all of them are held at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.foreign.rows import Rows

pytestmark = pytest.mark.slow

MEGABYTE = 1024 * 1024

READ = """
import asyncio, sys
from eventferry import open_source

async def main(url, mapping):
    size = 0
    async with open_source(url, mapping) as source:
        async for block in source.export_events():
            size += len(block)
    assert size > 200_000_000, size
    status = open("/proc/self/status").read().splitlines()
    print(next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM")))

asyncio.run(main(*sys.argv[1:]))
"""


def test_rows_of_5_megabytes_are_read_a_few_at_a_time(own: Rows, tmp_path: Path) -> None:

    # A key, as a position nearly always is: else the database sorts the rows, which takes its own memory.
    own.make(id="INTEGER PRIMARY KEY" if own.database == "sqlite" else "bigint PRIMARY KEY")
    own.add()
    text = '"%s"' % ("x" * (5 * MEGABYTE))
    for _ in range(45):
        own.add(data=text)
    own.close()
    mapping = own.file(tmp_path)
    told = subprocess.run([sys.executable, "-c", READ, own.url, mapping], capture_output=True, check=False)
    assert told.returncode == 0, told.stderr.decode()
    assert int(told.stdout) < 200 * MEGABYTE
