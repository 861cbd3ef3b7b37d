"""A short storm in every run; `scripts/storm` makes the long one."""

from __future__ import annotations

import asyncio
import os
import random
from typing import Any

import pytest

from tests.support.faults.operations import OPERATIONS
from tests.support.faults.storm import storm
from tests.support.places import DATABASES

pytestmark = pytest.mark.slow

KILLS = 2
AT_ONCE = 5
"""So many of the operations, drawn anew in every run, that it does not take long."""


@pytest.mark.parametrize("database", DATABASES)
def test_operations_that_are_harmed_at_random_moments_lose_and_double_nothing(database: str) -> None:
    seed = int(os.environ.get("EVENTFERRY_SEED") or random.SystemRandom().randrange(2**32))
    print(f"EVENTFERRY_SEED={seed}")
    operations = random.Random(seed).sample(list(OPERATIONS), AT_ONCE)
    records: list[dict[str, Any]] = []
    try:
        tallies = asyncio.run(storm(database, operations, KILLS, seed, records.append))
    except BaseException:
        print("the last round:", records[-1] if records else None)
        raise
    assert list(tallies) == operations
    assert all(tally.kills + tally.server_kills >= KILLS for tally in tallies.values())
    assert len(records) >= KILLS * AT_ONCE
