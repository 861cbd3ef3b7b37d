"""The read model of docs/follow.md, which keeps its bookmark in the transaction of its rows: killed at any point and
started again, it is right."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eventferry import open_store
from tests.support import make_event
from tests.support.cli import environment
from tests.test_docs import ROOT, blocks_of

EVENTS = 6_000


def example() -> str:
    page = (ROOT / "docs" / "follow.md").read_text(encoding="utf-8")
    [script] = [block.text for block in blocks_of(page) if "CREATE TABLE" in block.text]
    return script


def orders() -> list[dict[str, object]]:
    return [make_event(i, type="ORDERED" if i % 3 else "PAID", payload=i) for i in range(EVENTS)]


def rows_of(folder: Path) -> list[tuple[str, int, int]]:
    with sqlite3.connect(folder / "customers.db") as model:
        return model.execute("SELECT id, orders, total FROM customers ORDER BY id").fetchall()


@pytest.mark.slow
def test_a_read_model_that_is_killed_again_and_again_is_right(tmp_path: Path) -> None:
    async def make() -> None:
        async with open_store(f"sqlite:///{tmp_path}/orders.db") as store:
            await store.init()
            await store.incremental_import(orders())

    asyncio.run(make())
    chance = random.Random(17)
    killed = 0
    while True:
        child = subprocess.Popen(
            [sys.executable, "-c", example()], cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL
        )
        if killed < 12:
            while child.poll() is None and not (tmp_path / "customers.db").exists():
                time.sleep(0.005)
            time.sleep(chance.random() * 0.4)
            child.kill()
        if child.wait(60) == 0:
            break
        killed += 1
    expected: dict[str, tuple[int, int]] = {}
    for event in orders():
        if event["type"] == "ORDERED":
            count, total = expected.get(str(event["aggregateId"]), (0, 0))
            expected[str(event["aggregateId"])] = count + 1, total + int(str(event["payload"]))
    assert rows_of(tmp_path) == sorted((name, *sums) for name, sums in expected.items())
    assert killed > 3
