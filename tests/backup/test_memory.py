"""A backup and a restore hold a few parts in memory, however large the store is."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from eventferry import open_store
from tests.support import line, make_event
from tests.support.cli import COMMAND, environment

MEBIBYTES = 200


MEASURED = """
import os, subprocess, sys
child = subprocess.Popen(sys.argv[1:])
_, status, used = os.wait4(child.pid, 0)
print(used.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""A process takes over the peak of the one that starts it: this one is small, and pytest's is not."""


def peak_of(*words: str) -> float:
    """The most memory, in MiB, that a command holds."""
    measuring = [sys.executable, "-c", MEASURED, *COMMAND, *words, "--quiet"]
    ended = subprocess.run(measuring, env=environment(), check=True, stdout=subprocess.PIPE, text=True)
    return int(ended.stdout) / 1024


@pytest.mark.parametrize(
    ("repository", "events"),
    [
        pytest.param("folder", 60_000, marks=pytest.mark.slow),
        pytest.param("folder", 130_000, marks=pytest.mark.scale),
        pytest.param("s3", 130_000, marks=pytest.mark.scale),
    ],
    indirect=["repository"],
)
async def test_memory_stays_flat_with_data_that_cannot_be_packed(
    tmp_path: Path, repository: str, events: int
) -> None:
    chance = random.Random(1)
    url, restored = (f"sqlite:///{tmp_path}/{name}.db" for name in ("store", "restored"))
    async with open_store(url) as store:
        await store.init()
        async with store.import_events() as stream:
            for start in range(0, events, 1000):
                some = [make_event(start + i, payload=chance.randbytes(1500).hex()) for i in range(1000)]
                await stream.write(b"".join(map(line, some)))
    assert peak_of("backup", url, repository) < MEBIBYTES
    assert peak_of("restore", repository, restored) < MEBIBYTES
    async with open_store(restored) as store:
        assert (await store.describe()).event_count == events
