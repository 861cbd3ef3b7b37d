"""Tables that reSolve made, without reSolve."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from eventferry import (
    MANUAL,
    ConcurrentError,
    ImportReport,
    InputError,
    StoreFrozenError,
    open_store,
)
from tests.support import (
    FAR_FUTURE,
    all_pages,
    as_dict,
    events_of,
    exported,
    import_lines,
    line,
    make_event,
    make_lines,
)
from tests.support.sqlite import (
    SAVED,
    at,
    check_no_gaps,
    connect,
    file_hash,
    journal_mode,
    make_resolve_store,
    make_store,
    names_beside,
    rows,
    unique_columns,
    url_of,
)

RESOLVE_INDEXES = {
    "aggregateIdAndVersion-idx",
    "aggregateId-idx",
    "aggregateVersion-idx",
    "type-idx",
    "timestamp-idx",
}


RESOLVE_OPEN_IMPORT = """CREATE TABLE "events-incremental-import"(
  -- RESOLVE INCREMENTAL-IMPORT 'reSolvesId' OWNED TABLE
  "threadId" BIGINT NOT NULL,
  "threadCounter" BIGINT NULL,
  "timestamp" BIGINT NOT NULL,
  "aggregateId" VARCHAR(700) NOT NULL,
  "aggregateVersion" BIGINT NULL,
  "type" VARCHAR(700) NOT NULL,
  "payload" JSON NULL
)"""


async def blocks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_a_store_of_resolve_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    make_resolve_store(path, 300)
    before = file_hash(path)
    async with open_store(url_of(path)) as store:
        assert await exported(store) == make_lines(300)
        assert await all_pages(store, 7) == events_of(make_lines(300))
        description = await store.describe(calculate_cursor=True)
        assert (description.event_count, description.is_frozen) == (300, False)
        assert description.cursor == store.get_next_cursor(None, events_of(make_lines(300)))
        await store.get_latest_event(aggregate_ids=["aggregate-1"])
        assert (await store.stats()).types.bytes == sum(
            len(f'{{"number":{number}}}') for number in range(300)
        )
    assert file_hash(path) == before
    assert names_beside(path) == set()


async def test_a_store_of_resolve_is_saved_to_and_merged_into(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    make_resolve_store(path, 30)
    async with open_store(url_of(path)) as store:
        await store.save_event(SAVED | {"payload": {"a": 1}})
        with pytest.raises(ConcurrentError):
            await store.save_event(SAVED)
        batch = [*(as_dict(event) for event in events_of(make_lines(30))), at(FAR_FUTURE, {"b": [None, "é"]})]
        assert await store.incremental_import(batch) == ImportReport(1, 30, 0)
        import_id = await store.begin_incremental_import()
        await store.push_incremental_import([*batch, at(FAR_FUTURE, "c")], import_id, part="1")
        assert await store.commit_incremental_import(import_id) == ImportReport(1, 31, 0)
        events = events_of(await exported(store))
        assert [event.payload for event in events[30:]] == [{"a": 1}, {"b": [None, "é"]}, "c"]
        check_no_gaps(await exported(store))
    assert journal_mode(path) == "not wal"
    assert rows(path, "SELECT DISTINCT typeof(payload) FROM events") == [("text",)]
    indexes = {name for _, name, *_ in rows(path, 'PRAGMA index_list("events")')}
    assert indexes >= RESOLVE_INDEXES
    assert len(indexes) == 7


async def test_an_upgrade_adds_the_index_for_the_order_once(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    make_resolve_store(path, 30)
    async with open_store(url_of(path)) as store:
        [added] = await store.upgrade()
        assert await store.upgrade() == []
        assert await exported(store) == make_lines(30)
    assert [name for *_, name in rows(path, f'PRAGMA index_info("{added}")')] == [
        "timestamp",
        "threadCounter",
        "threadId",
    ]
    assert {name for _, name, *_ in rows(path, 'PRAGMA index_list("events")')} >= RESOLVE_INDEXES | {added}
    await make_store(tmp_path / "ours.db", 10)
    async with open_store(url_of(tmp_path / "ours.db")) as store:
        assert await store.upgrade() == []


async def test_an_import_replaces_the_events_of_a_store_of_resolve(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    make_resolve_store(path, 30)
    async with open_store(url_of(path)) as store:
        await import_lines(store, make_lines(100))
        assert await exported(store) == make_lines(100)
        assert await store.upgrade() == []
        await store.save_event(SAVED)
    assert unique_columns(path, "events") == {
        ("threadId", "threadCounter"),
        ("aggregateId", "aggregateVersion"),
    }


async def test_markers_of_resolve_are_understood(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    make_resolve_store(path, 3)
    with connect(path) as other:
        other.execute(
            """CREATE TABLE "events-freeze"(
            -- RESOLVE EVENT STORE "events" FREEZE MARKER
            "surrogate" BIGINT NOT NULL, PRIMARY KEY("surrogate"))"""
        )
        other.execute(RESOLVE_OPEN_IMPORT)
        other.execute(
            'INSERT INTO "events-incremental-import" VALUES (?, NULL, ?, ?, NULL, ?, ?)',
            (5, FAR_FUTURE, "a", "T", '{"by":"reSolve"}'),
        )
    async with open_store(url_of(path)) as store:
        description = await store.describe()
        assert (description.is_frozen, description.frozen_by) == (True, "user")
        assert description.open_import is not None
        assert (description.open_import.id, description.open_import.since) == ("reSolvesId", None)
        with pytest.raises(StoreFrozenError):
            await store.save_event(SAVED)
        await store.unfreeze()
        await store.push_incremental_import([at(FAR_FUTURE, {"by": "us"})], "reSolvesId")
        assert await store.commit_incremental_import("reSolvesId") == ImportReport(2, 0, 0)
        assert [event.payload for event in events_of(await exported(store))][3:] == [
            {"by": "reSolve"},
            {"by": "us"},
        ]


WHITE = [
    ('{ "a" : [ 1 , 2 ] ,\n\t"b" : "  kept  " }\r\n', '{"a":[1,2],"b":"  kept  "}'),
    (" [ ] ", "[]"),
    ('" in a string "', '" in a string "'),
    ('{"tab":"\\t \\u0020","n":1.0}', '{"tab":"\\t \\u0020","n":1.0}'),
    (None, "null"),
    ("null", "null"),
    (" true ", "true"),
]


@pytest.mark.parametrize(("stored", "expected"), WHITE)
async def test_white_space_that_a_foreign_writer_left_is_removed_by_an_export(
    tmp_path: Path, stored: str | None, expected: str
) -> None:
    path = tmp_path / "a.db"
    make_resolve_store(path)
    with connect(path) as other:
        other.execute("INSERT INTO events VALUES (3, 0, 5, 'a', 1, 'T', ?)", (stored,))
    async with open_store(url_of(path)) as store:
        assert (
            await exported(store)
            == (
                '{"threadCounter":0,"threadId":3,"type":"T","timestamp":5,"aggregateId":"a","aggregateVersion":1,'
                f'"payload":{expected}}}\n'
            ).encode()
        )
        again = b'{"type":"T","timestamp":5,"aggregateId":"a","payload":%s}' % expected.encode()
        assert await store.incremental_import(blocks(again)) == ImportReport(0, 1, 0)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (5, "5"),
        (-5, "-5"),
        (1.5, "1.5"),
        (1e21, "1e+21"),
        (1e-7, "1e-7"),
        (123456789012.5, "123456789012.5"),
        (2**53, "9007199254740992"),
        (0.1, "0.1"),
        (1e20, "100000000000000000000"),
    ],
)
async def test_a_number_that_stands_bare_in_a_column_of_resolve_is_written_as_resolve_writes_it(
    tmp_path: Path, number: float, expected: str
) -> None:
    path = tmp_path / "a.db"
    make_resolve_store(path)
    with connect(path) as other:
        other.execute("INSERT INTO events VALUES (3, 0, 5, 'a', 1, 'T', ?)", (json.dumps(number),))
    async with open_store(url_of(path)) as store:
        assert (await exported(store)).endswith(f'"payload":{expected}}}\n'.encode())


LOST = ["12345678901234567890", "0.1000000000000000055511151231257827", "1e400", "-1e400", "1e-400"]


@pytest.mark.parametrize("number", LOST)
async def test_a_bare_number_that_resolves_column_would_rewrite_is_refused_by_line_and_field(
    tmp_path: Path, number: str
) -> None:
    path = tmp_path / "a.db"
    make_resolve_store(path, 3)
    good = line(make_event(5))
    bad = line(make_event(6, payload="@")).replace(b'"@"', number.encode())
    async with open_store(url_of(path)) as store:
        with pytest.raises(InputError) as caught:
            await store.incremental_import(blocks(good + bad))
        assert (caught.value.line, caught.value.field, caught.value.byte_offset) == (2, "payload", len(good))
        with pytest.raises(InputError) as caught:
            await import_lines(store, good + bad, maintenance_mode=MANUAL)
        assert (caught.value.line, caught.value.field, caught.value.byte_offset) == (2, "payload", len(good))
        import_id = await store.begin_incremental_import()
        with pytest.raises(InputError):
            await store.push_incremental_import(blocks(bad), import_id)
        await store.rollback_incremental_import()
        assert await exported(store) == make_lines(3)
        nested = bad.replace(number.encode(), f"[{number}]".encode())
        await store.incremental_import(blocks(nested))
        assert f'"payload":[{number}]'.encode() in await exported(store)


@pytest.mark.parametrize("number", [*LOST, "1.0", "1e0", "-0", "0.10", "1E+2"])
async def test_in_our_own_tables_every_number_survives_as_it_is_spelled(tmp_path: Path, number: str) -> None:
    own = tmp_path / "own.db"
    await make_store(own)
    replaced = tmp_path / "replaced.db"
    make_resolve_store(replaced, 3)
    text = line(make_event(0, payload="@")).replace(b'"@"', number.encode())
    for path in (own, replaced):
        async with open_store(url_of(path)) as store:
            await import_lines(store, text)
            assert await exported(store) == text
            await store.incremental_import(blocks(text.replace(b"aggregate-0", b"another")))
            assert (await exported(store)).count(f'"payload":{number}}}'.encode()) == 2


async def test_a_number_is_not_rewritten_on_its_way_through_a_stage_of_resolve(tmp_path: Path) -> None:
    """The store is ours and keeps numbers; the open import is reSolve's and would not."""
    path = tmp_path / "a.db"
    await make_store(path)
    with connect(path) as other:
        other.execute(RESOLVE_OPEN_IMPORT)
    number = "12345678901234567890"
    text = b'{"type":"T","timestamp":5,"aggregateId":"a","payload":%s}' % number.encode()
    async with open_store(url_of(path)) as store:
        with contextlib.suppress(InputError):  # to refuse it is right too
            await store.push_incremental_import(blocks(text), "reSolvesId")
        await store.commit_incremental_import("reSolvesId")
        payloads = [event.payload for event in events_of(await exported(store))]
        assert payloads in ([], [int(number)])


