"""A sync that changes what it brings over loses and doubles nothing, whenever it is killed."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest

from tests.support.faults.changed_syncing import RULES, storm, told
from tests.support.places import DATABASES, Places

pytestmark = pytest.mark.slow

PAIRS = list(zip(DATABASES, (*DATABASES[1:], DATABASES[0]), strict=True))
MODES = ("replica", "merge")


def run(source: str, target: str, mode: str | None, folder: Path, *, kills: int, events: int) -> None:
    seed = int(os.environ.get("EVENTFERRY_SEED") or random.SystemRandom().randrange(2**32))
    print(f"EVENTFERRY_SEED={seed}")
    mode = mode or random.Random(f"{seed} {source} {target}").choice(MODES)
    rules = folder / "rules.toml"
    rules.write_text(RULES)
    (folder / "storm.key").write_bytes(b"a key that only this storm knows")
    with Places(source, folder) as here, Places(target, folder) as there:
        totals = asyncio.run(
            storm(here.new_url(), there.new_url(), rules, mode, kills=kills, events=events, seed=seed)
        )
    print(f"{mode} {source} to {target}: {told(totals)}")
    assert totals.kills >= kills
    assert 0 < totals.events != totals.read


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_sync_with_changes_that_is_killed_loses_and_doubles_nothing(
    source: str, target: str, tmp_path: Path
) -> None:
    run(source, target, None, tmp_path, kills=5, events=300)


@pytest.mark.storm
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_long_storm_of_a_sync_with_changes(source: str, target: str, mode: str, tmp_path: Path) -> None:
    run(source, target, mode, tmp_path, kills=20, events=5_000)
