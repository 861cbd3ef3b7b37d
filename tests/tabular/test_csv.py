"""CSV: what is written is what every reader of CSV gets, and what comes back."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventferry import FolderSink, InputError, from_csv, open_store, pipeline, sync, to_csv
from tests.support import KEYS, exported, import_lines, make_event, make_lines
from tests.tabular.events import OF_CSV, converted, events, lines_of, payload_text, pieces

HEADER = ",".join(f'"{key}"' for key in KEYS).encode() + b"\r\n"


def moment(timestamp: int) -> str:
    found = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=timestamp)
    return found.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@pytest.mark.slow
@settings(deadline=None)
@given(events(OF_CSV), st.integers(1, 200), st.integers(1, 200))
async def test_lines_come_back_byte_for_byte_wherever_blocks_are_cut(
    events: list[dict[str, Any]], one: int, other: int
) -> None:
    lines = lines_of(events)
    written = await converted(to_csv(), pieces(lines, one))
    assert await converted(from_csv(), pieces(written, other)) == lines


@settings(deadline=None)
@given(events(OF_CSV))
async def test_pythons_own_reader_gets_every_field_as_it_was(events: list[dict[str, Any]]) -> None:
    written = await converted(to_csv(), [lines_of(events)])
    rows = list(csv.DictReader(io.StringIO(written.decode(), newline=""), strict=True))
    assert [tuple(row.values()) for row in rows] == [
        (
            str(event["threadCounter"]),
            str(event["threadId"]),
            event["type"],
            moment(event["timestamp"]),
            event["aggregateId"],
            str(event["aggregateVersion"]),
            payload_text(event),
        )
        for event in events
    ]


@pytest.mark.slow
@settings(deadline=None)
@given(events(OF_CSV))
async def test_duckdb_gets_every_field_as_it_was(events: list[dict[str, Any]]) -> None:
    if not events:
        return
    path = Path("events.csv")
    path.write_bytes(await converted(to_csv(), [lines_of(events)]))
    types = {
        "threadCounter": "BIGINT",
        "threadId": "SMALLINT",
        "type": "VARCHAR",
        "timestamp": "TIMESTAMPTZ",
        "aggregateId": "VARCHAR",
        "aggregateVersion": "BIGINT",
        "payload": "VARCHAR",
    }
    found = duckdb.execute(
        'SELECT * REPLACE (epoch_ms("timestamp") AS "timestamp") '
        "FROM read_csv(?, header = true, quote = '\"', escape = '\"', delim = ',', allow_quoted_nulls = false, "
        f"columns = {types!r})",
        [str(path)],
    ).fetchall()
    assert found == [
        tuple((event | {"payload": payload_text(event)})[key] for key in KEYS) for event in events
    ]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


async def test_a_file_begins_with_the_keys_of_a_line_and_has_one_row_an_event() -> None:
    event = make_event(0, payload={"price": 20, "by": 'the "boss"'})
    assert await converted(to_csv(), [lines_of([event])]) == HEADER + (
        b'0,0,"TYPE_0","2020-09-13T12:26:40.000Z","aggregate-0",1,"{""price"":20,""by"":""the \\""boss\\""""}"\r\n'
    )


async def test_numbers_of_a_payload_stay_as_they_are_spelled() -> None:
    line = make_lines(1).replace(b'{"number":0}', b'{"a":20.50,"b":1E5,"c":12345678901234567890}')
    written = await converted(to_csv(), [line])
    assert b'"{""a"":20.50,""b"":1E5,""c"":12345678901234567890}"' in written
    assert await converted(from_csv(), [written]) == line


async def test_no_events_make_a_file_with_a_header_alone() -> None:
    assert await converted(to_csv(), []) == HEADER
    assert await converted(from_csv(), [HEADER]) == b""


