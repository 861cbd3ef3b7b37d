"""A part of the walk in every run, drawn anew; `scripts/pauses sync` makes the whole."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections.abc import Sequence

import pytest

from tests.support.faults.sync_pauses import OTHERS, WAYS, walk
from tests.support.places import DATABASES

pytestmark = pytest.mark.slow

PAIRS = 4
PAUSES = 4


@pytest.mark.parametrize("database", DATABASES)
def test_a_sync_that_is_paused_notices_before_it_writes(database: str) -> None:
    seed = int(os.environ.get("EVENTFERRY_SEED") or random.SystemRandom().randrange(2**32))
    print(f"EVENTFERRY_SEED={seed}")
    chance = random.Random(seed)
    pairs = chance.sample(list(itertools.product(WAYS, OTHERS)), PAIRS)

    def some(numbers: Sequence[int]) -> list[int]:
        return chance.sample(numbers, min(PAUSES, len(numbers)))

    tallies = asyncio.run(walk(database, pairs, some, tell=print))
    assert sum(pauses for pauses, _ in tallies.values()) >= PAIRS


@pytest.mark.storm
@pytest.mark.parametrize("database", DATABASES)
def test_before_each_statement(database: str) -> None:
    tallies = asyncio.run(walk(database, itertools.product(WAYS, OTHERS), tell=print))
    print(f"{database}: {sum(pauses for pauses, _ in tallies.values())} pauses")
