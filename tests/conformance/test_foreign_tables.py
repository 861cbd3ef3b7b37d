"""Tables that another program has under the names of a store's are its own: nothing of ours touches them."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import pytest

from eventferry import StoreExistsError, StoreNotFoundError, open_store
from tests.conformance.test_stores import (
    EVERY_USE,
    OTHER_WRITES,
    WRITES_BY_SOMETHING_ELSE,
    WRITES_THAT_A_FREEZE_REFUSES,
    refused,
    sync_into,
)
from tests.support import NewUrl, exported, import_lines, make_lines, raw

FOREIGN = ("events", "snapshots", "secrets", "subscribers")
BESIDE = [name for name in FOREIGN if name != "events"]


def make_foreign(url: str, *names: str) -> None:
    raw.run(
        url,
        *(f'CREATE TABLE "{name}" ("id" INTEGER PRIMARY KEY, "title" VARCHAR(20))' for name in names),
        *(f"INSERT INTO \"{name}\" VALUES (1, 'precious')" for name in names),
    )


def is_untouched(url: str, *names: str) -> bool:
    return all(raw.run(url, f'SELECT * FROM "{name}"') == [(1, "precious")] for name in names)


async def test_tables_of_another_program_are_no_store(new_url: NewUrl) -> None:
    url = new_url()
    make_foreign(url, *FOREIGN)
    async with open_store(url) as store:
        for name, use in (EVERY_USE | {"upgrade": lambda store: store.upgrade()}).items():
            await refused(store, StoreNotFoundError, name, use)
            assert raw.tables(url) == set(FOREIGN), name
        await refused(store, StoreExistsError, "sync", sync_into)
        assert raw.tables(url) == set(FOREIGN)
        assert is_untouched(url, *FOREIGN)


NO_STORE = {
    "one column less": ('ALTER TABLE "events" DROP COLUMN "payload"',),
    "a column with another name": ('ALTER TABLE "events" RENAME COLUMN "payload" TO "body"',),
    "a view": (
        'ALTER TABLE "events" RENAME TO "theirs"',
        'CREATE VIEW "events" AS SELECT * FROM "theirs"',
    ),
}


@pytest.mark.parametrize("statements", NO_STORE.values(), ids=NO_STORE)
async def test_what_is_almost_a_table_of_events_is_no_store(
    new_url: NewUrl, statements: tuple[str, ...]
) -> None:
    url = new_url()
    async with open_store(url) as store:
        await store.init()
    raw.run(url, *statements)
    before = raw.tables(url)
    async with open_store(url) as store:
        assert not await store.exists()
        for name, use in (EVERY_USE | {"upgrade": lambda store: store.upgrade()}).items():
            await refused(store, StoreNotFoundError, name, use)
        await refused(store, StoreExistsError, "sync", sync_into)
    assert raw.tables(url) == before


WRITES = (
    WRITES_THAT_A_FREEZE_REFUSES
    | OTHER_WRITES
    | {
        "upgrade": lambda store: store.upgrade(),
        "bring_erasures": WRITES_BY_SOMETHING_ELSE["bring_erasures"],
        "sync": sync_into,
    }
)


async def test_a_store_without_all_its_tables_is_read_and_not_changed(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as store:
        await store.init()
        await import_lines(store, make_lines(3))
    make_foreign(url, "theirs")
    whole = raw.tables(url)
    beside = BESIDE if urlsplit(url).scheme == "sqlite" else [*BESIDE, "events-threads"]
    some = {name: WRITES[name] for name in ("save_event", "freeze", "import_events")}
    for table, other, writes in [
        *((name, None, some) for name in beside[:-1]),
        (beside[-1], None, WRITES),
        (beside[-1], "theirs", some),
    ]:
        raw.run(url, f'ALTER TABLE "{table}" RENAME TO "hidden"')
        if other is not None:
            raw.run(url, f'ALTER TABLE "{other}" RENAME TO "{table}"')
        before = raw.tables(url)
        async with open_store(url) as store:
            for name, use in writes.items():
                await refused(store, StoreNotFoundError, f"{name}, without {table}", use)
            assert raw.tables(url) == before
            if table != "events-threads":
                assert await exported(store) == make_lines(3)
        if other is not None:
            raw.run(url, f'ALTER TABLE "{table}" RENAME TO "{other}"')
        raw.run(url, f'ALTER TABLE "hidden" RENAME TO "{table}"')
    assert is_untouched(url, "theirs")
    assert raw.tables(url) == whole
    async with open_store(url) as store:
        assert await exported(store) == make_lines(3)
        await store.save_event({"type": "T", "aggregateId": "new", "aggregateVersion": 1})


async def test_init_beside_them_is_refused(new_url: NewUrl) -> None:
    url = new_url()
    make_foreign(url, "events")
    async with open_store(url) as store:
        with pytest.raises(StoreExistsError):
            await store.init()
    assert raw.tables(url) == {"events"}


@pytest.mark.parametrize("name", BESIDE)
async def test_a_store_is_not_dropped_with_a_table_of_another_program(new_url: NewUrl, name: str) -> None:
    url = new_url()
    async with open_store(url) as store:
        await store.init()
        await import_lines(store, make_lines(3))
    make_foreign(url, "theirs")
    options: dict[str, Any] = {f"{name}_table_name": "theirs"}
    async with open_store(url, **options) as store:
        with pytest.raises(StoreNotFoundError, match="theirs"):
            await store.drop()
    assert is_untouched(url, "theirs")
    async with open_store(url) as store:
        assert await exported(store) == make_lines(3)


@pytest.mark.parametrize("name", ["snapshots", "subscribers"])
async def test_an_import_empties_no_table_of_another_program(new_url: NewUrl, name: str) -> None:
    url = new_url()
    async with open_store(url) as store:
        await store.init()
        await import_lines(store, make_lines(3))
    make_foreign(url, "theirs")
    options: dict[str, Any] = {f"{name}_table_name": "theirs"}
    async with open_store(url, **options) as store:
        with pytest.raises(StoreNotFoundError, match="theirs"):
            await import_lines(store, make_lines(5))
    assert is_untouched(url, "theirs")
    async with open_store(url) as store:
        assert await exported(store) == make_lines(3)
