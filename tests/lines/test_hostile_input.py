"""Input made to harm: it is stored exactly or refused by name, at once, in bounded memory, and nothing else changes."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gzip
import itertools
import json
import resource
import sqlite3
import subprocess
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from backports import zstd

from eventferry import (
    EventferryError,
    EventStore,
    ImportNotFoundError,
    ImportReport,
    InputError,
    UsageError,
    open_store,
    pipeline,
)
from eventferry.comparing.canonical import canonical
from eventferry.databases.mysql.payloads import refuse_number
from eventferry.databases.postgresql.payloads import refuse_payload
from eventferry.lines.blocks import ArraySplitter, LineSplitter
from eventferry.lines.decoder import LineDecoder
from eventferry.lines.event import decode_event
from eventferry.lines.payload import MAX_DEPTH, encode_payload
from eventferry.lines.unpacking import Gzip, Zstd
from tests.support import NewUrl, Opened, exported, import_lines, make_event, make_lines, open_new
from tests.support.cli import COMMAND, environment
from tests.support.places import DATABASES, Places
from tests.support.service import problem_of, service

MEGABYTE = 1024 * 1024
OLD = make_lines(20)


@pytest.fixture(params=DATABASES)
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NewUrl]:
    with Places(request.param, tmp_path) as places:
        yield places.new_url


@pytest.fixture
def opened(new_url: NewUrl) -> Opened:
    return functools.partial(open_new, new_url)


@pytest.fixture
def in_file(tmp_path: Path) -> Opened:
    """Stores in files, for what is decided before a database hears of it."""
    return functools.partial(
        open_new, (f"sqlite:///{tmp_path}/{number}.db" for number in itertools.count()).__next__
    )


def event_line(payload: bytes, i: int = 0, *, lead: bytes = b"") -> bytes:
    """The line of the ith event with a payload, spelled as it is given."""
    head, _, _ = json.dumps(make_event(i, payload=0), separators=(",", ":")).encode().rpartition(b"0}")
    return lead + head + payload + b"}\n"


async def blocks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def refusals(store: EventStore, payload: bytes) -> list[InputError]:
    """What an import, an incremental import of lines and one of an array say to a payload in the second event."""
    lines = [event_line(b"1"), event_line(payload, 1), event_line(b"2", 2)]
    found = []
    for work in (
        lambda: import_lines(store, b"".join(lines)),
        lambda: store.incremental_import(blocks(*lines), older="accept"),
        lambda: store.incremental_import(blocks(b"[", b",".join(lines), b"]"), older="accept"),
    ):
        with pytest.raises(InputError) as refused:
            await work()
        found.append(refused.value)
        assert refused.value.line == 2
        assert refused.value.byte_offset is not None
    return found


def nested(depth: int, *, kind: str = "[", inside: bytes = b"") -> bytes:
    if kind == "[":
        return b"[" * depth + inside + b"]" * depth
    return b'{"a":' * depth + (inside or b"1") + b"}" * depth


# depth


@pytest.mark.parametrize("kind", ["[", "{"])
async def test_what_nests_to_the_limit_is_stored_loaded_compared_and_moved(opened: Opened, kind: str) -> None:
    payload = nested(MAX_DEPTH, kind=kind)
    async with opened() as a, opened() as b:
        await import_lines(a, event_line(payload))
        [event] = (await a.load_events(limit=1, cursor=None)).events
        assert encode_payload(event.payload) == payload
        await pipeline(a.export_events(), b.import_events())
        # Spelled otherwise, so that it must be compared as a value.
        other = event_line(payload.replace(b"]", b"]", 1) if kind == "[" else payload.replace(b"1", b"1.0"))
        assert await b.incremental_import(blocks(other)) == ImportReport(0, 1, 0)
        version = event.aggregate_version + 1
        saved = {"type": "T", "aggregateId": event.aggregate_id, "aggregateVersion": version}
        await b.save_event(saved | {"payload": event.payload})
        assert (await exported(b)).count(b'{"a":' if kind == "{" else b"[") == 2 * MAX_DEPTH


def test_a_deep_payload_is_compared_and_loaded_from_deep_within_a_program() -> None:
    payload = nested(MAX_DEPTH, kind="{", inside=b"1e20")

    def at(depth: int) -> None:
        if depth:
            at(depth - 1)
            return
        row = LineDecoder().row(event_line(payload).rstrip())
        assert canonical(row.payload) == canonical(payload.replace(b"e20", b"0e19"))
        assert encode_payload(decode_event(event_line(payload).rstrip()).payload)

    at(200)


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 900, 2000, 100_000])
@pytest.mark.parametrize("kind", ["[", "{"])
async def test_what_nests_more_deeply_is_refused_by_line_and_nothing_changes(
    in_file: Opened, depth: int, kind: str
) -> None:
    async with in_file() as store:
        await import_lines(store, OLD)
        for error in await refusals(store, nested(depth, kind=kind)):
            assert "nests" in error.reason
        for error in await refusals(store, nested(depth)[:depth]):
            assert error.reason
        assert await exported(store) == OLD


async def test_a_value_that_nests_too_deeply_is_refused_where_it_comes_as_a_dict(opened: Opened) -> None:
    value: Any = 1
    for _ in range(100_000):
        value = [value]
    shallow: Any = 1
    for _ in range(MAX_DEPTH + 1):
        shallow = {"a": shallow}
    async with opened() as store:
        for payload in (value, shallow):
            event = make_event(0, payload=payload)
            for work in (store.save_event(event), store.incremental_import([event])):
                with pytest.raises(InputError, match="nests"):
                    await work
        assert await exported(store) == b""
    while isinstance(value, list):  # piece by piece, for Python itself ends deep values deep within itself
        value = value[0]


def test_brackets_in_strings_are_no_depth() -> None:
    payload = b'["' + b"[{" * 5000 + b'\\"[[","\\\\",{"' + b"[" * 3000 + b'":[]}]'
    assert LineDecoder().row(event_line(payload).rstrip()).payload == payload


# numbers

NUMBERS = [
    "1e400",
    "-1e-400",
    "9" * 100_000,
    "0." + "3" * 10_000,
    "1e3999",
    "123456789012345678901234567890.5e-30",
]


async def test_huge_numbers_are_stored_loaded_and_compared_exactly(opened: Opened) -> None:
    lines = [event_line(b'{"n":' + number.encode() + b"}", i) for i, number in enumerate(NUMBERS)]
    async with opened() as store:
        await import_lines(store, b"".join(lines))
        events = (await store.load_events(limit=10, cursor=None)).events
        for event, number in zip(events, NUMBERS, strict=True):
            if abs(Decimal(number)) > Decimal("1e308"):
                assert Decimal(event.payload["n"]) == Decimal(number)
        respelled = [
            text.replace(b'":9', b'":0.9e1').replace(b"0.9e1" + b"9" * 99_999, b"9" * 100_000)
            for text in lines
        ]
        assert await store.incremental_import(blocks(*respelled)) == ImportReport(0, len(NUMBERS), 0)
        assert (await store.describe()).event_count == len(NUMBERS)


@pytest.mark.parametrize("number", ["1e1000000", "-1E-1000000", "1e999999999"])
async def test_an_exponent_of_a_million_is_kept_or_refused_by_line_and_field(
    opened: Opened, number: str
) -> None:
    async with opened() as store:
        source = event_line(b"[" + number.encode() + b"]")
        try:
            await import_lines(store, source)
        except InputError as error:
            assert (error.line, error.field) == (1, "payload")  # noqa: PT017 -- one database keeps it, another not
            assert await exported(store) == b""
            return
        assert await exported(store) == source
        assert (await store.load_events(limit=1, cursor=None)).events
        other = event_line(b"[" + number.replace("1", "10", 1).encode() + b"]")
        assert (await store.incremental_import(blocks(source))).skipped_existing == 1
        assert (await store.incremental_import(blocks(other))).imported == 1


@pytest.mark.parametrize("number", [b"1e1000000000", b"-1.5E-00012345678901", b"1e" + b"9" * 100_000])
async def test_an_exponent_that_no_value_has_is_refused_by_line_and_field(
    opened: Opened, number: bytes
) -> None:
    async with opened() as store:
        await import_lines(store, OLD)
        for error in await refusals(store, b'{"a":[' + number + b"]}"):
            assert error.field == "payload"
            assert "exponent" in error.reason
        assert await exported(store) == OLD
        for harmless in (b'"' + number + b'"', b"1e" + b"0" * 2000 + b"5"):
            await store.incremental_import(blocks(event_line(harmless, 50)))


def test_a_number_in_mysqls_json_is_refused_by_its_beginning_however_long_it_is() -> None:
    for number in (b"1" * 5000, b"-" + b"9" * 30, b"1e-99999999999999999999", b"1e999"):
        assert "would be rewritten" in str(refuse_number(b"[" + number + b"]"))
    assert refuse_number(b"[18446744073709551615,-9223372036854775808,0.5]") is None


async def test_a_subscribers_numbers_come_back_exactly(opened: Opened) -> None:
    async with opened() as store:
        value = {"n": Decimal("1e400"), "m": Decimal("8" * 5000)}
        await store.ensure_event_subscriber("a", "b", value, None)
        [subscriber] = await store.get_event_subscribers("a", "b")
        assert subscriber.destination == value


# keys that stand twice


@pytest.mark.parametrize(
    ("doubled", "value"),
    [
        (b'{"a":1,"a":2}', b'{"a":2}'),
        (b'{"a":[1],"b":0,"\\u0061":{"c":1,"c":2}}', b'{"b":0,"a":{"c":2}}'),
        (b'[{"":1,"":null}]', b'[{"":null}]'),
    ],
)
async def test_of_a_payloads_doubled_key_the_last_counts_on_every_database(
    opened: Opened, doubled: bytes, value: bytes
) -> None:
    async with opened() as store:
        await import_lines(store, event_line(doubled))
        before = await exported(store)
        assert json.loads(before)["payload"] == json.loads(value)
        assert (await store.load_events(limit=1, cursor=None)).events[0].payload == json.loads(value)
        for spelling in (doubled, value, value.replace(b":", b" : ")):
            assert await store.incremental_import(blocks(event_line(spelling))) == ImportReport(0, 1, 0)
        first = value.replace(b"2", b"1").replace(b"null", b"1")
        assert await store.incremental_import(blocks(event_line(first))) == ImportReport(1, 0, 0)


@pytest.mark.parametrize("key", ["threadId", "type", "payload", "timestamp"])
@pytest.mark.parametrize("spelling", ["plain", "escaped"])
async def test_a_key_that_stands_twice_in_the_line_is_refused(
    in_file: Opened, key: str, spelling: str
) -> None:
    again = key if spelling == "plain" else f"\\u{ord(key[0]):04x}{key[1:]}"
    value = make_event(0)[key]
    doubled = event_line(b"1").rstrip(b"}\n") + f',"{again}":{json.dumps(value)}}}\n'.encode()
    async with in_file() as store:
        with pytest.raises(InputError) as refused:
            await import_lines(store, doubled)
        assert (refused.value.line, refused.value.field) == (1, key)
        assert await exported(store) == b""


# bytes that are no text

BAD_BYTES = {
    "a lone continuation": b"\x80",
    "an overlong slash": b"\xc0\xaf",
    "an overlong NUL": b"\xc0\x80",
    "three bytes for one": b"\xe0\x80\xaf",
    "four bytes for one": b"\xf0\x80\x80\xaf",
    "half a surrogate pair": b"\xed\xa0\x80",
    "a pair of surrogates": b"\xed\xa0\xbd\xed\xbb\xb3",
    "beyond U+10FFFF": b"\xf4\x90\x80\x80",
    "five bytes": b"\xf8\x88\x80\x80\x80",
    "never in UTF-8": b"\xfe\xff",
    "two of three bytes": b"\xe2\x82",
    "three of four bytes": b"\xf0\x9f\x9b",
}


@pytest.mark.parametrize("bad", BAD_BYTES.values(), ids=BAD_BYTES)
async def test_bytes_that_are_no_utf8_are_refused_wherever_they_stand_and_are_cut(
    in_file: Opened, bad: bytes
) -> None:
    async with in_file() as store:
        await import_lines(store, OLD)
        for field in (b'"payload":', b'"type":', b'"aggregateId":'):
            text = event_line(b'"x"', 1).replace(field + b'"', field + b'"' + bad, 1)
            source = event_line(b"1") + text
            for block in (len(source), 1):
                parts = [source[at : at + block] for at in range(0, len(source), block)]
                for work in (
                    pipeline(parts, store.import_events()),
                    store.incremental_import(blocks(*parts)),
                    store.incremental_import(
                        blocks(
                            b"[",
                            event_line(b"1"),
                            b",",
                            *(text[i : i + block] for i in range(0, len(text), block)),
                            b"]",
                        )
                    ),
                ):
                    with pytest.raises(InputError, match="UTF-8") as refused:
                        await work
                    assert refused.value.line == 2
        assert await exported(store) == OLD


@pytest.mark.parametrize("place", ["before", "within", "behind", "alone", "in a string"])
async def test_a_nul_byte_is_refused_by_line(in_file: Opened, place: str) -> None:
    line = event_line(b'"x"', 1).rstrip(b"\n")
    bad = {
        "before": b"\0" + line,
        "within": line.replace(b",", b",\0", 1),
        "behind": line + b"\0",
        "alone": b"\0",
        "in a string": line.replace(b'"x"', b'"\0"'),
    }[place]
    async with in_file() as store:
        await import_lines(store, OLD)
        source = event_line(b"1") + bad + b"\n"
        for work in (import_lines(store, source), store.incremental_import(blocks(source))):
            with pytest.raises(InputError) as refused:
                await work
            assert refused.value.line == 2
        assert await exported(store) == OLD


# size


class Endless:
    """Blocks without an end; how much was taken of them."""

    def __init__(self, block: bytes, first: bytes = b"") -> None:
        self.taken = 0
        self._blocks = itertools.chain([first], itertools.repeat(block))

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for block in self._blocks:
            assert self.taken < 64 * MEGABYTE, "it goes on and on"
            self.taken += len(block)
            yield block


@contextlib.contextmanager
def at_most(megabytes: float) -> Iterator[None]:
    """Python's memory must not grow by more than this meanwhile."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < megabytes * MEGABYTE, f"{peak / MEGABYTE:.1f} MB"


