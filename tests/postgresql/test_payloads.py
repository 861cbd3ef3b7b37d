"""What jsonb cannot hold, or would blow up, is refused by line and field; everything else comes back as it went in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from eventferry import MANUAL, InputError, open_store
from eventferry.comparing.canonical import canonical
from eventferry.databases.postgresql.payloads import refuse_payload
from tests.support import NewUrl, exported, import_lines, line, make_event, make_lines
from tests.support.postgresql import STORE_TABLES, make_resolve_store, tables
from tests.support.servers import shared_url

TOO_MUCH = 4_200_000
"""More characters than any payload of these tests may come out with."""


@pytest.fixture(scope="module")
def other() -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(shared_url("postgresql", "postgres"), autocommit=True) as connection:
        yield connection


def lengths(*limits: int) -> st.SearchStrategy[int]:
    """Small ones, and those around limits."""
    near = [limit + by for limit in limits for by in (-1, 0, 1)]
    return st.one_of(st.integers(0, 20), st.sampled_from(near))


@st.composite
def numbers(draw: st.DrawFn) -> str:
    whole = draw(st.sampled_from("123456789")) * draw(lengths(4000, 131_072))
    text = draw(st.sampled_from(["", "-"])) + (whole or "0")
    fraction = draw(lengths(4000, 16_383))
    if fraction:
        text += "." + draw(st.sampled_from(["0", "5"])) * fraction
    if draw(st.booleans()):
        exponent = draw(st.one_of(lengths(999, 1000, 4000, 16_383, 131_072), st.integers(0, 10**30)))
        zeros = "0" * draw(st.integers(0, 3))
        text += draw(st.sampled_from("eE")) + draw(st.sampled_from(["", "+", "-"])) + zeros + str(exponent)
    return text


ESCAPES = [
    "\\u0000",
    "\\\\",
    "\\u0001",
    "u0000",
    "\\n",
    '\\"',
    "0",
    "\\u005c",
    "\\/",
    "é",
    "\\ud83d\\ude00",
    "e99999",
]
STRINGS = st.lists(st.sampled_from(ESCAPES), max_size=6).map(lambda parts: f'"{"".join(parts)}"')
LEAVES = st.one_of(numbers(), STRINGS, st.sampled_from(["null", "true", "false"]))


def containers(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    members = st.lists(st.tuples(STRINGS, inner), max_size=3)
    return st.one_of(
        st.lists(inner, max_size=3).map(lambda found: f"[{','.join(found)}]"),
        members.map(lambda found: "{" + ",".join(f"{key}:{value}" for key, value in found) + "}"),
    )


@pytest.mark.slow
@given(text=st.recursive(LEAVES, containers, max_leaves=4))
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@example(text='"\\\\u0000"')
@example(text='"\\\\\\u0000"')
@example(text='"\\\\\\\\u0000"')
@example(text='["\\u0000"]')
@example(text='{"a\\u0000":1}')
@example(text="-0")
@example(text="-0.0")
@example(text="0e5")
@example(text="1e4000")
@example(text="1e4001")
@example(text="1e-4000")
@example(text="1E+0004000")
@example(text="0." + "1" * 16_383)
@example(text="0." + "1" * 16_384)
@example(text="0." + "1" * 16_384 + "e1")
@example(text="0." + "1" * 16_383 + "e-1")
@example(text="1" * 131_072)
@example(text="1" * 131_073)
@example(text="1" * 131_073 + "e-1")
@example(text="1" * 130_000 + "e1072")
@example(text="1" * 130_000 + "e1073")
@example(text='{"a":1,"a":2}')
def test_a_payload_is_refused_exactly_where_jsonb_refuses_or_blows_it_up(
    other: psycopg.Connection[Any], text: str
) -> None:
    reason = refuse_payload(text.encode())
    back = through_jsonb(other, text)
    if reason is None:
        assert back is not None
        assert canonical(back.encode()) == canonical(text.encode())
        assert len(back) < TOO_MUCH
    else:
        assert back is None or "exponent" in reason, reason


def through_jsonb(other: psycopg.Connection[Any], text: str) -> str | None:
    """As it comes back; None if PostgreSQL refuses it."""
    try:
        [(back,)] = other.execute("SELECT %s::jsonb::text", [text]).fetchall()
    except psycopg.Error:
        return None
    return str(back)


@pytest.mark.parametrize("number", ["1e4000", "1e-4000", "1e999", "1e99", "-1.5e0500"])
def test_many_numbers_cannot_blow_up_together(number: str) -> None:
    payload = f"[{','.join([number] * 200_000)}]".encode()
    assert refuse_payload(payload) is not None


def test_numbers_with_exponents_as_people_have_them_are_fine() -> None:
    assert refuse_payload(b"[" + b",".join([b"6.02e23"] * 10_000) + b"]") is None
    assert refuse_payload(b'{"hash":"' + b"12e3456" * 10_000 + b'"}') is None


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"payload": "a\0b"}, "payload", "U.0000"),
    ({"payload": {"a\0": 1}}, "payload", "U.0000"),
    ({"aggregateId": "😀" * 700}, "aggregateId", "2600 bytes"),
    ({"aggregateId": "😀" * 651}, "aggregateId", "2600 bytes"),
    ({"aggregateId": "a" * 701}, "aggregateId", "700"),
    ({"type": "t" * 701}, "type", "700"),
]


@pytest.mark.parametrize(
    "maintenance",
    [{}, {"freeze": True}, {"maintenance_mode": MANUAL}],
)
async def test_what_postgresql_cannot_hold_is_refused_by_line_and_field_before_anything_changes(
    new_url: NewUrl, maintenance: dict[str, Any]
) -> None:
    url = new_url()
    async with open_store(url) as store:
        await store.init()
        await import_lines(store, make_lines(20))
        lines = make_lines(40).splitlines(keepends=True)
        cases = [(line(make_event(37, **changes)), field, words) for changes, field, words in REFUSED]
        number = line(make_event(37, payload="@"))
        cases += [
            (number.replace(b'"@"', text.encode()), "payload", "number")
            for text in ("1e4001", "1e131073", "0." + "1" * 16_384, "9" * 131_073)
        ]
        for bad, field, words in cases:
            with pytest.raises(InputError, match=words) as caught:
                await import_lines(store, b"".join([*lines[:37], bad, *lines[38:]]), **maintenance)
            assert (caught.value.line, caught.value.field) == (38, field)
            assert caught.value.byte_offset == len(b"".join(lines[:37]))
            assert await exported(store) == make_lines(20)
            assert not (await store.describe()).is_frozen
    assert tables(url) == STORE_TABLES


@pytest.mark.parametrize("made_by", ["init", "resolve"])
@pytest.mark.parametrize("way", ["import", "append", "incremental", "save"])
async def test_the_longest_identifiers_go_in_and_come_out(new_url: NewUrl, made_by: str, way: str) -> None:
    url = new_url()
    if made_by == "resolve":
        make_resolve_store(url)
    async with open_store(url) as store:
        if made_by == "init":
            await store.init()
        type_length = 700 if made_by == "init" or way == "import" else 190
        event = make_event(0, aggregateId="😀" * 650, type="😀" * type_length)
        if way == "import":
            await import_lines(store, [event])
        elif way == "append":
            await import_lines(store, [event], maintenance_mode=MANUAL)
        elif way == "incremental":
            await store.incremental_import([event])
        else:
            await store.save_event(
                {key: event[key] for key in ("type", "aggregateId", "aggregateVersion", "payload")}
            )
        [stored] = (await store.load_events(limit=9, cursor=None)).events
        assert (stored.aggregate_id, stored.type) == (event["aggregateId"], event["type"])
        longer = {"type": "T", "aggregateId": "😀" * 651, "aggregateVersion": 1, "timestamp": 4 * 10**12}
        for call in (store.save_event(longer), store.incremental_import([longer])):
            with pytest.raises(InputError, match="aggregateId"):
                await call


async def test_deep_payloads_go_in_and_come_out_or_are_refused_by_line(new_url: NewUrl) -> None:
    async with open_store(new_url()) as store:
        await store.init()
        deep = make_lines(1).replace(b'{"number":0}', b"[" * 500 + b"]" * 500)
        await import_lines(store, deep)
        assert await exported(store) == deep
        too_deep = make_lines(1).replace(b'{"number":0}', b"[" * 20_000 + b"]" * 20_000)
        with pytest.raises(InputError):
            await import_lines(store, too_deep)
        assert await exported(store) == deep
