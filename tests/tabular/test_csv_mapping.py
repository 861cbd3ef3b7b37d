"""One's own CSV file as a source, by a mapping."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventferry import InputError, MappingError, UsageError, from_mapped_csv
from tests.support.cli import Ferry, new_ferry
from tests.tabular.events import NAMES, PAYLOADS, converted, pieces

ferry = pytest.fixture(new_ferry)

COLUMNS = """
position = "id"
aggregate = "stream"
version = "no"
type = "kind of event"
time = "at"
data = "body"
metadata = "meta"
"""
MAPPING = f"[columns]{COLUMNS}[version]\nfirst = 0\n[time]\nzone = 'UTC'\n"
HEADER = "id,stream,no,kind of event,at,body,meta,unused\n"
ROWS = (
    HEADER
    + '17,order-1,0,Placed,2026-01-01 12:00:00.123456,"{""total"": 20.50}","{""by"":""me""}",x\n'
    + '18,order-2,0,Placed,2026-01-01T12:01:00Z,"{""total"": 7}",,\n'
    + "20,order-1,1,Paid,2026-01-01 13:00:00+02:00,,,\n"
)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def mapping(text: str = MAPPING) -> str:
    Path("m.toml").write_text(text)
    return "m.toml"


async def events(rows: str, text: str = MAPPING, **options: Any) -> list[dict[str, Any]]:
    lines = await converted(from_mapped_csv(mapping(text), **options), [rows.encode()])
    return [json.loads(line) for line in lines.splitlines()]


async def test_a_row_becomes_an_event_that_keeps_all_that_the_file_has_of_it() -> None:
    for size in (1, 10, 10_000):
        lines = await converted(from_mapped_csv(mapping()), pieces(ROWS.encode(), size))
        assert lines.decode() == (
            '{"threadCounter":0,"threadId":0,"type":"Placed","timestamp":1767268800123,"aggregateId":"order-1",'
            '"aggregateVersion":1,"payload":{"data":{"total":20.50},"meta":{"id":null,"position":17,"version":0,'
            '"time":"2026-01-01T12:00:00.123456Z","metadata":{"by":"me"}}}}\n'
            '{"threadCounter":1,"threadId":0,"type":"Placed","timestamp":1767268860000,"aggregateId":"order-2",'
            '"aggregateVersion":1,"payload":{"data":{"total":7},"meta":{"id":null,"position":18,"version":0,'
            '"time":"2026-01-01T12:01:00Z","metadata":null}}}\n'
            '{"threadCounter":2,"threadId":0,"type":"Paid","timestamp":1767265200000,"aggregateId":"order-1",'
            '"aggregateVersion":2,"payload":{"data":null,"meta":{"id":null,"position":20,"version":1,'
            '"time":"2026-01-01T13:00:00+02:00","metadata":null}}}\n'
        )


async def test_without_a_position_it_is_the_number_of_the_row() -> None:
    found = await events(ROWS, MAPPING.replace('position = "id"\n', ""))
    assert [event["payload"]["meta"]["position"] for event in found] == [1, 2, 3]


async def test_the_bare_data_is_the_payload_where_that_is_asked_for() -> None:
    with pytest.raises(InputError, match="row 1, line 2, field meta: is not empty"):
        await events(ROWS, payload="data")
    found = await events(ROWS, payload="data", drop_metadata=True)
    assert [event["payload"] for event in found] == [{"total": 20.5}, {"total": 7}, None]


async def test_times_may_be_numbers_and_data_packed_and_fields_apart_by_another_mark() -> None:
    text = (
        "[columns]\naggregate='s'\ntype='t'\ntime='at'\ndata='d'\nid='n'\n[time]\nunit='s'\n"
        "[data]\ndecode=['hex']\n[aggregate]\nprefix='shop-'\n[csv]\ndelimiter=';'\n"
    )
    [event] = await events(f's;t;at;d;n\n"a;1";T;1767225600.25;{b"[1,2]".hex()};007\n', text)
    assert (event["aggregateId"], event["timestamp"]) == ("shop-a;1", 1767225600250)
    assert event["payload"]["data"] == [1, 2]
    assert event["payload"]["meta"]["id"] == "007"


async def test_kinds_of_rows_are_left_out_or_kept_and_counted() -> None:
    text = MAPPING.replace("[columns]", "[columns]\nkind = 'unused'")
    rows = ROWS.replace(",x\n", ",snapshot\n")
    conversion = from_mapped_csv(mapping(text))
    assert len((await converted(conversion, [rows.encode()])).splitlines()) == 2
    assert (conversion.report.events, conversion.report.skipped) == (2, {"snapshot": 1})
    assert len(await events(rows, text, keep=["snapshot"])) == 3


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(st.tuples(NAMES.filter(bool), NAMES.filter(bool), PAYLOADS), max_size=6), st.integers(1, 100))
async def test_every_text_and_every_value_comes_as_it_is(rows: list[tuple[str, str, Any]], size: int) -> None:
    written = io.StringIO(newline="")
    csv.writer(written).writerows(
        [("s", "t", "at", "d")] + [(s, t, "2026-01-01T00:00:00Z", json.dumps(d)) for s, t, d in rows]
    )
    text = "[columns]\naggregate='s'\ntype='t'\ntime='at'\ndata='d'\n"
    lines = await converted(from_mapped_csv(mapping(text)), pieces(written.getvalue().encode(), size))
    found = [json.loads(line) for line in lines.splitlines()]
    assert [(each["aggregateId"], each["type"], each["payload"]["data"]) for each in found] == rows


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("20,order-1", "18,order-1", "row 3, line 4, field id: 18 does not come after 18.*sort the file"),
        ("18,", "x,", "row 2, line 3, field id: must be a whole number, not 'x'"),
        (
            "18,",
            ",",
            "row 2, line 3, field id: a position is a whole number of at most 9,223,372,036,854,775,807, not null",
        ),
        (",1,Paid", ",0,Paid", "row 3, line 4, field no: version 0 .* comes after its version 0"),
        (",1,Paid", ",-1,Paid", "row 3, line 4, field no: a version is a whole number from 0"),
        ("Paid", "", "row 3, line 4, field kind of event: is empty"),
        ("order-2", "", "row 2, line 3, field stream: is empty"),
        ("order-2", "x" * 701, "row 2, line 3, field stream: is longer than 700"),
        ("order-2", "x\0", r"row 2, line 3, field stream: .*U\+0000"),
        (" 7}", "}", "row 2, line 3, field body: not JSON"),
        (' 7}",,\n20,', '}",,\nx,', "row 2, line 3, field body: not JSON"),
        ("12:01:00Z", "12:01:00 at noon", "row 2, line 3, field at: .* is not a time"),
        ("2026-01-01T12:01:00Z", "", "row 2, line 3, field at: is null"),
        ("18,order-2", '18,"or\nder-2",1', "row 2, line 3: has 9 fields, and the header 8"),
    ],
)
async def test_what_is_wrong_is_named_with_its_row_its_line_and_its_column(
    old: str, new: str, says: str
) -> None:
    for size in (1, 10_000):
        with pytest.raises(InputError, match=says):
            await converted(from_mapped_csv(mapping()), pieces(ROWS.replace(old, new, 1).encode(), size))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            '"body"',
            '"doby"',
            "the header has no column 'doby', the data by the mapping m.toml; it has id, stream",
        ),
        ('data = "body"', "", "m.toml: columns: data is missing"),
        ("[columns]", "[columns]\ntransaction = 'x'", "columns: transaction is for a database"),
        ("[columns]", "[columns]\nname = 'x'", "columns: 'name' is none of"),
        (MAPPING, "select = 'SELECT 1'", r"the mapping m.toml has no \[columns\]"),
        ("[time]", "[csv]\ndelimiter = ';;'\n[time]", "csv.delimiter: ';;' is not one character"),
    ],
)
async def test_a_mapping_that_does_not_fit_is_refused_before_the_first_row(
    old: str, new: str, says: str
) -> None:
    with pytest.raises(MappingError, match=says):
        await events(ROWS, MAPPING.replace(old, new, 1))


async def test_wrong_options_are_refused_as_for_a_database() -> None:
    with pytest.raises(UsageError, match="payload is"):
        await events(ROWS, payload="all")
    with pytest.raises(MappingError, match="has twice a column 'id'"):
        await events(ROWS.replace("unused", "id"))


def test_the_command_imports_a_file_and_brings_over_what_is_new_in_the_next(ferry: Ferry) -> None:
    ferry.file("m.toml", MAPPING.encode())
    ferry.file("a.csv", ROWS.encode())
    words = ("--format", "csv", "--mapping", "m.toml")
    told = ferry.done("import", "a.csv", "a.db", *words, "--json").json
    assert (told["imported"], told["source"]) == (3, {"events": 3, "renumbered": 0, "skipped": {}})
    ferry.file("b.csv", (ROWS + "21,order-2,1,Paid,2026-01-02 13:00:00,,,\n").encode())
    assert "imported 1, skipped 3 duplicates" in ferry.done("incremental-import", "b.csv", "a.db", *words).err
    ferry.done("import", "-", "b.db", *words, stdin=(ferry.directory / "b.csv").read_bytes())
    assert "equal: 4 events" in ferry.done("verify", "a.db", "b.db", "--content").err


def test_a_dry_run_shows_what_a_file_would_give_and_its_first_trouble(ferry: Ferry) -> None:
    ferry.file("m.toml", MAPPING.encode())
    ferry.file("a.csv", ROWS.encode())
    words = ("a.db", "--format", "csv", "--mapping", "m.toml", "--dry-run")
    told = ferry.done("import", "a.csv", *words)
    assert "Placed of 'order-1', version 1" in told.out
    assert "3 events, from 2026-01-01T11:00" in told.err
    ferry.file("b.csv", ROWS.replace("Paid", "").encode())
    outcome = ferry("import", "b.csv", *words, "--json")
    assert (outcome.status, outcome.json["trouble"]) == (1, "row 3, line 4, field kind of event: is empty")
    assert ferry.names() == {"m.toml", "a.csv", "b.csv"}


@pytest.mark.parametrize(
    ("words", "says", "status"),
    [
        (
            ("--format", "parquet", "--mapping", "m.toml"),
            "--from reads a database, or with --format csv a file",
            2,
        ),
        (("--mapping", "m.toml"), "m.toml reads a database, and a.csv is not one", 2),
        (("--format", "csv", "--mapping", "m.toml", "--set", "a=b"), "a CSV file has no tables", 2),
        (("--format", "csv", "--mapping", "message-db"), "message-db has no [columns]", 2),
        (("--format", "csv", "--payload", "data"), "need --from", 2),
    ],
)
def test_what_does_not_fit_together_is_refused(
    ferry: Ferry, words: tuple[str, ...], says: str, status: int
) -> None:
    ferry.file("m.toml", MAPPING.encode())
    ferry.file("a.csv", ROWS.encode())
    assert says in ferry.refused("import", "a.csv", "a.db", *words, status=status)
    assert ferry.names() == {"m.toml", "a.csv"}
