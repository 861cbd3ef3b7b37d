"""Files of other programs, and files that were made in other ways: what is no store is left alone, and what would keep
events in another way than they came is refused by name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventferry import (
    AUTO,
    MANUAL,
    EventferryError,
    EventStore,
    NotFrozenError,
    StoreExistsError,
    StoreNotFoundError,
    UnsupportedStoreError,
    open_store,
)
from tests.support import FAR_FUTURE, exported, import_lines, make_event, make_lines
from tests.support.sqlite import (
    KEY,
    RESOLVE_TABLES,
    SAVED,
    at,
    connect,
    file_hash,
    make_resolve_store,
    make_store,
    names_beside,
    rows,
    url_of,
)


def calls(store: EventStore) -> list[Callable[[], Any]]:
    """A call of each kind, first those that change a store."""
    return [
        store.drop,
        store.freeze,
        store.unfreeze,
        store.upgrade,
        store.begin_incremental_import,
        store.rollback_incremental_import,
        lambda: store.save_event(SAVED),
        lambda: store.set_secret("id", KEY),
        lambda: store.save_snapshot("key", "content"),
        lambda: store.drop_snapshot("key"),
        lambda: store.incremental_import([at(FAR_FUTURE, 1)]),
        lambda: import_lines(store, make_lines(5)),
        lambda: import_lines(store, [make_event(20)], maintenance_mode=MANUAL),
        lambda: exported(store, maintenance_mode=AUTO),
        store.describe,
        lambda: exported(store),
        lambda: store.load_events(limit=10, cursor=None),
    ]


def made(path: Path, script: str) -> str:
    """A file that a script makes; its hash."""
    with connect(path) as other:
        other.executescript(script)
    return file_hash(path)


OTHERS = {
    "other columns": "CREATE TABLE events(id INTEGER PRIMARY KEY, name TEXT); CREATE TABLE snapshots(a);",
    "one column less": RESOLVE_TABLES.replace('"payload" JSON NULL,', ""),
    "another name": RESOLVE_TABLES.replace('"payload"', '"body"'),
    "a generated column": RESOLVE_TABLES.replace('"payload" JSON NULL', "\"payload\" AS ('x')"),
    "a view": """CREATE TABLE e("threadId", "threadCounter", "timestamp", "aggregateId", "aggregateVersion", "type",
      "payload"); CREATE VIEW events AS SELECT * FROM e;""",
}


@pytest.mark.parametrize("script", OTHERS.values(), ids=OTHERS)
async def test_tables_of_another_program_are_no_store(tmp_path: Path, script: str) -> None:
    path = tmp_path / "a.db"
    if "generated" in script or " AS (" in script:
        script = "; ".join(part for part in script.split(";") if "INDEX" not in part)
    before = made(
        path, f"{script}; INSERT INTO snapshots VALUES (7);" if "snapshots(a)" in script else script
    )
    async with open_store(url_of(path)) as store:
        assert await store.exists() is False
        for call in calls(store):
            with pytest.raises(StoreNotFoundError, match="events"):
                await call()
        with pytest.raises(StoreExistsError):
            await store.init()
    assert file_hash(path) == before
    assert names_beside(path) == set()


@pytest.mark.parametrize("table", ["snapshots", "secrets", "subscribers"])
@pytest.mark.parametrize("as_is", ["missing", "another program's"])
async def test_a_store_whose_tables_are_not_all_there_is_not_changed(
    tmp_path: Path, table: str, as_is: str
) -> None:
    path = tmp_path / "a.db"
    make_resolve_store(path, 10)
    before = made(path, f"DROP TABLE {table};" + (f"CREATE TABLE {table}(a)" if as_is != "missing" else ""))
    async with open_store(url_of(path)) as store:
        assert await exported(store) == make_lines(10)
        for call in calls(store)[:-3]:
            with pytest.raises(StoreNotFoundError, match=table):
                await call()
    assert file_hash(path) == before


CHANGED = {
    "texts in UTF-16": ("UTF-16le", lambda sql: f"PRAGMA encoding = 'UTF-16le'; {sql}"),
    "texts in UTF-16, the other way round": ("UTF-16be", lambda sql: f"PRAGMA encoding = 'UTF-16be'; {sql}"),
    "case that does not matter": (
        "COLLATE",
        lambda sql: sql.replace('"aggregateId" VARCHAR(700)', '"aggregateId" VARCHAR(700) COLLATE NOCASE', 1),
    ),
    "blanks that do not matter": (
        "COLLATE",
        lambda sql: sql.replace('"id" VARCHAR(700)', '"id" VARCHAR(700) COLLATE rtrim', 1),
    ),
    "ids that become numbers": (
        "declared UUID",
        lambda sql: sql.replace('"aggregateId" VARCHAR(700)', '"aggregateId" UUID', 1),
    ),
    "types that become numbers": (
        "declared STRING",
        lambda sql: sql.replace('"type" VARCHAR(700)', '"type" STRING', 1),
    ),
    "contents that become numbers": (
        "declared JSON",
        lambda sql: sql.replace('"content" TEXT', '"content" JSON', 1),
    ),
    "times in order of letters": (
        "declared TEXT",
        lambda sql: sql.replace('"timestamp" BIGINT', '"timestamp" TEXT', 1),
    ),
    "counters that are floats": (
        "declared DOUBLE",
        lambda sql: sql.replace('"threadCounter" BIGINT', '"threadCounter" DOUBLE', 1),
    ),
    "no rowid": (
        "WITHOUT ROWID",
        lambda sql: sql.replace(
            'UNIQUE("aggregateId", "aggregateVersion")\n)',
            'UNIQUE("aggregateId", "aggregateVersion")\n) WITHOUT ROWID',
            1,
        ),
    ),
}


@pytest.mark.parametrize(("words", "change"), CHANGED.values(), ids=CHANGED)
async def test_a_file_that_would_keep_events_in_another_way_is_refused_by_name(
    tmp_path: Path, words: str, change: Callable[[str], str]
) -> None:
    path = tmp_path / "a.db"
    before = made(path, change(RESOLVE_TABLES))
    async with open_store(url_of(path)) as store:
        for call in calls(store):
            with pytest.raises(UnsupportedStoreError, match=words):
                await call()
    assert file_hash(path) == before


async def test_no_store_is_made_in_a_file_in_utf_16(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    before = made(path, "PRAGMA encoding = 'UTF-16le'; CREATE TABLE settings(a)")
    async with open_store(url_of(path)) as store:
        with pytest.raises(UnsupportedStoreError, match="UTF-16le"):
            await store.init()
    assert file_hash(path) == before


KEPT = {
    "small pages": "PRAGMA page_size = 512",
    "large pages": "PRAGMA page_size = 65536",
    "pages that are given back": "PRAGMA auto_vacuum = FULL",
    "incremental vacuum": "PRAGMA auto_vacuum = INCREMENTAL",
    "an old format": "PRAGMA legacy_file_format = ON",
    "a number of the application's": "PRAGMA user_version = 7; PRAGMA application_id = 7",
}


@pytest.mark.parametrize("pragma", KEPT.values(), ids=KEPT)
async def test_what_comes_in_comes_out_of_a_file_with_other_settings(tmp_path: Path, pragma: str) -> None:
    path = tmp_path / "a.db"
    made(path, f"{pragma}; CREATE TABLE theirs(a); INSERT INTO theirs VALUES (7)")
    async with open_store(url_of(path)) as store:
        await store.init()
        await import_lines(store, make_lines(300))
        await store.save_event(SAVED)
        await store.incremental_import([at(FAR_FUTURE, "new")])
        assert (await exported(store)).count(b"\n") == 302
        await store.drop()
    assert rows(path, "SELECT a FROM theirs") == [(7,)]


async def test_a_strict_table_keeps_what_comes_in(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    sql = RESOLVE_TABLES.replace("VARCHAR(700)", "TEXT").replace("BIGINT", "INTEGER").replace("JSON", "TEXT")
    made(path, sql.replace('"aggregateVersion")\n);', '"aggregateVersion")\n) STRICT;', 1))
    async with open_store(url_of(path)) as store:
        await store.save_event(SAVED | {"payload": 5})
        await store.incremental_import([at(FAR_FUTURE, "007")])
        assert [event.payload for event in (await store.load_events(limit=9, cursor=None)).events] == [
            5,
            "007",
        ]


async def test_rows_that_refer_to_events_stay_when_these_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await make_store(path, 20)
    made(
        path,
        """CREATE TABLE notes(thread, counter, note,
          FOREIGN KEY(thread, counter) REFERENCES events("threadId", "threadCounter") ON DELETE CASCADE);
        INSERT INTO notes SELECT "threadId", "threadCounter", 'theirs' FROM events LIMIT 5""",
    )
    async with open_store(url_of(path)) as store:
        await import_lines(store, make_lines(30))
        assert await exported(store) == make_lines(30)
    assert rows(path, "SELECT count(*) FROM notes") == [(5,)]
    assert "REFERENCES events" in rows(path, "SELECT sql FROM sqlite_master WHERE name = 'notes'")[0][0]


async def test_an_event_that_a_trigger_leaves_out_is_not_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await make_store(path, 5)
    made(
        path,
        "CREATE TRIGGER t BEFORE INSERT ON events WHEN new.type != 'KEPT' BEGIN SELECT RAISE(IGNORE); END",
    )
    async with open_store(url_of(path)) as store:
        kept = at(FAR_FUTURE, 1) | {"type": "KEPT"}
        left_out: list[Callable[[], Any]] = [
            lambda: store.save_event(SAVED),
            lambda: store.incremental_import([kept, at(FAR_FUTURE, 2), kept | {"timestamp": FAR_FUTURE + 1}]),
            lambda: import_lines(store, [make_event(20)], maintenance_mode=MANUAL),
        ]
        for call in left_out:
            with pytest.raises(UnsupportedStoreError, match="trigger"):
                await call()
        assert await exported(store) == make_lines(5)
        await store.save_event(SAVED | {"type": "KEPT"})
        assert (await store.describe()).event_count == 6


@pytest.mark.parametrize("what", ["INSERT", "UPDATE"])
async def test_a_secret_that_a_trigger_leaves_as_it_is_is_not_acknowledged(tmp_path: Path, what: str) -> None:
    path = tmp_path / "a.db"
    await make_store(path)
    async with open_store(url_of(path)) as store:
        await store.set_secret("old", KEY)
        made(path, f"CREATE TRIGGER t BEFORE {what} ON secrets BEGIN SELECT RAISE(IGNORE); END")
        with pytest.raises(UnsupportedStoreError, match="trigger"):
            await (store.set_secret("new", KEY) if what == "INSERT" else store.delete_secret("old"))
        assert await store.get_secret("old") == KEY


HUNG_ON = {
    "a trigger": "CREATE TRIGGER theirs AFTER INSERT ON events BEGIN SELECT 1; END",
    "a column": "ALTER TABLE events ADD COLUMN theirs TEXT DEFAULT 'x'",
    "a generated column": "ALTER TABLE events ADD COLUMN theirs AS (type || 'x')",
}


@pytest.mark.parametrize("script", HUNG_ON.values(), ids=HUNG_ON)
async def test_what_replacing_the_events_would_lose_is_refused_before_the_work_and_at_its_end(
    tmp_path: Path, script: str
) -> None:
    path = tmp_path / "a.db"
    await make_store(path, 20)
    async with open_store(url_of(path)) as store:
        stream = store.import_events()
        await stream.write(make_lines(30))
        made(path, script)
        with pytest.raises(UnsupportedStoreError, match="theirs"):
            await stream.close()
        assert await exported(store) == make_lines(20)
        with pytest.raises(UnsupportedStoreError, match="theirs"):
            await store.import_events().begin()
        await store.save_event(SAVED)
    assert len(rows(path, "SELECT 1 FROM sqlite_master WHERE type = 'table'")) == 4


SUFFIXES = [
    "-freeze",
    "-FREEZE",
    "-incremental-import",
    "-import",
    "-import-progress",
    "-stage-0123456789ab",
    "-steps-0123456789ab",
    "-merge-0123456789ab",
]


@pytest.mark.parametrize("suffix", SUFFIXES)
async def test_a_neighbour_whose_tables_are_called_as_a_marker_or_a_stage_is_left_alone(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / "a.db"

    def named(events: str) -> dict[str, Any]:
        others = {
            f"{what}_table_name": f"{events} {what}" for what in ("snapshots", "secrets", "subscribers")
        }
        return {"events_table_name": events} | others

    with connect(path) as other:
        for events in ("orders", f"orders{suffix}"):
            sql = RESOLVE_TABLES.replace('"events"', f'"{events}"').replace("-idx", f"-idx of {events}")
            for what in ("snapshots", "secrets", "subscribers"):
                sql = sql.replace(f'"{what}"', f'"{events} {what}"')
            other.executescript(sql.replace("idx-index", f"idx-index of {events}"))
        other.execute(
            f'INSERT INTO "orders{suffix}" VALUES (?, ?, ?, ?, ?, ?, ?)', (0, 0, 1, "precious", 1, "T", "1")
        )
    async with open_store(url_of(path), **named("orders")) as store:
        assert not (await store.describe()).is_frozen
        for call in (*calls(store)[1:], store.drop):
            with contextlib.suppress(EventferryError):
                await call()
            found = rows(path, f'SELECT "aggregateId" FROM "orders{suffix}"')
            assert found == [("precious",)], call


async def test_a_name_that_a_neighbour_has_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await make_store(path)
    made(path, 'CREATE TABLE "events-freeze"(a); CREATE TABLE "Events-Incremental-Import"(a)')
    async with open_store(url_of(path)) as store:
        with pytest.raises(UnsupportedStoreError, match="events-freeze"):
            await store.freeze()
        with pytest.raises(NotFrozenError):
            await store.unfreeze()
        with pytest.raises(UnsupportedStoreError, match="events-incremental-import"):
            await store.begin_incremental_import()
        await store.save_event(SAVED)