@pytest.mark.parametrize("size", [MEGABYTE, 7919])
@pytest.mark.parametrize(
    "first", [b'{"type":"', b'[{"type":"', b"", b"["], ids=["line", "array", "blank", "blank array"]
)
async def test_an_endless_line_is_refused_as_soon_as_it_is_too_long(
    tmp_path: Path, size: int, first: bytes
) -> None:
    limit = 4 * MEGABYTE
    async with open_store(f"sqlite:///{tmp_path}/a.db") as store:
        await store.init()
        await import_lines(store, OLD)
        letter = b"x" if first.endswith(b'"') else b" "
        source = Endless(letter * size, first)
        with at_most(4 * limit / MEGABYTE), pytest.raises(InputError, match="longer than") as refused:
            await store.incremental_import(source, max_line_bytes=limit)
        assert refused.value.line == 1
        assert limit < source.taken <= limit + 2 * size + len(first)
        if not first.startswith(b"["):
            source = Endless(letter * size, first)
            with at_most(4 * limit / MEGABYTE), pytest.raises(InputError, match="longer than"):
                await pipeline(source, store.import_events(max_line_bytes=limit))
            assert source.taken <= limit + 2 * size + len(first)
        assert await exported(store) == OLD


async def test_blank_lines_without_number_cost_nothing(tmp_path: Path) -> None:
    async def source() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b" " * 999_998 + b"\r\n"
        yield make_lines(1)

    async with open_store(f"sqlite:///{tmp_path}/a.db") as store:
        await store.init()
        with at_most(10):
            assert (await store.incremental_import(source())).imported == 1

        async def broken() -> AsyncIterator[bytes]:
            yield b"\n" * 1000
            yield b" [1]"

        with pytest.raises(InputError) as refused:
            await store.incremental_import(broken())
        assert (refused.value.line, refused.value.byte_offset) == (1, 1002)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_bomb_in_a_file_is_refused_in_bounded_memory(tmp_path: Path, suffix: str) -> None:
    path, store = tmp_path / f"bomb.ndjson{suffix}", tmp_path / "a.db"
    block = b'{"payload":"' + b"x" * MEGABYTE
    pack: Any = gzip.GzipFile(path, "wb", 1) if suffix == ".gz" else zstd.open(path, "wb")
    with pack as file:
        file.write(block)
        for _ in range(258):
            file.write(block[-MEGABYTE:])
    assert path.stat().st_size < 4 * MEGABYTE
    subprocess.run([*COMMAND, "init", str(store)], check=True, env=environment())
    before = time.monotonic()
    command = [sys.executable, "-c", WATCHED, *COMMAND, "import", str(path), str(store)]
    child = subprocess.run(command, capture_output=True, env=environment(), text=True, check=False)
    words, used = child.stderr, int(child.stdout) * 1024
    assert child.returncode != 0
    assert "longer than 268435456 bytes" in words
    assert "line 1" in words
    # The limit of a line twice, as pieces and as their sum, and what a process needs.
    assert used < 2 * 256 * MEGABYTE + 100 * MEGABYTE
    assert time.monotonic() - before < 30


