"""A part of the walk in every run, drawn anew; `scripts/pauses cutover` makes the whole."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Sequence

import pytest

from tests.support.faults.cutover_pauses import OTHERS, walk
from tests.support.places import DATABASES

pytestmark = pytest.mark.slow

WHICH = 3
PAUSES = 4


@pytest.mark.parametrize("database", DATABASES)
def test_a_cutover_that_is_paused_loses_no_event_of_its_source(database: str) -> None:
    seed = int(os.environ.get("EVENTFERRY_SEED") or random.SystemRandom().randrange(2**32))
    print(f"EVENTFERRY_SEED={seed}")
    chance = random.Random(seed)

    def some(numbers: Sequence[int]) -> list[int]:
        return chance.sample(numbers, min(PAUSES, len(numbers)))

    tallies = asyncio.run(walk(database, chance.sample(OTHERS, WHICH), some, tell=print))
    assert sum(pauses for pauses, _ in tallies.values()) >= WHICH
