"""A short storm of sync in every run; `scripts/storm sync` makes the long one."""

from __future__ import annotations

import asyncio
import os
import random

import pytest

from tests.support.faults.syncing import MODES, PAIRS, storm, told

pytestmark = pytest.mark.slow

KILLS = 6


def run(source: str, target: str, mode: str | None, kills: int) -> None:
    seed = int(os.environ.get("EVENTFERRY_SEED") or random.SystemRandom().randrange(2**32))
    print(f"EVENTFERRY_SEED={seed}")
    mode = mode or random.Random(f"{seed} {source} {target}").choice(MODES)
    totals = asyncio.run(storm(source, target, mode, kills, seed))
    print(f"{mode} {source} to {target}: {told(totals)}")
    assert totals.struck >= kills
    assert totals.events > totals.saved


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_sync_that_is_harmed_at_random_moments_loses_and_doubles_nothing(source: str, target: str) -> None:
    run(source, target, None, KILLS)


@pytest.mark.storm
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_long_storm(source: str, target: str, mode: str) -> None:
    run(source, target, mode, 200)
