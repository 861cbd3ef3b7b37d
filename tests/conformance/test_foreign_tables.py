"""Tables that another program has under the names of a store's are its own: nothing of ours touches them."""

from __future__ import annotations

from typing import Any

import pytest

from eventferry import StoreExistsError, StoreNotFoundError, open_store
from tests.conformance.test_stores import EVERY_USE, refused
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
            assert is_untouched(url, *FOREIGN), name


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
