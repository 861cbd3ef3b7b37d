"""Events move from any database to any other, and come out equal as JSON values."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from eventferry import EventStore, InputError, open_store, pipeline, read_blocks, verify
from eventferry.comparing.canonical import canonical
from tests.support import LONG_AGO, NewUrl, exported, import_lines, line, make_event
from tests.support.places import DATABASES, Places

PAYLOADS = [
    "null",
    "true",
    '"text"',
    "0",
    "-0.0",
    "1.50",
    "1e2",
    "12345678901234567890",
    "0.1000000000000000055511151231257827",
    "-1e-300",
    "1e400",
    "[]",
    "{}",
    '{"b":1,"a":[true,{"c":null}],"é":"日本🛳"}',
    r'"\" \\ \/ \b\f\n\r\t \u0001 \u00e9 \ud83d\udef3"',
    r'{"":"","a b":"\u007f","\n":[[[[]]]]}',
    json.dumps("x" * 70_000),
    json.dumps("'; DROP TABLE events; --"),
]
IDS = ["a", "A", "á", "a ", " a", "日本", "🛳", "a\tb\nc\\d", "a'b\"c`d", "%s", "null", "\\N"]


def tricky() -> bytes:
    """Every payload and every name, all over the threads, each with gaps in counters and versions."""
    numbers = itertools.count()
    lines = []
    for name in IDS:
        for version, payload in enumerate(PAYLOADS):
            i = next(numbers)
            event = make_event(
                i, aggregateId=name, type=name, aggregateVersion=2 * version + 1, threadCounter=3 * i
            )
            lines.append(line(event | {"payload": "PLACE"}).replace(b'"PLACE"', payload.encode()))
    return b"".join(lines)


def values(lines: bytes) -> list[tuple[Any, ...]]:
    """The events, so that equal JSON values are equal here."""
    found = []
    for text in lines.splitlines():
        before, _, payload = text.partition(b',"payload":')
        found.append((json.loads(before + b"}"), canonical(payload[:-1])))
    return found


@pytest.fixture(params=itertools.product(DATABASES, DATABASES), ids="-".join)
def two_urls(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[NewUrl, NewUrl]]:
    with ExitStack() as stack:
        a, b = (stack.enter_context(Places(database, tmp_path)) for database in request.param)
        yield a.new_url, b.new_url


async def test_a_copy_is_equal_event_by_event(two_urls: tuple[NewUrl, NewUrl]) -> None:
    a_url, b_url = (new_url() for new_url in two_urls)
    async with open_store(a_url) as a, open_store(b_url) as b:
        await a.init()
        await b.init()
        await import_lines(a, tricky())
        await pipeline(a.export_events(), b.import_events())
        assert values(await exported(b)) == values(tricky())
        assert (await verify(a.export_events(), b.export_events())).equal


@pytest.mark.slow
async def test_an_incremental_import_from_another_database_brings_what_is_missing_and_no_more(
    two_urls: tuple[NewUrl, NewUrl], tmp_path: Path
) -> None:
    a_url, b_url = (new_url() for new_url in two_urls)
    async with open_store(a_url) as a, open_store(b_url) as b:
        await a.init()
        await b.init()
        await import_lines(a, tricky())
        first = await b.incremental_import(a.export_events(limit=100))
        assert first.imported == 100
        rest = await b.incremental_import(a.export_events())
        assert (rest.imported, rest.skipped_existing) == (len(IDS) * len(PAYLOADS) - 100, 100)
        again = await b.incremental_import(a.export_events())
        assert (again.imported, again.skipped_older) == (0, 0)
        # And back: whatever the way did to the spelling, the values are known where they came from.
        back = await a.incremental_import(b.export_events())
        assert (back.imported, back.skipped_existing) == (0, len(IDS) * len(PAYLOADS))
        assert (await verify(a.export_events(), b.export_events(), content=True)).equal


async def test_secrets_move_with_their_tombstones(two_urls: tuple[NewUrl, NewUrl]) -> None:
    a_url, b_url = (new_url() for new_url in two_urls)
    async with open_store(a_url) as a, open_store(b_url) as b:
        await a.init()
        await b.init()
        await a.set_secret("kept", "s3cret '\" \\ 日本🛳")
        await a.set_secret("gone", "other")
        await a.delete_secret("gone")
        report = await pipeline(a.export_secrets(tombstones=True), b.import_secrets())
        assert report.imported == 2
        expected = (await a.load_secrets(limit=10, include_deleted=True)).secrets
        assert (await b.load_secrets(limit=10, include_deleted=True)).secrets == expected


@pytest.mark.parametrize("database", DATABASES)
async def test_what_a_database_cannot_hold_is_refused_by_line_and_field_before_anything_changes(
    database: str, tmp_path: Path
) -> None:
    with Places(database, tmp_path) as places:
        async with open_store(places.new_url()) as store:
            await store.init()
            old = line(make_event(0))
            await import_lines(store, old)
            for payload in (r'{"a":"\u0000"}', "1e99999", "1" * 200_000):
                new = line(make_event(1, timestamp=LONG_AGO + 9, payload="PLACE")).replace(
                    b'"PLACE"', payload.encode()
                )
                refused = await _refusal(store, old + new)
                if refused is None:
                    assert values(await exported(store)) == values(old + new)
                    await import_lines(store, old)
                else:
                    assert (refused.line, refused.field) == (2, "payload")
                    assert await exported(store) == old


async def _refusal(store: EventStore, lines: bytes) -> InputError | None:
    try:
        await import_lines(store, lines)
    except InputError as error:
        return error
    return None


@pytest.mark.slow
async def test_a_file_in_between_changes_nothing(two_urls: tuple[NewUrl, NewUrl], tmp_path: Path) -> None:
    a_url, b_url = (new_url() for new_url in two_urls)
    async with open_store(a_url) as a, open_store(b_url) as b:
        await a.init()
        await b.init()
        await import_lines(a, tricky())
        await pipeline(a.export_events(), tmp_path / "events.jsonl")
        await pipeline(read_blocks(tmp_path / "events.jsonl"), b.import_events())
        assert (tmp_path / "events.jsonl").read_bytes() == await exported(a)
        assert values(await exported(b)) == values(tricky())