async def test_what_an_export_that_died_has_written_ends_inside_quotes_wherever_it_died() -> None:
    """So a pipe that breaks is no end to a reader."""
    given = pieces(make_lines(20), 700)
    codec = to_csv().codec()
    written = b""
    for block in given:
        written += codec.feed(block)
        with pytest.raises(InputError, match="ends inside quotes"):
            await converted(from_csv(), [written])
        with pytest.raises(csv.Error, match="unexpected end"):
            list(csv.reader(io.StringIO(written.decode(), newline=""), strict=True))
    assert await converted(from_csv(), [written + codec.finish()]) == make_lines(20)


async def test_a_file_that_another_program_wrote_of_the_same_events_is_read_too() -> None:
    lines = lines_of([make_event(0, type="a b", timestamp=1_767_225_600_000, payload=[1, {"x": "y"}])])
    for written in (
        b"threadCounter,threadId,type,timestamp,aggregateId,aggregateVersion,payload\n"
        b'0,0,a b,2026-01-01 00:00:00+00,aggregate-0,1,"[1, {""x"": ""y""}]"\n',
        b"\xef\xbb\xbfpayload,aggregateVersion,aggregateId,timestamp,type,threadId,threadCounter\r\n"
        b'"[1,\n{""x"":\t""y""}]",1,aggregate-0,1767225600000,"a b","0","0"',
        b"threadCounter,threadId,type,timestamp,aggregateId,aggregateVersion,payload\n\n"
        b'0,0,a b,2026-01-01T01:00:00.000+01:00,aggregate-0,1,"[1,{""x"":""y""}]"\n\r\n\n',
    ):
        for size in (1, 7, 1000):
            assert await converted(from_csv(), pieces(written, size)) == lines


async def test_positions_and_payloads_may_be_missing_where_an_incremental_import_gives_them() -> None:
    written = b"aggregateId,type,timestamp\na,T,2026-01-01T00:00:00Z\n"
    assert (
        await converted(from_csv(), [written])
        == b'{"type":"T","timestamp":1767225600000,"aggregateId":"a"}\n'
    )


GOOD = b"1,2,T,2026-01-01T00:00:00Z,a,1,null\n"
PLAIN = b"threadCounter,threadId,type,timestamp,aggregateId,aggregateVersion,payload\n"


