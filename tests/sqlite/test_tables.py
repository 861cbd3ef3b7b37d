"""Places, names, tables and options of a store."""

from __future__ import annotations

import contextlib
import os
import random
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventferry import (
    AUTO,
    MANUAL,
    DatabaseError,
    EventferryError,
    ImportReport,
    InputError,
    StoreBusyError,
    StoreExistsError,
    StoreFrozenError,
    StoreNotFoundError,
    UnsupportedStoreError,
    UsageError,
    open_store,
    pipeline,
)
from tests.support import (
    FAR_FUTURE,
    exported,
    import_lines,
    make_lines,
)
from tests.support.sqlite import (
    KEY,
    SAVED,
    at,
    connect,
    file_hash,
    make_resolve_store,
    make_store,
    names_beside,
    rows,
    unique_columns,
    url_of,
)

# places


async def test_a_store_in_memory_is_private_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    async with open_store("sqlite://:memory:") as store, open_store("sqlite://:memory:") as other:
        await store.init()
        await other.init()
        await import_lines(store, make_lines(300))
        await store.incremental_import([at(FAR_FUTURE, 1)])
        assert (await store.describe()).event_count == 301
        assert await exported(other) == b""
    assert list(tmp_path.iterdir()) == []


async def test_a_missing_file_is_no_store_and_is_not_made(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.db", tmp_path / "missing" / "a.db"):
        async with open_store(url_of(path)) as store:
            assert await store.exists() is False
            calls: list[Callable[[], Any]] = [
                store.describe,
                store.drop,
                store.freeze,
                store.unfreeze,
                store.upgrade,
                store.begin_incremental_import,
                store.rollback_incremental_import,
                store.get_latest_event,
                store.get_event_subscribers,
                lambda: store.save_event(SAVED),
                lambda: exported(store),
                lambda: exported(store, maintenance_mode=AUTO),
                lambda: import_lines(store, make_lines(1)),
                lambda: import_lines(store, make_lines(1), maintenance_mode=MANUAL),
                lambda: store.incremental_import([]),
                lambda: store.load_events(limit=1, cursor=None),
                lambda: store.get_event_loader(cursor=None),
                lambda: store.set_secret("id", KEY),
                lambda: store.get_secret("id"),
                lambda: store.save_snapshot("key", "content"),
            ]
            for call in calls:
                with pytest.raises(StoreNotFoundError, match=r"missing"):
                    await call()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("length", [237, 250, 255])
async def test_a_name_that_is_too_long_for_a_store_is_refused_before_a_file_is_made(
    tmp_path: Path, length: int
) -> None:
    async with open_store(str(tmp_path / f"{'x' * (length - 3)}.db")) as store:
        with pytest.raises(UsageError, match="name is too long"):
            await store.init()
    assert os.listdir(tmp_path) == []


async def test_a_name_that_a_store_can_have_will_do(tmp_path: Path) -> None:
    async with open_store(str(tmp_path / f"{'x' * 233}.db")) as store:
        await store.init()
        await import_lines(store, make_lines(1))
        assert (await store.describe()).event_count == 1


async def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.write_bytes(b"These are the notes of somebody, and no database.\n" * 200)
    before = file_hash(path)
    async with open_store(url_of(path)) as store:
        for call in (store.describe, store.init, lambda: store.save_event(SAVED), lambda: exported(store)):
            with pytest.raises(DatabaseError, match="not a SQLite database"):
                await call()
    assert file_hash(path) == before


async def test_a_database_of_somebody_else_is_no_store_until_one_is_made_in_it(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with connect(path) as other:
        other.execute("CREATE TABLE theirs(a)")
        other.execute("INSERT INTO theirs VALUES (7)")
    async with open_store(url_of(path)) as store:
        assert await store.exists() is False
        with pytest.raises(StoreNotFoundError):
            await store.describe()
        with pytest.raises(StoreNotFoundError):
            await store.save_event(SAVED)
        await store.init()
        await store.save_event(SAVED)
        await store.drop()
    assert rows(path, "SELECT name FROM sqlite_master") == [("theirs",)]
    assert rows(path, "SELECT a FROM theirs") == [(7,)]


async def test_a_table_in_the_way_makes_init_refuse_and_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with connect(path) as other:
        other.execute("CREATE TABLE secrets(a)")
    before = file_hash(path)
    async with open_store(url_of(path)) as store:
        with pytest.raises(StoreExistsError, match="secrets"):
            await store.init()
    assert file_hash(path) == before


@pytest.mark.parametrize("name", ["a b.db", "50%41.db", "a?b#c.db", "é😀.db", "it's.db", "a&b=c.sqlite3"])
async def test_a_plain_path_is_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for place in (name, str(tmp_path / f"absolute {name}")):
        async with open_store(place) as store:
            await store.init()
            await store.save_event(SAVED)
    assert {path.name for path in tmp_path.iterdir()} == {name, f"absolute {name}"}


async def test_three_slashes_are_relative_and_four_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ("sqlite:///relative.db", f"sqlite:///{tmp_path}/absolute.db", "sqlite:///a%20b.db"):
        async with open_store(url) as store:
            await store.init()
    assert {path.name for path in tmp_path.iterdir()} == {"relative.db", "absolute.db", "a b.db"}


def columns(path: Path, table: str) -> list[tuple[str, str, int]]:
    return [
        (name, kind, not_null) for _, name, kind, not_null, *_ in rows(path, f'PRAGMA table_info("{table}")')
    ]


# tables


@pytest.mark.parametrize("replaced", [False, True])
async def test_the_tables_that_are_made_have_the_columns_of_resolve(tmp_path: Path, replaced: bool) -> None:
    ours, theirs = tmp_path / "ours.db", tmp_path / "theirs.db"
    make_resolve_store(theirs)
    await make_store(ours, 100 if replaced else 0)
    for table in ("events", "snapshots", "subscribers", "secrets"):
        expected = [
            # JSON would rewrite bare numbers; TEXT those that reSolve's incremental import brings.
            (name, kind if kind != "JSON" else "BLOB" if name == "payload" else "TEXT", not_null)
            for name, kind, not_null in columns(theirs, table)
        ]
        assert columns(ours, table) == expected
        assert unique_columns(ours, table) == unique_columns(theirs, table)
    assert unique_columns(ours, "events") == {
        ("threadId", "threadCounter"),
        ("aggregateId", "aggregateVersion"),
    }


async def test_markers_are_the_tables_that_resolve_looks_for(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await make_store(path)

    def tables() -> set[str]:
        return {name for (name,) in rows(path, "SELECT name FROM sqlite_master WHERE type = 'table'")}

    whole = tables()
    async with open_store(url_of(path)) as store:
        import_id = await store.begin_incremental_import()
        assert tables() - whole == {"events-incremental-import"}
        [(sql,)] = rows(path, "SELECT sql FROM sqlite_master WHERE name = 'events-incremental-import'")
        assert f"-- RESOLVE INCREMENTAL-IMPORT '{import_id}' OWNED TABLE" in sql
        await store.freeze()
        assert tables() - whole == {"events-incremental-import", "events-freeze"}
        await store.unfreeze()
        await store.rollback_incremental_import()
        assert tables() == whole
        await import_lines(store, make_lines(10))
        await store.incremental_import([at(FAR_FUTURE, 1)])
        assert tables() == whole


NAMES = [
    "Events",
    "two words",
    'quo"ted',
    "it's",
    "таблица 😀",
    "semi;colon",
    "-- comment",
    "%_",
    "[b]",
    "`b`",
]


@pytest.mark.parametrize("name", NAMES)
async def test_tables_may_have_any_name(tmp_path: Path, name: str) -> None:
    options: dict[str, Any] = {
        "events_table_name": name,
        "snapshots_table_name": f"{name} snapshots",
        "secrets_table_name": f"{name} secrets",
        "subscribers_table_name": f"{name} subscribers",
    }
    async with open_store(url_of(tmp_path / "a.db"), **options) as store:
        await store.init()
        await import_lines(store, make_lines(20))
        await store.freeze()
        with pytest.raises(StoreFrozenError):
            await store.save_event(SAVED)
        assert (await store.describe()).is_frozen
        await store.unfreeze()
        await store.save_event(SAVED)
        import_id = await store.begin_incremental_import()
        await store.push_incremental_import([at(FAR_FUTURE, 1)], import_id, part="1")
        assert await store.commit_incremental_import(import_id) == ImportReport(1, 0, 0)
        await store.set_secret("id", KEY)
        assert await store.delete_secret("id")
        await store.save_snapshot("key", "content")
        await import_lines(store, await exported(store))
        assert await store.load_snapshot("key") is None
        await store.ensure_event_subscriber("app", "model", 1)
        assert (await store.describe()).resource_names["eventsTableName"] == name
    tables = rows(tmp_path / "a.db", "SELECT name FROM sqlite_master WHERE type = 'table'")
    assert {table for (table,) in tables} == set(options.values())
    async with open_store(url_of(tmp_path / "a.db"), **options) as store:
        await store.drop()
    assert rows(tmp_path / "a.db", "SELECT name FROM sqlite_master") == []


@pytest.mark.parametrize("name", ["", "a\nb", "a\0", "\t", "\x1b[31m", "a\r"], ids=repr)
@pytest.mark.parametrize("option", ["events", "snapshots", "secrets", "subscribers"])
def test_a_table_name_with_control_characters_is_refused(tmp_path: Path, option: str, name: str) -> None:
    options: dict[str, Any] = {f"{option}_table_name": name}
    with pytest.raises(UsageError):
        open_store(url_of(tmp_path / "a.db"), **options)


def names_of(events: str) -> dict[str, Any]:
    return {
        f"{kind}_table_name": f"{events}-{kind}" for kind in ("events", "snapshots", "secrets", "subscribers")
    }


async def test_two_stores_live_in_one_file(tmp_path: Path) -> None:
    url = url_of(tmp_path / "a.db")
    async with open_store(url, **names_of("one")) as one, open_store(url, **names_of("two")) as two:
        await one.init()
        await two.init()
        for count in (10, 20, 30):
            await import_lines(one, make_lines(count))
            await import_lines(two, make_lines(2 * count))
        await one.freeze()
        await two.save_event(SAVED)
        await two.set_secret("id", KEY)
        opened_id = await two.begin_incremental_import()
        await one.unfreeze()
        assert (await one.describe()).open_import is None
        assert await one.get_secret("id") is None
        assert await exported(one) == make_lines(30)
        await one.drop()
        assert await two.commit_incremental_import(opened_id) == ImportReport(0, 0, 0)
        assert (await two.describe()).event_count == 62


async def test_two_imports_into_two_stores_of_one_file_go_on_at_once(tmp_path: Path) -> None:
    url = url_of(tmp_path / "a.db")
    async with open_store(url, **names_of("one")) as one, open_store(url, **names_of("two")) as two:
        await one.init()
        await two.init()
        async with one.import_events() as first, two.import_events() as second:
            await first.write(make_lines(100))
            await second.write(make_lines(200))
        assert await exported(one) == make_lines(100)
        assert await exported(two) == make_lines(200)


async def test_triggers_of_the_user_make_the_swap_refuse_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await make_store(path, 10)
    with connect(path) as other:
        other.execute("CREATE TABLE log(a)")
        other.execute(
            'CREATE TRIGGER "their trigger" AFTER INSERT ON Events BEGIN INSERT INTO log VALUES (1); END'
        )
    async with open_store(url_of(path)) as store:
        with pytest.raises(UnsupportedStoreError, match="their trigger"):
            await store.import_events().begin()  # before the first event has come
        assert await exported(store) == make_lines(10)
        assert not (await store.describe()).is_frozen
        await store.save_event(SAVED)
        await store.incremental_import([at(FAR_FUTURE, 1)])
    assert rows(path, "SELECT count(*) FROM log") == [(2,)]


async def test_views_of_the_user_outlive_the_swap(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await make_store(path, 10)
    with connect(path) as other:
        other.execute("CREATE VIEW theirs AS SELECT type, count(*) AS n FROM events GROUP BY type")
    async with open_store(url_of(path)) as store:
        await import_lines(store, make_lines(30))
    assert rows(path, "SELECT sum(n) FROM theirs") == [(30,)]


# options


@pytest.mark.parametrize(
    "url", ["sqlite://a.db", "sqlite:///", "sqlite:///a.db?colour=red", "sqlite:///a.db?busy_timeout=soon"]
)
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        open_store(url)


async def test_options_come_in_the_url_too(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    url = f"{url_of(path)}?events_table_name=mine&busy_timeout=0.2"
    async with open_store(url) as store:
        await store.init()
        assert (await store.describe()).resource_names["eventsTableName"] == "mine"
        with connect(path) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreBusyError):
                await store.save_event(SAVED)
    with pytest.raises(UsageError):
        open_store(url, events_table_name="other")


async def test_every_error_of_a_broken_file_is_one_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await make_store(path, 3000, journal_mode="delete")
    content = bytearray(path.read_bytes())
    content[4096 * 3 :] = random.Random(1).randbytes(len(content) - 4096 * 3)
    path.write_bytes(content)
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)
    async with open_store(url_of(path)) as store:
        for call in (lambda: exported(store), store.describe, lambda: store.save_event(SAVED)):
            with pytest.raises(EventferryError):
                await call()


@pytest.mark.parametrize("good", [True, False])
async def test_an_import_that_froze_the_store_leaves_nothing_but_the_tables_of_a_store(
    tmp_path: Path, good: bool
) -> None:
    """reSolve looks for the marker's table and cannot know that its owner is dead."""
    path = tmp_path / "a.db"
    await make_store(path, 5)
    async with open_store(url_of(path)) as store:
        with contextlib.nullcontext() if good else pytest.raises(InputError):
            await import_lines(store, make_lines(9) + (b"" if good else b"{bad\n"), freeze=True)
    tables = {name for (name,) in rows(path, "SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert tables == {"events", "snapshots", "secrets", "subscribers"}
    assert names_beside(path) == set()


async def test_an_import_killed_between_its_indexes_and_its_swap_goes_on_with_one_set_of_indexes(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.db"
    await make_store(path)
    lines = make_lines(50)
    async with open_store(url_of(path)) as store:
        stream = store.import_events()
        await stream.write(lines)
        stream.stop()
        await stream.close()
    [(stage,)] = rows(path, "SELECT name FROM sqlite_master WHERE name LIKE 'events-stage-%'")
    with connect(path) as other:  # as the killed process left it: all events staged, their indexes made
        other.execute(f'CREATE UNIQUE INDEX x ON "{stage}"("threadId", "threadCounter")')
        other.execute(f'CREATE UNIQUE INDEX y ON "{stage}"("aggregateId", "aggregateVersion")')
        other.execute(f'CREATE INDEX z ON "{stage}"("timestamp", "threadCounter", "threadId")')
    async with open_store(url_of(path)) as store:
        await pipeline([lines], store.import_events(resume=True))
        assert await exported(store) == lines
    indexes = rows(path, "SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = 'events'")
    assert sorted(indexes) == [("x",), ("y",), ("z",)]
