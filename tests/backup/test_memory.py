"""A backup holds a few parts in memory, however large the store is."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest

from eventferry import open_store
from tests.support import line, make_event
from tests.support.cli import COMMAND, environment

MEBIBYTES = 200

pytestmark = pytest.mark.scale


async def test_memory_stays_flat_with_data_that_cannot_be_packed(tmp_path: Path, repository: str) -> None:
    chance = random.Random(1)
    url = f"sqlite:///{tmp_path}/store.db"
    async with open_store(url) as store:
        await store.init()
        async with store.import_events() as stream:
            for start in range(0, 130_000, 1000):
                some = [make_event(start + i, payload=chance.randbytes(1500).hex()) for i in range(1000)]
                await stream.write(b"".join(map(line, some)))
    command = [*COMMAND, "backup", url, repository, "--quiet"]
    child = subprocess.Popen(command, env=environment())
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0
    assert used.ru_maxrss / 1024 < MEBIBYTES
