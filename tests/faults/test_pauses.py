"""A part of the walk in every run, drawn anew; `scripts/pauses` makes the whole."""

from __future__ import annotations

import asyncio
import os
import random

import pytest

from tests.support.faults.pauses import OTHERS, PAUSED, walk
from tests.support.places import DATABASES

pytestmark = pytest.mark.slow

PAIRS = 4
PAUSES = 4


@pytest.mark.parametrize("database", DATABASES)
def test_an_operation_that_is_paused_and_loses_its_lock_loses_and_mixes_nothing(database: str) -> None:
    seed = int(os.environ.get("EVENTFERRY_SEED") or random.SystemRandom().randrange(2**32))
    print(f"EVENTFERRY_SEED={seed}")
    chance = random.Random(seed)
    pairs = [(chance.choice(list(PAUSED)), chance.choice(list(OTHERS))) for _ in range(PAIRS)]

    def some(count: int) -> list[int]:
        return chance.sample(range(1, count + 1), min(PAUSES, count))

    tallies = asyncio.run(walk(database, pairs, some, tell=print))
    assert sum(pauses for pauses, _ in tallies.values()) >= PAIRS