@pytest.mark.parametrize(
    ("written", "says"),
    [
        (b"", "the input is empty: CSV begins with a header"),
        (b"type,timestamp\n", "the header lacks the column aggregateId"),
        (
            PLAIN.replace(b"threadId", b"thread"),
            "the header has a column 'thread', which is none of an event",
        ),
        (PLAIN.replace(b"payload", b"type"), "the header has the column type twice"),
        (
            PLAIN + GOOD + b"x,2,T,2026-01-01T00:00:00Z,a,1,null\n",
            "row 2, line 3, field threadCounter: must be a whole",
        ),
        (
            PLAIN + b"1,256,T,2026-01-01T00:00:00Z,a,1,null\n",
            "row 1, line 2, field threadId: must be .* from 0 to 255",
        ),
        (
            PLAIN + b"1,2,T,2026-01-01T00:00:00,a,1,null\n",
            "row 1, line 2, field timestamp: .* has no time zone",
        ),
        (PLAIN + b"1,2,T,2026-13-01T00:00:00Z,a,1,null\n", "row 1, line 2, field timestamp: must be a time"),
        (
            PLAIN + b"1,2,T,2026-01-01T00:00:00.0001Z,a,1,null\n",
            "field timestamp: .* finer than a millisecond",
        ),
        (
            PLAIN + b"1,2,T,2026-01-01T00:00:00.1230001Z,a,1,null\n",
            "field timestamp: .* finer than a millisecond",
        ),
        (PLAIN + b"1,2,T,2026-01-01T00:00:00Z,a,0,null\n", "row 1, line 2, field aggregateVersion: must be"),
        (PLAIN + b"1,2,T\0,2026-01-01T00:00:00Z,a,1,null\n", r"row 1, line 2, field type: .*U\+0000"),
        (PLAIN + b"1,2,T,2026-01-01T00:00:00Z,a,1,{\n", "row 1, line 2, field payload: is not valid JSON"),
        (PLAIN + b"1,2,T,2026-01-01T00:00:00Z,a,1,\n", "row 1, line 2, field payload: is empty"),
        (PLAIN + b"1,2,T,2026-01-01T00:00:00Z,a,1,1 2\n", "row 1, line 2, field payload: is not valid JSON"),
        (PLAIN + b'1,2,T,2026-01-01T00:00:00Z,a,1,"1,""x"":2"\n', "field payload: is not valid JSON"),
        (
            PLAIN + b'1,2,"T\nU",2026-01-01T00:00:00Z,a,1,1\n1,2\n',
            "row 2, line 4: has 2 fields, and the header 7",
        ),
        (PLAIN + b'1,2,T,2026-01-01T00:00:00Z,a"b"c,1,1\n', "row 1, line 2: field 5 has a quote"),
        (
            PLAIN + b'1,2,"T"x,2026-01-01T00:00:00Z,a,1,1\n',
            "row 1, line 2: field 4 has a quote|row 1, line 2: field 3",
        ),
        (PLAIN + GOOD + b'1,2,"T', "row 2, line 3: the input ends inside quotes"),
        (PLAIN + b"1,2,\xff,2026-01-01T00:00:00Z,a,1,1\n", "line 2: is not UTF-8"),
    ],
)
@pytest.mark.parametrize("size", [1, 10_000])
async def test_what_is_wrong_is_named_with_its_row_its_line_and_its_column(
    written: bytes, says: str, size: int
) -> None:
    with pytest.raises(InputError, match=says):
        await converted(from_csv(), pieces(written, size))


async def test_a_time_that_no_reader_of_csv_knows_is_refused_by_line() -> None:
    for timestamp in (-62_135_596_800_001, 253_402_300_800_000):
        with pytest.raises(InputError, match=r"line 2, .*field timestamp: .* beyond the years 1 to 9999"):
            await converted(to_csv(), [lines_of([make_event(0), make_event(1, timestamp=timestamp)])])


async def test_what_is_no_event_is_refused_by_line() -> None:
    with pytest.raises(InputError, match=r"line 2, .*field type: is missing"):
        await converted(to_csv(), [make_lines(1) + make_lines(1).replace(b'"type":"TYPE_0",', b"")])


async def test_a_payload_of_many_blocks_comes_back() -> None:
    lines = lines_of([make_event(i, payload={"text": '"\n' * 500_000}) for i in range(3)])
    written = await converted(to_csv(), pieces(lines, 65_536))
    assert await converted(from_csv(), pieces(written, 65_536)) == lines


def test_conversions_are_the_same_without_await() -> None:
    with sync.open_store("a.db") as a, sync.open_store("b.db") as b:
        a.init()
        b.init()
        sync.pipeline([make_lines(3000)], a.import_events())
        sync.pipeline(a.export_events(), to_csv(), "events.csv")
        assert sync.pipeline("events.csv", from_csv(), b.import_events()).imported == 3000
        sync.pipeline(
            b.export_events(), FolderSink("types", split_by="type", conversion=to_csv(), ending=".csv")
        )
        assert b"".join(b.export_events()) == make_lines(3000)
    assert len(list(Path("types").iterdir())) == 3


async def test_a_store_comes_back_from_a_packed_file_equal() -> None:
    async with open_store("a.db") as a, open_store("b.db") as b:
        await a.init()
        await b.init()
        await import_lines(a, make_lines(3000))
        await pipeline(a.export_events(), to_csv(), "events.csv.zst")
        await pipeline("events.csv.zst", from_csv(), b.import_events())
        assert await exported(b) == make_lines(3000)