@pytest.mark.parametrize("number", [5, 1.5, 3.141592653589793, 1e300, 12345678901234567890])
async def test_a_bare_number_as_status_survives_in_a_column_of_resolve_or_is_refused(
    tmp_path: Path, number: float
) -> None:
    path = tmp_path / "a.db"
    make_resolve_store(path)
    async with open_store(url_of(path)) as store:
        await store.ensure_event_subscriber("app", "model", {"at": number}, {"at": number})
        with contextlib.suppress(InputError):
            await store.ensure_event_subscriber("app", "model", {"at": number}, number)
        [row] = await store.get_event_subscribers()
        assert row.destination == {"at": number}
        assert row.status in (number, {"at": number})


NUMBERS = st.one_of(
    st.integers(-(10**22), 10**22).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.decimals(-(10**9), 10**9, allow_nan=False, allow_infinity=False).map(lambda d: f"{d:f}"),
    st.tuples(st.integers(-999, 999), st.integers(-340, 340)).map(lambda pair: f"{pair[0]}e{pair[1]}"),
).filter(lambda text: re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?(e[+-]?\d+)?", text) is not None)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(numbers=["6.982214333749548e-307"])  # Debian's SQLite takes its neighbour
@given(numbers=st.lists(NUMBERS, min_size=1, max_size=40))
async def test_a_bare_number_survives_in_a_column_of_resolve_or_is_refused(
    tmp_path: Path, numbers: list[str]
) -> None:
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.db"
    make_resolve_store(path)
    kept: list[str] = []
    refused: list[tuple[str, str | None]] = []
    async with open_store(url_of(path), journal_mode="wal") as store:
        for place, number in enumerate(numbers):
            text = b'{"type":"T","timestamp":5,"aggregateId":"%d","payload":%s}' % (place, number.encode())
            try:
                await store.incremental_import(blocks(text))
                kept.append(number)
            except InputError as error:
                refused.append((number, error.field))
        found = [
            text.decode().partition(',"payload":')[2][:-1] for text in (await exported(store)).splitlines()
        ]
        assert list(map(Decimal, found)) == list(map(Decimal, kept))
        assert {field for _, field in refused} <= {"payload"}
        assert not any(re.fullmatch(r"-?\d{1,15}", number) for number, _ in refused)
