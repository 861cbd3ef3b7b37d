"""A sync that follows a table of PostgreSQL loses, doubles and reorders nothing, however late transactions commit."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import msgspec
import pytest

from eventferry.sources.mapping import Position
from tests.support.faults.table_syncing import storm, told
from tests.support.foreign.own import mapping, own_table
from tests.support.places import DATABASES, Places

pytestmark = pytest.mark.slow

KINDS = ("sequence", "transaction")


def run(kind: str, target: str, folder: Path, *, kills: int, events: int) -> None:
    seed = int(os.environ.get("EVENTFERRY_SEED") or random.SystemRandom().randrange(2**32))
    print(f"EVENTFERRY_SEED={seed}")
    read, order = mapping(), "id"
    with own_table("postgresql", folder) as table, Places(target, folder) as places:
        if kind == "transaction":
            table.run("ALTER TABLE events ADD COLUMN transaction xid8 NOT NULL DEFAULT pg_current_xact_id()")
            select = "SELECT id AS position, stream AS aggregate, type, data, at AS time, transaction FROM {events}"
            read, order = (
                msgspec.structs.replace(read, select=select, position=Position(kind="transaction")),
                "transaction, id",
            )
        totals = asyncio.run(
            storm(table, read, order, places.new_url(), kills=kills, events=events, seed=seed)
        )
    print(f"{kind} to {target}: {told(totals)}")
    assert totals.late > 0
    assert totals.rolled_back > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_sync_that_is_killed_while_transactions_commit_late_misses_nothing(
    kind: str, tmp_path: Path
) -> None:
    run(kind, DATABASES[0], tmp_path, kills=5, events=500)


@pytest.mark.storm
@pytest.mark.parametrize("target", DATABASES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_long_storm(kind: str, target: str, tmp_path: Path) -> None:
    run(kind, target, tmp_path, kills=40, events=20_000)
