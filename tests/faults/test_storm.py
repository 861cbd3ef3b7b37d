"""A short storm in every run; `scripts/storm` makes the long one."""

from __future__ import annotations

import asyncio
import os
import random
from typing import Any

import pytest

from tests.faults.operations import OPERATIONS
from tests.faults.storm import storm
from tests.places import DATABASES

KILLS = 4


@pytest.mark.parametrize("database", DATABASES)
def test_operations_that_are_harmed_at_random_moments_lose_and_double_nothing(database: str) -> None:
    seed = int(os.environ.get("EVENTFERRY_SEED") or random.SystemRandom().randrange(2**32))
    print(f"EVENTFERRY_SEED={seed}")
    records: list[dict[str, Any]] = []
    try:
        tallies = asyncio.run(storm(database, list(OPERATIONS), KILLS, seed, records.append))
    except BaseException:
        print("the last round:", records[-1] if records else None)
        raise
    assert len(tallies) == len(OPERATIONS)
    assert all(tally.kills + tally.server_kills >= KILLS for tally in tallies.values())
    assert {record["outcome"] for record in records} >= {"old", "new"}
