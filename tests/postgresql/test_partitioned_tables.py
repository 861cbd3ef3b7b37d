"""A table of events that somebody has partitioned: it cannot keep both positions and versions unique."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from eventferry import MANUAL, EventStore, UnsupportedStoreError, check, open_store
from tests.support import NewUrl, Opened, exported, import_lines, make_event, make_lines
from tests.support.postgresql import SAVED, connect

LINES = make_lines(1000)

BY_THREAD = (
    'PARTITION BY HASH ("threadId")',
    "FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
    "FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
)
BY_TIME = (
    'PARTITION BY RANGE ("timestamp")',
    "FOR VALUES FROM (MINVALUE) TO (1600000000500)",
    "FOR VALUES FROM (1600000000500) TO (MAXVALUE)",
)

WRITES: dict[str, Callable[[EventStore], Awaitable[object]]] = {
    "save": lambda store: store.save_event(SAVED),
    "append": lambda store: store.append_events("a", [{"type": "T", "payload": None}]),
    "import": lambda store: import_lines(store, LINES),
    "MANUAL import": lambda store: import_lines(store, LINES, maintenance_mode=MANUAL),
    "incremental import": lambda store: store.incremental_import(iter([make_event(0)])),
    "import in parts": lambda store: store.begin_import(),
    "freeze": lambda store: store.freeze(),
    "secret": lambda store: store.set_secret("id", "secret"),
}


async def partitioned(new_url: NewUrl, how: tuple[str, str, str]) -> str:
    """A store whose events somebody has partitioned, by its URL."""
    url = new_url()
    async with open_store(url) as store:
        await store.init()
        await import_lines(store, LINES)
    with connect(url) as connection:
        by, *parts = how
        connection.execute('ALTER TABLE "events" RENAME TO "whole"')
        connection.execute(f'CREATE TABLE "events" (LIKE "whole") {by}')
        for number, values in enumerate(parts):
            connection.execute(f'CREATE TABLE "part-{number}" PARTITION OF "events" {values}')
        connection.execute('CREATE INDEX ON "events" ("timestamp", "threadCounter", "threadId")')
        connection.execute('INSERT INTO "events" SELECT * FROM "whole"')
    return url


@pytest.mark.parametrize("how", [BY_THREAD, BY_TIME], ids=["by thread", "by time"])
async def test_a_partitioned_table_can_be_read(
    new_url: NewUrl, opened: Opened, how: tuple[str, str, str]
) -> None:
    async with open_store(await partitioned(new_url, how)) as store:
        assert await exported(store) == LINES
        assert "aggregateVersion" in str((await check(store)).remarks)
        async with opened() as copy:
            await import_lines(copy, await exported(store))
            assert await exported(copy) == LINES


async def test_a_partitioned_table_is_not_written_to(new_url: NewUrl) -> None:
    async with open_store(await partitioned(new_url, BY_THREAD)) as store:
        for write in WRITES.values():
            with pytest.raises(UnsupportedStoreError, match="is partitioned"):
                await write(store)
        assert await exported(store) == LINES
