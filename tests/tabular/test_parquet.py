"""Parquet: what is written is what DuckDB gets, and what comes back."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from eventferry import (
    EventferryError,
    InputError,
    UsageError,
    open_store,
    pipeline,
    read_parquet,
    to_parquet,
)
from eventferry.tabular import parquet as ours
from tests.support import KEYS, exported, import_lines, make_event, make_lines
from tests.tabular.events import converted, events, lines_of, payload_text, pieces

ANY_TIME = st.integers(-(2**53) + 1, 2**53 - 1)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


async def read(path: str) -> bytes:
    return b"".join([block async for block in read_parquet(path)])


@pytest.mark.slow
@settings(deadline=None)
@given(events(ANY_TIME), st.integers(1, 200))
async def test_lines_come_back_byte_for_byte_wherever_blocks_are_cut(
    events: list[dict[str, Any]], size: int
) -> None:
    lines = lines_of(events)
    Path("a.parquet").write_bytes(await converted(to_parquet(), pieces(lines, size)))
    assert await read("a.parquet") == lines


@pytest.mark.slow
@settings(deadline=None)
@given(events(ANY_TIME))
async def test_duckdb_gets_every_field_as_it_was(events: list[dict[str, Any]]) -> None:
    Path("a.parquet").write_bytes(await converted(to_parquet(), [lines_of(events)]))
    found = duckdb.execute(
        'SELECT * REPLACE (epoch_ms("timestamp") AS "timestamp") FROM \'a.parquet\''
    ).fetchall()
    assert found == [
        tuple((event | {"payload": payload_text(event)})[key] for key in KEYS) for event in events
    ]


async def test_the_columns_are_the_keys_of_a_line_with_types_that_every_reader_has() -> None:
    Path("a.parquet").write_bytes(await converted(to_parquet(), [make_lines(1)]))
    described = duckdb.execute("DESCRIBE FROM 'a.parquet'").fetchall()
    assert [(name, kind) for name, kind, *_ in described] == [
        ("threadCounter", "BIGINT"),
        ("threadId", "SMALLINT"),
        ("type", "VARCHAR"),
        ("timestamp", "TIMESTAMP WITH TIME ZONE"),
        ("aggregateId", "VARCHAR"),
        ("aggregateVersion", "BIGINT"),
        ("payload", "VARCHAR"),
    ]


async def test_numbers_of_a_payload_stay_as_they_are_spelled() -> None:
    line = make_lines(1).replace(b'{"number":0}', b'{"a":20.50,"b":1E5,"c":12345678901234567890}')
    Path("a.parquet").write_bytes(await converted(to_parquet(), [line]))
    [(payload,)] = duckdb.execute("SELECT payload FROM 'a.parquet'").fetchall()
    assert payload == '{"a":20.50,"b":1E5,"c":12345678901234567890}'
    assert await read("a.parquet") == line


async def test_row_groups_are_bounded_by_bytes_and_all_events_are_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ours, "ROW_GROUP_BYTES", 100_000)
    lines = make_lines(5000)
    Path("a.parquet").write_bytes(await converted(to_parquet(), pieces(lines, 10_000)))
    about = parquet.ParquetFile("a.parquet").metadata
    assert about.num_row_groups > 3
    groups = [about.row_group(i) for i in range(about.num_row_groups)]
    assert all(group.num_rows < 2500 for group in groups)
    assert await read("a.parquet") == lines


async def test_a_reader_skips_row_groups_by_time_and_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "ROW_GROUP_BYTES", 10_000)
    Path("a.parquet").write_bytes(await converted(to_parquet(), pieces(make_lines(500), 5_000)))
    about = parquet.ParquetFile("a.parquet").metadata.row_group(0)
    columns = {about.column(i).path_in_schema: about.column(i) for i in range(about.num_columns)}
    assert columns["timestamp"].statistics.has_min_max
    assert columns["type"].statistics.has_min_max
    assert columns["payload"].statistics is None


async def test_no_events_make_a_table_without_rows() -> None:
    Path("a.parquet").write_bytes(await converted(to_parquet(), []))
    assert duckdb.execute("SELECT count(*) FROM 'a.parquet'").fetchall() == [(0,)]
    assert await read("a.parquet") == b""


async def test_what_an_export_that_died_has_written_is_no_parquet_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ours, "ROW_GROUP_BYTES", 1)
    codec = to_parquet().codec()
    written = b""
    for block in pieces(make_lines(20), 1000):
        written += codec.feed(block)
        Path("a.parquet").write_bytes(written)
        with pytest.raises(InputError, match="damaged or cut off"):
            await read("a.parquet")
        with pytest.raises(duckdb.Error):
            duckdb.execute("FROM 'a.parquet'").fetchall()


async def test_what_duckdb_wrote_of_the_events_comes_back() -> None:
    """With its own types: an unsigned number, a time in microseconds, JSON, an enumeration."""
    lines = make_lines(3000)
    Path("a.parquet").write_bytes(await converted(to_parquet(), [lines]))
    duckdb.execute(
        "COPY (SELECT payload::JSON AS payload, aggregateId, * EXCLUDE (payload, aggregateId) "
        "REPLACE (threadId::UTINYINT AS threadId) FROM 'a.parquet') TO 'b.parquet' (ROW_GROUP_SIZE 2048)"
    )
    assert await read("b.parquet") == lines
    table = parquet.read_table("a.parquet")
    kinds = table.set_column(2, "type", table["type"].dictionary_encode())
    parquet.write_table(kinds.set_column(3, "timestamp", table["timestamp"].cast("int64")), "c.parquet")
    assert await read("c.parquet") == lines


def changed(column: str, values: Any) -> pa.Table:
    """A table of three events with another column."""
    table = pa.table(
        {
            "threadCounter": [0, 1, 2],
            "threadId": [0, 0, 0],
            "type": ["T", "T", "T"],
            "timestamp": pa.array([1, 2, 3], pa.timestamp("ms", tz="UTC")),
            "aggregateId": ["a", "a", "a"],
            "aggregateVersion": [1, 2, 3],
            "payload": ["null", "null", "null"],
        }
    )
    names = table.column_names
    return table.set_column(names.index(column), column, [values])


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (changed("type", pa.array(["T", None, "T"])), "row 2, field type: is null"),
        (changed("type", pa.array([1, 2, 3])), None),
        (changed("type", pa.array([[1], [2], [3]])), "field type: must be text, not list"),
        (changed("threadId", pa.array([0, 1, 256])), "row 3, field threadId: must be .* from 0 to 255"),
        (changed("threadId", pa.array([0, 1, 1.5])), "field threadId: must be whole numbers, not double"),
        (
            changed("timestamp", pa.array([1, 2, 3], pa.timestamp("ms"))),
            "field timestamp: must be times with a time zone",
        ),
        (
            changed("timestamp", pa.array([1, 2000, 3], pa.timestamp("us", "UTC"))),
            "row 1, field timestamp: .*lose data",
        ),
        (changed("payload", pa.array(["1", "{", "2"])), "row 2, field payload: is not valid JSON"),
        (changed("payload", pa.array(["1", "2", "3 4"])), "row 3, field payload: is not valid JSON"),
        (changed("aggregateId", pa.array(["a", "b\0", "c"])), r"row 2, field aggregateId: .*U\+0000"),
    ],
)
async def test_what_is_wrong_is_named_with_its_row_and_its_column(table: pa.Table, says: str | None) -> None:
    parquet.write_table(table, "a.parquet")
    if says is None:
        assert b'"type":"1"' in await read("a.parquet")
    else:
        with pytest.raises(InputError, match=says):
            await read("a.parquet")


async def test_a_table_of_something_else_is_refused_by_its_columns() -> None:
    parquet.write_table(pa.table({"a": [1]}), "a.parquet")
    with pytest.raises(InputError, match="has a column 'a', which is none of an event"):
        await read("a.parquet")
    with pytest.raises(EventferryError, match=r"nowhere\.parquet cannot be read: No such file"):
        await read("nowhere.parquet")
    Path("b.parquet").write_bytes(make_lines(3))
    with pytest.raises(InputError, match="is not Parquet"):
        await read("b.parquet")


async def test_a_pipe_is_refused() -> None:
    """Before it is opened: that would wait for somebody at its other end, and here somebody is there."""
    os.mkfifo("pipe.parquet")
    other_end = os.open("pipe.parquet", os.O_RDWR)
    try:
        with pytest.raises(UsageError, match=r"regular file, and pipe\.parquet is none"):
            await read("pipe.parquet")
    finally:
        os.close(other_end)


@pytest.mark.slow
async def test_a_reader_that_is_left_or_cancelled_leaves_no_file_open() -> None:
    Path("a.parquet").write_bytes(await converted(to_parquet(), [make_lines(50_000)]))
    before = len(os.listdir("/proc/self/fd"))
    blocks = read_parquet("a.parquet")
    await anext(blocks)
    await blocks.aclose()
    for delay in (0, 0.001, 0.01):
        task = asyncio.ensure_future(read("a.parquet"))
        await asyncio.sleep(delay)
        task.cancel()
        await asyncio.wait([task])
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_store_comes_back_equal() -> None:
    async with open_store("a.db") as a, open_store("b.db") as b:
        await a.init()
        await b.init()
        await import_lines(a, make_lines(3000))
        await pipeline(a.export_events(), to_parquet(), "events.parquet")
        await pipeline(read_parquet("events.parquet"), b.import_events())
        assert await exported(b) == make_lines(3000)


async def test_a_payload_of_many_blocks_comes_back() -> None:
    lines = lines_of([make_event(i, payload={"text": '"\n' * 500_000}) for i in range(3)])
    Path("a.parquet").write_bytes(await converted(to_parquet(), pieces(lines, 65_536)))
    assert await read("a.parquet") == lines
