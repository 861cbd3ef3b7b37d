"""Rows that do not become events, and mappings that do not fit: refused by name, and nothing is stored."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from eventferry import open_store, pipeline
from eventferry.errors import DatabaseError, EventferryError, MappingError, SourceRowError
from eventferry.sources.mapping import Decoding, Mapping, Time
from eventferry.sources.source import open_source
from tests.support import exported, import_lines, make_lines
from tests.support.foreign.rows import SELECT, Rows, rows_on
from tests.support.places import DATABASES, Places

OLD = make_lines(5)


async def refused(own: Rows, folder: Path, mapping: Mapping | None = None, **options: Any) -> SourceRowError:
    """What an import, and a preview, of the table is refused with; a store keeps what it has."""
    mapping = mapping or own.mapping()
    target = f"sqlite:///{folder / 'target.db'}"
    async with open_store(target) as store, open_source(own.url, mapping, **options) as source:
        await store.init()
        await import_lines(store, OLD)
        with pytest.raises(SourceRowError) as info:
            await pipeline(source.export_events(), store.import_events(replace=True))
        assert await exported(store) == OLD
        assert (await store.describe()).frozen_by is None
        preview = await source.preview()
    assert preview.trouble == str(info.value)
    assert preview.events == sum(preview.types.values())
    return info.value


BAD: dict[str, tuple[str, dict[str, Any], str]] = {
    "invalid JSON": ("data", {"data": '{"a": }'}, "not JSON"),
    "JSON that ends early": ("data", {"data": '{"a": '}, "not JSON"),
    "two JSON texts": ("data", {"data": "1 2"}, "not JSON"),
    "empty data": ("data", {"data": ""}, "not JSON"),
    "NaN": ("data", {"data": "[NaN]"}, "not JSON"),
    "a lone surrogate's escape": ("data", {"data": r'{"a": "\ud800"}'}, "surrogate|truncated"),
    "half a pair": ("data", {"data": r'{"a": "\udc00\ud800 x"}'}, "surrogate|JSON"),
    "too deep": ("data", {"data": "[" * 600 + "]" * 600}, "levels"),
    "too deep for any reader": ("data", {"data": "[" * 100_000}, "JSON"),
    "a long exponent": ("data", {"data": "1e12345678901"}, "exponent"),
    "invalid metadata": ("metadata", {"meta": "{a: 1}"}, "not JSON"),
    "metadata too deep": ("metadata", {"meta": "[" * 600 + "]" * 600}, "levels"),
    "metadata with a long exponent": ("metadata", {"meta": '{"a":-1e-12345678901}'}, "exponent"),
    "no type": ("type", {"type": None}, "null"),
    "an empty type": ("type", {"type": ""}, "is empty"),
    "a long type": ("type", {"type": "x" * 701}, "longer than 700"),
    "no aggregate": ("aggregate", {"stream": None}, "null"),
    "an empty aggregate": ("aggregate", {"stream": ""}, "is empty"),
    "a long aggregate": ("aggregate", {"stream": "ü" * 701}, "longer than 700"),
    "a version below the first": ("version", {"version": 0}, "from 1"),
    "a negative version": ("version", {"version": -1}, "from 1"),
    "no time": ("time", {"at": None}, "null"),
    "no position": ("position", {"id": None}, "null"),
    "a position twice": ("position", {"id": 1}, "two rows"),
    "an unknown kind": ("kind", {"kind": "odd"}, "'odd'"),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_row_that_is_no_event_is_refused_by_position_and_column(
    own: Rows, tmp_path: Path, name: str
) -> None:
    column, values, words = BAD[name]
    own.add(version=1, stream="first")
    own.add(**values)
    error = await refused(own, tmp_path)
    assert (error.source, error.column) == ("own", column)
    assert error.position == values.get("id", 2)
    assert re.search(words, error.reason), error.reason
    place = "a row without a position" if error.position is None else f"position {error.position}"
    assert str(error) == f"own, {place}, column {column}: {error.reason}"
    assert len(str(error)) < 400


async def test_a_version_twice_is_refused(own: Rows, tmp_path: Path) -> None:
    for version in (1, 2, 2):
        own.add(version=version)
    error = await refused(own, tmp_path)
    assert (error.position, error.column) == (3, "version")
    assert "leave the versions out" in error.reason


async def test_all_rows_before_the_trouble_are_counted(own: Rows) -> None:
    for number in range(1000):
        own.add(type=f"T{number % 2}")
    own.add(data="x")
    async with open_source(own.url, own.mapping()) as source:
        preview = await source.preview()
    assert (preview.events, preview.types) == (1000, {"T0": 500, "T1": 500})
    assert preview.trouble is not None
    assert preview.trouble.startswith("own, position 1001, column data: not JSON")


@pytest.mark.parametrize("later", ["{}", "x"])
async def test_of_several_troubles_the_first_by_position_is_told(own: Rows, later: str) -> None:
    own.add(kind="link")
    own.add(version=1)
    own.add(version=1)
    own.add(stream="other", data=later)
    own.add(kind="link")
    async with open_source(own.url, own.mapping()) as source:
        preview = await source.preview()
    assert preview.trouble is not None
    assert preview.trouble.startswith("own, position 3, column version: ")
    assert (preview.events, preview.skipped) == (1, {"link": 1})


@pytest.mark.parametrize("value", [b'{"a":"\xff"}', b'{"a":"\xed\xa0\x80"}', b'{"\xff":1}'])
async def test_text_that_is_not_utf_8_is_refused(own: Rows, tmp_path: Path, value: bytes) -> None:
    own.make(data="bytes", meta="bytes")
    own.add(data=b"{}")
    own.add(data=b"{}", meta=value)
    error = await refused(own, tmp_path)
    assert (error.position, error.column) == (2, "metadata")
    assert "UTF-8" in error.reason


async def test_a_nul_in_a_name_is_refused(own: Rows, tmp_path: Path) -> None:
    if own.database == "postgresql":
        return  # its text has none
    own.add(stream="a\0b")
    error = await refused(own, tmp_path)
    assert (error.position, error.column) == (1, "aggregate")
    assert "U+0000" in error.reason


async def test_a_position_that_is_no_whole_number_is_refused(own: Rows, tmp_path: Path) -> None:
    own.make(id="numeric(30, 2)" if own.database != "sqlite" else "")
    own.add(id="1.5")
    if own.database == "sqlite":
        error = await refused(own, tmp_path)
        assert (error.position, error.column) == (None, "position")
    else:
        await does_not_fit(own, SELECT, "column position .* bigint")


async def test_a_time_without_a_zone_is_refused_where_none_is_said(own: Rows, tmp_path: Path) -> None:
    own.add()
    error = await refused(own, tmp_path, own.mapping(time=Time()))
    assert (error.position, error.column) == (1, "time")
    assert "time.zone" in error.reason


async def test_a_number_is_no_time_where_no_unit_is_said(own: Rows, tmp_path: Path) -> None:
    own.make(at="whole")
    own.add(at=1)
    error = await refused(own, tmp_path)
    assert error.column == "time"
    assert "time.unit" in error.reason


async def test_a_text_that_is_no_time_is_refused(own: Rows, tmp_path: Path) -> None:
    own.make(at="text")
    own.add(at="yesterday")
    assert "'yesterday' is not a time" in (await refused(own, tmp_path)).reason


@pytest.mark.parametrize(
    "at", ["infinity", "-infinity", "294276-12-31 23:59:59", "10000-01-01", "0044-03-15 BC"]
)
@pytest.mark.parametrize("kind", ["time", "local"])
async def test_a_time_of_postgresql_that_has_no_name_is_refused(tmp_path: Path, at: str, kind: str) -> None:
    if "postgresql" not in DATABASES:
        return
    with rows_on("postgresql", tmp_path) as own:
        own.make(at=kind)
        own.add()
        own.add(at=at)
        error = await refused(own, tmp_path, own.mapping(time=Time(zone="Europe/Paris")))
    assert (error.position, error.column) == (2, "time")
    assert "9999" in error.reason


@pytest.mark.parametrize("kind", ["datetime(6)", "datetime(6) NOT NULL", "timestamp(6) NOT NULL"])
async def test_a_time_of_mysql_that_is_none_is_not_taken_for_null(tmp_path: Path, kind: str) -> None:
    if "mariadb" not in DATABASES:
        return
    with rows_on("mariadb", tmp_path) as own:
        own.make(at=kind)
        own.run("SET SESSION sql_mode = 'ANSI_QUOTES'")
        own.add()
        own.add(at="0000-00-00 00:00:00")
        error = await refused(own, tmp_path)
    assert (error.position, error.column) == (2, "time")
    assert "before the year 1" in error.reason


async def test_a_position_of_mysql_that_no_cursor_can_hold_is_refused_by_its_value(tmp_path: Path) -> None:
    if "mariadb" not in DATABASES:
        return
    with rows_on("mariadb", tmp_path) as own:
        own.make(id="bigint unsigned")
        own.add()
        own.add(id=2**63)
        error = await refused(own, tmp_path)
    assert error.column == "position"
    assert "at most 9,223,372,036,854,775,807, not 9223372036854775808" in error.reason


@pytest.mark.parametrize(("unit", "number"), [("s", 10**15), ("ms", 10**18), ("s", -(10**15))])
async def test_a_number_beyond_all_years_is_refused(
    own: Rows, tmp_path: Path, unit: Any, number: int
) -> None:
    own.make(at="whole")
    own.add(at=number)
    assert (await refused(own, tmp_path, own.mapping(time=Time(unit=unit)))).column == "time"


@pytest.mark.parametrize("steps", ["base64", "hex", "zlib", "yaml", "tests.sources.test_bad_rows:fails"])
async def test_what_cannot_be_decoded_is_refused(own: Rows, tmp_path: Path, steps: str) -> None:
    own.make(data="bytes")
    own.add(data=b"{[ secret")
    error = await refused(own, tmp_path, own.mapping(data=Decoding(decode=(steps,))))
    assert (error.position, error.column) == (1, "data")


def fails(value: object) -> None:
    raise KeyError("no key")


@pytest.mark.parametrize("column", ["data", "metadata"])
async def test_an_exponent_that_a_step_makes_of_plain_json_is_refused(
    own: Rows, tmp_path: Path, column: str
) -> None:
    own.make(data="json", meta="json")
    own.add(meta="{}")
    steps: dict[str, Any] = {column: Decoding(decode=("tests.sources.test_bad_rows:makes_an_exponent",))}
    error = await refused(own, tmp_path, own.mapping(**steps))
    assert (error.position, error.column) == (1, column)
    assert "exponent" in error.reason


def makes_an_exponent(value: object) -> str:
    return "1e12345678901"


async def test_an_exponent_beside_plain_json_is_refused(own: Rows, tmp_path: Path) -> None:
    own.make(data="json")
    own.add(meta="1e12345678901")
    assert (await refused(own, tmp_path)).column == "metadata"


async def test_what_only_the_target_refuses_is_told_by_the_row(own: Rows, tmp_path: Path) -> None:
    if "postgresql" not in DATABASES:
        return
    own.add()
    own.add(data='{"a": 1e131072}')
    with Places("postgresql", tmp_path) as places:
        async with open_store(places.new_url()) as store, open_source(own.url, own.mapping()) as source:
            await store.init()
            await import_lines(store, OLD)
            with pytest.raises(SourceRowError, match=r"own, position 2, column data: .*exponent|jsonb"):
                await pipeline(source.export_events(), store.import_events(replace=True))
            assert (await store.describe()).event_count == 5


async def test_an_error_of_the_database_halfway_is_not_taken_for_the_end(own: Rows, tmp_path: Path) -> None:
    if own.database != "postgresql":
        return  # the others give NULL for what cannot be computed
    own.make()
    own.run(
        "INSERT INTO events(id, stream, type, data, at) SELECT n, 'a', 'T', '{}', now() FROM generate_series(1, 3000) n"
    )
    select = SELECT.replace("version,", "1 / (2500 - id) AS version,")
    async with open_store(f"sqlite:///{tmp_path / 'target.db'}") as store:
        await store.init()
        await import_lines(store, OLD)
        async with open_source(own.url, own.mapping(select)) as source:
            with pytest.raises(DatabaseError, match="division by zero"):
                await pipeline(source.export_events(), store.import_events(replace=True))
        assert await exported(store) == OLD


async def does_not_fit(own: Rows, select: str, words: str) -> None:
    """A mapping is refused before the first row."""
    before = own.run(f"SELECT * FROM {own.table}")
    async with open_source(own.url, own.mapping(select)) as source:
        with pytest.raises(MappingError, match=words):
            await anext(source.export_events())
        with pytest.raises(MappingError, match=words):
            await source.preview()
    assert own.run(f"SELECT * FROM {own.table}") == before


MISFITS = {
    "a wrong column": (SELECT.replace("version", "no_such"), "no_such"),
    "a wrong table": (SELECT.replace("{events}", "no_such_table"), "no_such_table"),
    "no SQL": ("hello", "refuses the SELECT|hello"),
    "a missing name": (SELECT.replace("type,", ""), "does not give type"),
    "two missing names": ("SELECT id AS position, data FROM {events}", "aggregate, type"),
    "an unknown name": (SELECT.replace("kind", "kind AS other"), "'other', which is none of"),
    "two columns of one name": (SELECT.replace("kind", "name AS id"), "id"),
    "an insert": ("INSERT INTO {events} (id) VALUES (99)", "refuses"),
    "a delete": ("DELETE FROM {events}", "refuses"),
    "a delete behind it": (SELECT + "; DELETE FROM {events}", "refuses"),
    "a way out": (SELECT + ") AS mapped; DELETE FROM {events}; SELECT * FROM (" + SELECT, "refuses"),
    "a commit on the way": (
        SELECT + ") AS mapped; COMMIT; DELETE FROM {events}; SELECT * FROM (" + SELECT,
        "refuses",
    ),
    "an end of the transaction": (SELECT + ") AS mapped; COMMIT; SELECT * FROM (" + SELECT, "refuses"),
    "an open comment": (SELECT + "/*", "refuses"),
    "an open string": (SELECT + " WHERE name = '", "refuses"),
}


@pytest.mark.parametrize("name", MISFITS)
async def test_a_mapping_that_does_not_fit_is_refused_before_the_first_row(own: Rows, name: str) -> None:
    own.add()
    await does_not_fit(own, *MISFITS[name])


WRITES = {
    "sqlite": [
        "ATTACH '{folder}/new.db' AS new",
        "PRAGMA user_version = 7",
        "PRAGMA journal_mode = WAL",
        "VACUUM INTO '{folder}/new.db'",
        SELECT + " WHERE (SELECT 1 FROM pragma_user_version)",
    ],
    "postgresql": [
        "WITH gone AS (DELETE FROM {events} RETURNING *) " + SELECT.replace("{events}", "gone"),
        "COPY {events} TO '/tmp/x'",
        "SELECT 1 INTO new",
        "DO $$ BEGIN END $$",
        "EXPLAIN ANALYZE DELETE FROM {events}",
    ],
    "mariadb": [
        SELECT + " INTO OUTFILE '{folder}/new'",
        SELECT + " INTO @a",
        "SET GLOBAL max_connections = 1",
        "CALL gone()",
        "/*!50000 DELETE FROM */ {events}",
        SELECT + ") AS mapped LIMIT 0; DELETE FROM {events} -- ",
    ],
}


async def test_a_mapping_that_writes_is_refused_before_the_first_row(own: Rows, tmp_path: Path) -> None:
    own.add()
    before = {path.name for path in tmp_path.iterdir()}
    for select in WRITES[own.database]:
        await does_not_fit(own, select.replace("{folder}", str(tmp_path)), "refuses")
    assert {path.name for path in tmp_path.iterdir()} == before


async def test_a_function_that_writes_is_refused(own: Rows) -> None:
    own.add()
    if own.database == "sqlite":
        calls = ["load_extension('x')"]
    elif own.database == "postgresql":
        own.run("CREATE SEQUENCE numbers")
        own.run(
            f"CREATE FUNCTION {own.schema}.gone() RETURNS int LANGUAGE sql AS 'DELETE FROM {own.table}; SELECT 1'"
        )
        name = own.schema
        calls = [
            f"nextval('{name}.numbers')", f"{name}.gone()", "set_config('transaction_read_only', 'off', false)",
        ]  # fmt: skip
    else:
        own.run("CREATE SEQUENCE numbers")
        own.run("CREATE FUNCTION gone() RETURNS int BEGIN DELETE FROM events; RETURN 1; END")
        calls = ["NEXTVAL(numbers)", "gone()"]
    for call in calls:
        written = SELECT.replace("version,", f"CASE WHEN {call} IS NULL THEN version END AS version,")
        async with open_source(own.url, own.mapping(written)) as source:
            with pytest.raises(EventferryError, match=r"(?i)read.only|read-write|not authorized"):
                await source.preview()
    assert len(own.run(f"SELECT * FROM {own.table}")) == 1


async def test_types_that_would_have_to_be_guessed_are_refused_with_what_to_do(own: Rows) -> None:
    if own.database == "sqlite":
        return  # a column there has no type
    own.add()
    for column, expression in {
        "version": "'1'",
        "type": "1",
        "aggregate": "CAST('a' AS binary)" if own.database == "mariadb" else "'a'::bytea",
    }.items():
        name = "stream AS aggregate" if column == "aggregate" else column
        select = SELECT.replace(f"{name},", f"{expression} AS {column},")
        await does_not_fit(own, select, f"column {column} of the mapping own is of the type .*: cast it")