# A process's peak begins with its parent's, which is this small one and not that of the tests.
WATCHED = """
import os, subprocess, sys
_, status, used = os.wait4(subprocess.Popen(sys.argv[1:]).pid, 0)
print(used.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
@pytest.mark.parametrize("path", ["/import?replace=true", "/incremental-import"])
async def test_a_bomb_over_http_is_refused_and_changes_nothing(
    tmp_path: Path, coding: str, path: str
) -> None:
    bomb = gzip.compress(b" " * 60 * MEGABYTE) if coding == "gzip" else zstd.compress(b" " * 60 * MEGABYTE)
    async with service(tmp_path, OLD) as (client, store):
        response = await client.post(path, content=bomb, headers={"Content-Encoding": coding})
        assert response.status_code == 413, response.text
        problem_of(response)
        assert await exported(store) == OLD


# time: twice as much must not cost four times as much


def _seconds(work: Callable[[], Any]) -> float:
    best = float("inf")
    for _ in range(3):
        before = time.process_time()
        with contextlib.suppress(EventferryError):
            work()
        best = min(best, time.process_time() - before)
    return best


def _decoded(text: bytes) -> None:
    LineDecoder().row(text)


def _split(text: bytes, size: int) -> None:
    splitter = LineSplitter()
    for at in range(0, len(text), size):
        splitter.feed(text[at : at + size])
    splitter.finish()


def _split_array(text: bytes, size: int) -> None:
    splitter = ArraySplitter()
    for at in range(0, len(text), size):
        splitter.feed(text[at : at + size])


def _blank_start(n: int) -> None:
    async def source() -> AsyncIterator[bytes]:
        for _ in range(n // 100):
            yield b" " * 99 + b"\n"

    async def run() -> None:
        from eventferry.importing.incremental import _pieces
        from eventferry.lines.limits import ROOMY

        async for _ in _pieces(source(), ROOMY, ignore_unknown_keys=False, max_line_bytes=2**28):
            pass

    asyncio.run(run())


WORK: dict[str, tuple[int, Callable[[int], Any]]] = {
    "a long string": (200_000, lambda n: _decoded(event_line(b'"' + b"x" * n + b'"').rstrip())),
    "escapes": (50_000, lambda n: _decoded(event_line(b'"' + b"\\u0041" * n + b'"').rstrip())),
    "surrogates": (
        50_000,
        lambda n: _decoded(event_line(b'"' + b"\\ud83d\\udef3" * n + b'\\ud800"').rstrip()),
    ),
    "backslashes": (50_000, lambda n: _decoded(event_line(b'"' + b"\\\\" * n + b'\\u0000"').rstrip())),
    "flat lists": (25_000, lambda n: _decoded(event_line(b"[" + b"[]," * n + b"0]").rstrip())),
    "open brackets": (100_000, lambda n: _decoded(event_line(b"[" * n).rstrip())),
    "digits": (100_000, lambda n: _decoded(event_line(b"1" * n).rstrip())),
    "many keys": (
        20_000,
        lambda n: _decoded(
            event_line(b"1").rstrip(b"}\n") + b"".join(b',"k%d":1' % i for i in range(n)) + b"}"
        ),
    ),
    "one unknown key": (200_000, lambda n: _decoded(b'{"' + b"k" * n + b'":1}')),
    "keys in another order": (
        20_000,
        lambda n: _decoded(b'{"payload":[' + b'{"a":1},' * n + b"1]," + event_line(b"1").rstrip()[1:]),
    ),
    "blanks": (100_000, lambda n: _decoded(event_line(b"[" + b" " * n + b"]").rstrip())),
    "blocks of a byte": (15_000, lambda n: _split(b"x" * n, 1)),
    "lines of a byte": (50_000, lambda n: _split(b"x\n" * n, 1000)),
    "an element in blocks": (15_000, lambda n: _split_array(b'["' + b"\\" * n, 3)),
    "many elements": (15_000, lambda n: _split_array(b"[" + b"1," * n, 64)),
    "blanks before anything": (400_000, _blank_start),
    "canonical numbers": (50_000, lambda n: canonical(b"1" * n + b"e" + b"7" * 9)),
    "canonical exponents": (1_000, lambda n: canonical(b"[" + b"1e777777777," * n + b"1]")),
    "an exponent": (50_000, lambda n: canonical(b"1e" + b"7" * n)),
    "canonical keys": (
        10_000,
        lambda n: canonical(b"{" + b"".join(b'"%d":%d,' % (i, i) for i in range(n)) + b'"a":1}'),
    ),
    "gzip members": (6_000, lambda n: list(Gzip("it").feed(gzip.compress(b"") * n))),
    "zstd frames": (1_000, lambda n: list(Zstd("it").feed(zstd.compress(b"") * n))),
    "numbers for PostgreSQL": (10_000, lambda n: refuse_payload(b"[" + b"1e5," * n + b"1]")),
    "a string for PostgreSQL": (50_000, lambda n: refuse_payload(b'["' + b"\\n" * n + b'",1e5]')),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WORK)
def test_eight_times_the_input_costs_no_more_than_some_eight_times_the_time(name: str) -> None:
    size, work = WORK[name]
    for attempt in range(3):  # another process may have had the processor's caches meanwhile
        small, large = _seconds(lambda: work(size)), _seconds(lambda: work(8 * size))
        if large < 8 * 4 * max(small, 0.0005):
            return
        assert attempt < 2, f"{small:.4f} s for {size}, {large:.4f} s for {8 * size}"


def test_a_long_string_costs_postgresql_no_memory() -> None:
    payload = b'["' + b"x\\n" * 5_000_000 + b'",1e5]'
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert refuse_payload(payload) is None
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60 * 1024


# names and SQL

NASTY = [
    *("'; DROP TABLE events; --", '"; DROP TABLE "events"; --', "`; DROP TABLE `events`; --", "' OR '1'='1"),
    *(
        "a\\'; DROP TABLE events; --",
        "%s %(a)s %% %",
        "{0} {a} $1 :a ?1 @p",
        "/* */ -- x",
        "a\nb\r\tc",
        "\\",
        "''",
    ),
    *(
        "\u2028\u2029\x85",
        "ｅvents",
        "\x1a\x08\x1b[2J",
        "EVENTFERRY STORE ID 'x'",
        "NULL",
        "🛳" * 20,
        "a\0b",
        "\ud800",
    ),
]


async def attempt(work: Any) -> Any:
    """What comes of a call: its result, or None where it was refused by name."""
    try:
        return await work
    except (InputError, UsageError, ImportNotFoundError):
        return None


@pytest.mark.slow
async def test_sql_in_any_string_is_kept_or_refused_and_does_nothing(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, OLD)
        await store.save_snapshot("mine", "kept")
        await store.set_secret("mine", "kept")
        for text in NASTY:
            await check_string(store, text)
        assert await store.load_snapshot("mine") == "kept"
        assert await store.get_secret("mine") == "kept"


async def check_string(store: EventStore, text: str) -> None:
    """Put a text wherever one goes; what was there must stay."""
    before = await exported(store)
    event = {"type": text, "aggregateId": text, "aggregateVersion": 1, "payload": {text: [text]}}

    is_plain = "\0" not in text and text != "\ud800"  # anything else is kept everywhere

    await attempt(store.set_secret(f"k{text}", f"s{text}"))
    assert await attempt(store.get_secret(f"k{text}")) == (f"s{text}" if is_plain else None)
    assert await attempt(store.get_secret(f"no{text}")) is None
    assert not await attempt(store.delete_secret(f"no{text}"))
    page = await attempt(store.load_secrets(limit=9, ids=[f"k{text}"]))
    assert page is None or [row.id for row in page.secrets] in ([f"k{text}"], [])

    await attempt(store.save_snapshot(f"k{text}", f"c{text}"))
    assert await attempt(store.load_snapshot(f"k{text}")) in (
        [f"c{text}"] if is_plain else [None, f"c{text}"]
    )
    await attempt(store.drop_snapshot(f"k{text}"))
    assert await attempt(store.load_snapshot(f"k{text}")) is None

    registered = await attempt(store.ensure_event_subscriber(text, text, {"a": text}, {text: 1}))
    assert registered or not is_plain
    if registered:
        [subscriber] = await store.get_event_subscribers(text, text)
        assert subscriber.destination == {"a": text}
        assert subscriber.status == {text: 1}
    await attempt(store.remove_event_subscriber(text, text))
    assert not await attempt(store.get_event_subscribers(text, text))

    filters: dict[str, Any] = {"event_types": [text], "aggregate_ids": [text]}
    for work in (
        store.load_events(limit=9, cursor=None, **filters),
        store.load_events(limit=9, start_time=0, **filters),
    ):
        page = await attempt(work)
        assert page is None or page.events == []
    assert not await attempt(store.get_latest_event(**filters))
    assert not await attempt(exported(store, **filters))
    await attempt(store.get_cursor_until_event_types(None, [text]))
    refused: list[Any] = [
        store.load_events(limit=9, cursor=text),
        store.commit_incremental_import(text),
        store.push_incremental_import([], text),
        store.rollback_incremental_import(text),
    ]
    for work in refused:
        assert await attempt(work) is None
    import_id = await store.begin_incremental_import()
    await attempt(store.push_incremental_import([make_event(0)], import_id, part=text))
    await store.rollback_incremental_import(import_id)

    saved = await attempt(store.save_event(event))
    assert (saved is not None) == is_plain
    if saved is not None:
        assert saved.event.payload == {text: [text]}
        [found] = (await store.load_events(limit=9, cursor=None, **filters)).events
        assert (found.type, found.aggregate_id, found.payload) == (text, text, {text: [text]})
        assert (await store.get_latest_event(**filters)) == found
        assert (await store.incremental_import([found])).skipped_existing == 1

    after = await exported(store)
    assert after.startswith(before)


TABLES = [
    *(text for text in NASTY if text != "\ud800"),
    *(
        "sqlite_master",
        "SQLITE_STAT1",
        "pg_class",
        "information_schema.tables",
        "mysql.user",
        "main.events",
        "temp",
    ),
    *("rowid", "a.b", "../x", "select", "%", " ", "a ", "", "x" * 44, "x" * 64, "x" * 5000, "х" * 40, "\x7f"),
]


@pytest.mark.slow
async def test_any_name_of_a_table_works_throughout_or_is_refused_by_name(
    opened: Opened, new_url: NewUrl
) -> None:
    options = ("events_table_name", "snapshots_table_name", "secrets_table_name", "subscribers_table_name")
    refused = set()
    async with opened() as beside:
        await import_lines(beside, OLD)
        place = new_url()
        for turn, name in enumerate(TABLES):
            names: dict[str, Any] = {
                option: name + "_" * count if name else name for count, option in enumerate(options)
            }
            inside = "&".join(f"{key}={quote(value)}" for key, value in names.items())
            try:
                if turn % 2:
                    store = open_store(place, **names)
                else:
                    store = open_store(place + ("&" if "?" in place else "?") + inside)
            except UsageError:
                refused.add(name)
                continue
            async with store:
                await store.init()
                await _used(store)
                await store.drop()
                assert not await store.exists()
        assert await exported(beside) == OLD
    assert refused >= {"", "a\0b"}
    # Quotes, per cent signs and the names of other schemas' tables are names like any other.
    assert not refused & {*NASTY[:8], "a.b", "select", "pg_class", "rowid", "%"}


@pytest.mark.parametrize(
    "names",
    [
        *(
            {"secrets_table_name": f"b{end}"}
            for end in ("-freeze", "-threads", "-stage-0123456789ab", "-merge-1", "-old-1-2")
        ),
        *({option: "B-Incremental-Import"} for option in ("snapshots_table_name", "subscribers_table_name")),
        *(
            {option: "B"}
            for option in ("snapshots_table_name", "subscribers_table_name", "secrets_table_name")
        ),
        {"snapshots_table_name": "c", "secrets_table_name": "c"},
    ],
    ids=str,
)
def test_two_tables_of_a_store_cannot_be_one(new_url: NewUrl, names: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"cannot (be|have)"):
        open_store(new_url(), events_table_name="b", **names)
    open_store(
        new_url(), events_table_name="b", secrets_table_name="b-secrets", snapshots_table_name="b-importer"
    )


async def _used(store: EventStore) -> None:
    await import_lines(store, make_lines(3))
    assert await exported(store) == make_lines(3)
    await store.set_secret("id", "secret")
    assert await store.get_secret("id") == "secret"
    assert (await store.incremental_import([make_event(9)], older="accept")).imported == 1
    import_id = await store.begin_incremental_import()
    await store.push_incremental_import([make_event(7)], import_id, part="1")
    assert (await store.commit_incremental_import(import_id, older="accept")).imported == 1
    await store.freeze()
    await store.unfreeze()
    assert await store.get_secret("id") == "secret"
    assert (await store.describe()).event_count == 6


@pytest.mark.parametrize(
    "option", ["events_table_name", "snapshots_table_name", "secrets_table_name", "subscribers_table_name"]
)
def test_half_a_surrogate_pair_is_no_name(new_url: NewUrl, option: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name of a table"):
        open_store(new_url(), **{option: "a\ud800"})  # type: ignore[arg-type]


def test_an_error_repeats_little_of_the_input_and_moves_no_terminal(tmp_path: Path) -> None:
    for key in ("k" * 1_000_000, "\\u001b[2J\\u001b[1;1Hall is well", "\\u202egnp.exe", "a\\u0000b"):
        with pytest.raises(InputError) as refused:
            LineDecoder().row(b'{"' + key.encode() + b'":1}')
        assert len(str(refused.value)) < 300
        assert str(refused.value).isprintable()


@pytest.mark.slow
def test_a_file_that_is_a_database_but_no_store_is_no_store(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE VIEW events AS SELECT 1 AS threadId")
        connection.commit()
    path_of_noise = tmp_path / "b.db"
    path_of_noise.write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 100)
    for name in (path, path_of_noise):
        ended = subprocess.run(
            [*COMMAND, "export", str(name), "-"],
            capture_output=True,
            env=environment(),
            check=False,
            timeout=60,
        )
        assert ended.returncode == 1
        assert b"Traceback" not in ended.stderr
        assert ended.stdout == b""
