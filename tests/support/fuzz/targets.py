"""What is fuzzed: each target takes any bytes and fails where the code does not do what the reference says.

None of them needs the fuzzer: the files of the corpus run in every test run.
"""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import random
import sqlite3
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

from backports import zstd

from eventferry import EmptyInputError, Event, EventStore, ImportReport, InputError, UsageError, open_store
from eventferry import cursor as cursors
from eventferry.comparing.canonical import canonical
from eventferry.databases.mysql.payloads import refuse_number as refuse_in_mysql
from eventferry.databases.postgresql.payloads import refuse_payload as refuse_in_postgresql
from eventferry.databases.sqlite.payloads import refuse_number as refuse_in_sqlite
from eventferry.errors import EventferryError
from eventferry.http.charsets import CHARSETS, Recoder
from eventferry.http.packing import CODINGS, unpacker
from eventferry.lines.blocks import BOM, ArraySplitter, LineSplitter
from eventferry.lines.decoder import LineDecoder
from eventferry.lines.payload import compact, decode_payload, encode_payload
from tests.support.fuzz import reference
from tests.support.fuzz.reference import RefusedError

MAX_LINE = 4096
"""So low that the fuzzer gets there."""


class Chooser:
    """Decisions taken from the first bytes of an input; what is left is the input proper."""

    def __init__(self, data: bytes) -> None:
        self.rest = data

    def number(self, below: int) -> int:
        """A decision; 0 where nothing is left."""
        size = 1 if below <= 256 else 2
        taken, self.rest = self.rest[:size], self.rest[size:]
        return int.from_bytes(taken, "little") % below

    def blocks(self) -> list[bytes]:
        """What is left, cut as the first bytes of it say: not at all, at some places, or everywhere."""
        cuts = [self.number(65536) for _ in range(self.number(5))]
        text, self.rest = self.rest, b""
        if len(cuts) == 4:
            size = cuts[0] % 7 + 1
            return [text[at : at + size] for at in range(0, len(text), size)] or [b""]
        places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
        return [text[start:end] for start, end in itertools.pairwise(places)] or [b""]


def _refusal(work: Callable[[], Any]) -> tuple[Any, InputError | None]:
    try:
        return work(), None
    except InputError as error:
        return None, error


# lines


def lines(data: bytes) -> None:
    """Blocks cut anywhere become lines, lines become rows, and what is refused is refused where it stands."""
    chooser = Chooser(data)
    positioned = bool(chooser.number(2))
    blocks = chooser.blocks()
    text = b"".join(blocks)
    found, refused = _split(blocks)
    whole, refused_whole = _split([text])
    body = text.removeprefix(BOM)
    start = len(text) - len(body)
    try:
        body.decode()
    except UnicodeDecodeError as error:
        assert refused is not None
        assert refused_whole is not None
        if max(map(len, body.split(b"\n"))) <= MAX_LINE:
            before = body[: error.start]
            place = (before.count(b"\n") + 1, start + before.rfind(b"\n") + 1)
            for each in (refused, refused_whole):
                assert (each.line, each.byte_offset) in (place, (1, 0)), (each, place)
                assert "UTF-8" in each.reason or "inside a character" in each.reason
        return
    long = [number for number, line in enumerate(body.split(b"\n"), 1) if len(line) > MAX_LINE]
    if long:
        assert refused is not None
        assert refused.line == long[0]
        return
    assert (refused, refused_whole) == (None, None)
    assert b"\n".join(line for *_, line in found) == body.removesuffix(b"\n")
    assert found == whole
    decoder = LineDecoder()
    for number, offset, line in found:
        assert body.split(b"\n")[number - 1] == line
        assert text[offset : offset + len(line)] == line
        if line and not line.isspace():
            _line(decoder, line, positioned=positioned)


def _split(blocks: list[bytes]) -> tuple[list[tuple[int, int, bytes]], InputError | None]:
    splitter = LineSplitter(MAX_LINE)
    found = []
    try:
        for part in (*map(splitter.feed, blocks), None):
            part = part or splitter.finish()
            offset = part.byte_offset
            for number, text in enumerate(part.texts, part.line):
                found.append((number, offset, text))
                offset += len(text) + 1
            assert part.end >= part.byte_offset
    except InputError as error:
        return found, error
    return found, None


def _line(decoder: LineDecoder, line: bytes, *, positioned: bool) -> None:
    row: Any
    row, refused = _refusal(lambda: (decoder.row if positioned else decoder.new_row)(line))
    try:
        expected = reference.event(line, positioned=positioned)
    except RefusedError as error:
        assert refused is not None, f"taken, but {error}: {row}"
        assert refused.reason
        assert len(str(refused)) < 1000
        assert str(refused).isprintable()
        return
    assert refused is None, refused
    names = ["type", "timestamp", "aggregate_id"] + (
        ["thread_id", "thread_counter", "aggregate_version"] if positioned else []
    )
    for name in names:
        assert getattr(row, name) == expected[_camel(name)]
    assert reference.same(reference.parsed(row.payload), expected["payload"])
    assert not any(blank in _outside_strings(row.payload) for blank in b" \t\r\n")


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(map(str.title, rest))


def _outside_strings(text: bytes) -> bytes:
    return b"".join(text.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])


# an array


def array(data: bytes) -> None:
    """One JSON array in blocks cut anywhere becomes its elements, or is refused as one that is none."""
    chooser = Chooser(data)
    blocks = chooser.blocks()
    text = b"".join(blocks)
    if not text.removeprefix(BOM).lstrip().startswith(b"["):
        return  # taken for lines
    found, refused = _refusal(lambda: _elements(blocks))
    whole, refused_whole = _refusal(lambda: _elements([text]))
    assert (refused is None) == (refused_whole is None), (refused, refused_whole)
    if b"\v" in text or b"\f" in text:
        return  # blank here, but not in JSON
    try:
        value = reference.parsed(text.removeprefix(BOM))
    except RefusedError:
        if refused is None:  # an element that is no JSON is for its decoder to refuse
            assert any(_is_no_json(element) for *_, element in found)
        return
    if not isinstance(value, list):
        assert refused is not None
        return
    if any(len(element) > MAX_LINE for element in text.split(b",")):
        return
    if refused is not None:
        assert "longer" in refused.reason, refused
        return
    assert found == whole
    assert reference.same([reference.parsed(element.strip()) for *_, element in found], value)
    for place, (number, offset, element) in enumerate(found, 1):
        assert number == place
        assert text[offset : offset + len(element)] == element


def _elements(blocks: list[bytes]) -> list[tuple[int, int, bytes]]:
    splitter = ArraySplitter(MAX_LINE)
    found = [element for block in blocks for element in splitter.feed(block)]
    splitter.finish()
    return found


def _is_no_json(text: bytes) -> bool:
    try:
        reference.parsed(text.strip())
    except RefusedError:
        return True
    return False


# the canonical form


def canonical_form(data: bytes) -> None:
    """Equal values, and only they, have equal forms; and whatever is a payload can be loaded and checked."""
    chooser = Chooser(data)
    seed = chooser.number(65536)
    texts = chooser.rest.split(b"\xff", 1)
    values = []
    for text in texts:
        try:
            value = reference.parsed(text)
        except RefusedError:
            return
        if not reference.is_storable(value):
            return
        values.append((text, value))
    for text, value in values:
        with reference.deeply():
            other = _respelled(value, random.Random(seed)).encode()
        for variant in (compact(text), other):
            assert canonical(variant) == canonical(text)
        for refuse in (refuse_in_sqlite, refuse_in_mysql, refuse_in_postgresql):
            reason = refuse(compact(text))
            assert reason is None or reason.isprintable()
        again = encode_payload(decode_payload(text))
        assert encode_payload(decode_payload(again)) == again
    if len(values) == 2:
        (first, a), (second, b) = values
        equal = reference.same(reference.meaning(a), reference.meaning(b))
        assert (canonical(first) == canonical(second)) == equal


def _respelled(value: Any, chance: random.Random) -> str:
    """Another spelling of the same value."""
    space = chance.choice(["", "", " ", "\n"])
    if isinstance(value, reference.Object):
        members = list(dict(value.members).items())
        chance.shuffle(members)
        # A key that a later one takes the place of.
        inside = [f"{json.dumps(key)}:0" for key, _ in members[:1] if chance.random() < 0.3]
        inside += [
            f"{json.dumps(key, ensure_ascii=chance.random() < 0.5)}{space}:{_respelled(member, chance)}"
            for key, member in members
        ]
        return "{" + space + f",{space}".join(inside) + "}"
    if isinstance(value, list):
        return "[" + f"{space},".join(_respelled(member, chance) for member in value) + f"{space}]"
    if isinstance(value, reference.Number):
        mantissa, _, exponent = value.lower().partition("e")
        whole, _, fraction = mantissa.partition(".")
        power = int(exponent or 0)
        if abs(power) > 10**8 or chance.random() < 0.3:
            return str(value)
        digits = (whole.lstrip("-") + fraction).lstrip("0") or "0"
        zeros = "0" * chance.randrange(3) if digits != "0" else ""
        sign = "-" if value.startswith("-") else ""
        return f"{sign}{digits}{zeros}E{power - len(fraction) - len(zeros):+03}"
    return json.dumps(value, ensure_ascii=chance.random() < 0.5)


# a store


class _Place:
    """A SQLite store that every input finds in the state that it asks for."""

    def __init__(self) -> None:
        memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self._folder = tempfile.TemporaryDirectory(prefix="eventferry-fuzz-", dir=memory)
        self.loop = asyncio.new_event_loop()
        url = f"sqlite:///{self._folder.name}/store.db"
        self.store: EventStore = open_store(url)
        self.loop.run_until_complete(self.store.init())
        self._sqlite = sqlite3.connect(f"{self._folder.name}/store.db", isolation_level=None)
        self._sqlite.execute("PRAGMA synchronous = OFF")

    def reset(self, events: list[dict[str, Any]]) -> None:
        """Make these all that the store holds."""
        self._sqlite.execute("BEGIN")
        self._sqlite.execute("DELETE FROM events")
        self._sqlite.executemany(
            "INSERT INTO events VALUES (:threadId, :threadCounter, :timestamp, :aggregateId, :aggregateVersion, "
            ":type, :payload)",
            events,
        )
        self._sqlite.execute("COMMIT")

    def rows(self) -> list[tuple[Any, ...]]:
        """All that the store holds, by its position."""
        return self._sqlite.execute(
            'SELECT "threadId", "threadCounter", "timestamp", "aggregateId", "aggregateVersion", "type", '
            'CAST("payload" AS BLOB) FROM events ORDER BY "threadId", "threadCounter"'
        ).fetchall()

    def tables(self) -> list[str]:
        """The tables of the file."""
        return [
            name for (name,) in self._sqlite.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]


_places: list[_Place] = []

_PAYLOADS = (
    *("null", "true", "0", "1", "1.0", "10e-1", "-0", '"1"', '""', "[]", "{}", "[1]", "[1.00]"),
    *('{"a":1,"b":2}', '{"b":2.0,"a":1}', '{"a":2,"a":1,"b":2}', '{"a":1,"b":{"c":[]}}', '"\\u00e9"', '"é"'),
    *("1e400", "10e399", "12345678901234567890", "12345678901234567891", '"\\u0000"', '"a\'b"', '{"":""}'),
    *("[[[[[]]]]]", "[[[[{}]]]]", '{"A":1,"b":2}', '"\\ud83d\\udef3"', '"🛳"', "1E+5", "100000"),
)
_TIMES = (0, 1, 2, 3, 256, 257, 1000, 2**53 - 1, -1)
_IDS = ("a", "A", "b", "á", "", "a'b", "a\\b")
_TYPES = ("T", "t", "OTHER", "RESOLVE_SET_SECRET")
_NEW = ("timestamp", "aggregateId", "type")


def store(data: bytes) -> None:
    """What comes in stands in the store as the reference has it, or nothing has changed; again changes nothing."""
    if not _places:
        _places.append(_Place())
    place = _places[0]
    chooser = Chooser(data)
    positioned = bool(chooser.number(2))
    older = ("skip", "accept", "reject")[chooser.number(3)]
    base = list(_positioned(_made(chooser, chooser.number(6))))
    place.reset([fields | {"payload": fields["payload"]} for fields in base])
    if chooser.number(2):
        made = list(_made(chooser, chooser.number(9)))
        events = list(_positioned(made)) if positioned else made
        # The same position or version twice must be refused.
        events += events[: chooser.number(3)]
        texts = [_spelled(fields) for fields in events]
        source = (
            (b"[" + b",".join(texts) + b"]") if not positioned and chooser.number(2) else b"\n".join(texts)
        )
        blocks = [source]
    else:
        blocks = chooser.blocks()
    before = place.rows()
    work = _imported(place, blocks, before) if positioned else _merged(place, blocks, before, older)
    place.loop.run_until_complete(work)
    assert sorted(place.tables()) == ["events", "secrets", "snapshots", "subscribers"]


def _made(chooser: Chooser, count: int) -> Iterator[dict[str, Any]]:
    for _ in range(count):
        yield {
            "timestamp": _TIMES[chooser.number(len(_TIMES))],
            "aggregateId": _IDS[chooser.number(len(_IDS))],
            "type": _TYPES[chooser.number(len(_TYPES))],
            "payload": _PAYLOADS[chooser.number(len(_PAYLOADS))],
        }


def _positioned(events: Any) -> Iterator[dict[str, Any]]:
    counters: Counter[int] = Counter()
    versions: Counter[str] = Counter()
    for fields in sorted(events, key=lambda fields: fields["timestamp"]):
        thread = fields["timestamp"] % 256
        versions[fields["aggregateId"]] += 1
        yield fields | {
            "threadId": thread,
            "threadCounter": counters[thread],
            "aggregateVersion": versions[fields["aggregateId"]],
        }
        counters[thread] += 1


def _spelled(fields: dict[str, Any]) -> bytes:
    members = [f"{json.dumps(key)}:{json.dumps(value)}" for key, value in fields.items() if key != "payload"]
    return ("{" + ",".join([*members, f'"payload":{fields["payload"]}']) + "}").encode()


async def _blocks(blocks: list[bytes]) -> AsyncIterator[bytes]:
    for block in blocks:
        yield block


def _expected(text: bytes, *, positioned: bool) -> list[dict[str, Any]] | None:
    """The events of an input; None where it must be refused."""
    try:
        text.decode()
        body = text.removeprefix(BOM)
        texts = body.split(b"\n")
        if not positioned and body.lstrip().startswith(b"["):
            value = reference.parsed(body.strip())
            if not isinstance(value, list):
                return None
            texts = [element for *_, element in _elements([text])]
        elif max(map(len, texts)) > MAX_LINE:
            return None
        return [reference.event(one.strip(), positioned=positioned) for one in texts if one.strip()]
    except (RefusedError, UnicodeDecodeError, InputError):
        return None


async def _imported(place: _Place, blocks: list[bytes], before: list[tuple[Any, ...]]) -> None:
    expected = _expected(b"".join(blocks), positioned=True)
    if expected is not None:
        positions = {(fields["threadId"], fields["threadCounter"]) for fields in expected}
        versions = {(fields["aggregateId"], fields["aggregateVersion"]) for fields in expected}
        if min(len(positions), len(versions)) < len(expected):
            expected = None

    async def run() -> int:
        async with place.store.import_events(max_line_bytes=MAX_LINE) as stream:
            for block in blocks:
                await stream.write(block)
            return (await stream.close()).imported

    try:
        imported = await run()
    except EmptyInputError:
        assert expected == []
        assert before
        assert place.rows() == before
        return
    except InputError as error:
        assert expected is None, error
        assert error.line is not None
        assert error.byte_offset is not None or "twice" in error.reason or "line" in error.reason
        assert place.rows() == before
        return
    assert expected is not None
    assert imported == len(expected)
    names = ("threadId", "threadCounter", "timestamp", "aggregateId", "aggregateVersion", "type")
    after = place.rows()
    assert reference.same(
        [(*row[:6], reference.parsed(row[6])) for row in after],
        sorted(
            ((*(fields[name] for name in names), fields["payload"]) for fields in expected),
            key=lambda row: row[:2],
        ),
    )
    exported = [block async for block in place.store.export_events()]
    blocks[:] = exported
    if exported:
        assert await run() == len(expected)
    assert place.rows() == after


async def _merged(place: _Place, blocks: list[bytes], before: list[tuple[Any, ...]], older: Any) -> None:
    expected = _expected(b"".join(blocks), positioned=False)

    async def run(mode: Any = older) -> ImportReport:
        return await place.store.incremental_import(_blocks(blocks), older=mode, max_line_bytes=MAX_LINE)

    try:
        report = await run()
    except InputError as error:
        assert expected is None, error
        assert error.line is not None
        assert error.byte_offset is not None
        assert place.rows() == before
        return
    except EventferryError:
        assert older == "reject"
        assert expected is not None
        new, _, late = _new(before, expected)
        assert late, new
        assert place.rows() == before
        return
    assert expected is not None
    new, existing, late = _new(before, expected)
    assert not (late and older == "reject")
    if older == "accept":
        new, late = sorted(new + late, key=lambda fields: int(fields["timestamp"])), []
    assert report == ImportReport(len(new), existing, len(late))
    after = place.rows()
    assert set(before) <= set(after)
    with reference.deeply():
        assert Counter(map(_value, after)) == Counter(map(_value, before)) + Counter(
            reference.identity(fields, _NEW) for fields in new
        )
    _check_places(before, after)
    again = await run("accept" if older == "accept" else "skip")
    assert again == ImportReport(0, existing + len(new), len(late))
    assert place.rows() == after


@reference.deeply()
def _new(
    before: list[tuple[Any, ...]], expected: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], int, list[dict[str, Any]]]:
    """Of the events: those that come in, how many are there already, and those that are too old."""
    there = Counter(map(_value, before))
    latest = max((row[2] for row in before), default=None)
    new: list[dict[str, Any]] = []
    late: list[dict[str, Any]] = []
    existing = 0
    for fields in expected:
        value = reference.identity(fields, _NEW)
        if there[value] > 0:
            there[value] -= 1
            existing += 1
        else:
            (late if latest is not None and fields["timestamp"] < latest else new).append(fields)
    return new, existing, late


def _value(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return (row[2], row[3], row[5], reference.meaning(reference.parsed(row[6])))


def _check_places(before: list[tuple[Any, ...]], after: list[tuple[Any, ...]]) -> None:
    """New events stand behind the old ones of their thread and aggregate, without a gap."""
    for group_at, number_at in ((0, 1), (3, 4)):
        groups: dict[Any, list[int]] = {}
        for row in after:
            groups.setdefault(row[group_at], []).append(row[number_at])
        old = Counter(row[group_at] for row in before)
        for group, numbers in groups.items():
            first = min(numbers)
            assert sorted(numbers) == list(range(first, first + len(numbers)))
            assert len(numbers) >= old[group]


# cursors


def cursor(data: bytes) -> None:
    """A text is a cursor or it is refused; a cursor has one spelling."""
    chooser = Chooser(data)
    if chooser.number(2):
        padded = chooser.rest[:1536].ljust(1536, b"\0")
        counters = [int.from_bytes(padded[at : at + 6], "big") for at in range(0, 1536, 6)]
        text = cursors.encode(counters)
        assert cursors.decode(text) == counters
        event = Event(thread_id=padded[0], thread_counter=padded[1], type="T", aggregate_id="a")
        moved = cursors.decode(cursors.after(text, [event]))
        assert moved[padded[0]] == max(counters[padded[0]], padded[1] + 1)
        text = (
            text[: chooser.number(65536)] + chooser.rest[1536:].decode("latin-1") + text[len(chooser.rest) :]
        )
    else:
        text = chooser.rest.decode("utf-8", "surrogateescape")
    try:
        counters = cursors.decode(text)
    except UsageError as error:
        assert len(str(error)) < 300
        return
    assert cursors.encode(counters) == text


# bodies


def body(data: bytes) -> None:
    """A body in any charset, packed or not, arrives as the text that it is, however it is cut, or is refused."""
    chooser = Chooser(data)
    charset = CHARSETS[chooser.number(len(CHARSETS))]
    coding = CODINGS[chooser.number(len(CODINGS))]
    is_packed, is_encoded = chooser.number(2), chooser.number(2)
    raw = chooser.blocks()
    content = b"".join(raw)
    if is_encoded:
        content = content.decode("utf-8", "ignore").encode(charset, "ignore")
    if is_packed and coding != "identity":
        content = gzip.compress(content, 1) if coding == "gzip" else zstd.compress(content)
    size = len(raw[0]) % 13 + 1
    pieces = [content[at : at + size] for at in range(0, len(content), size)] if len(raw) > 1 else [content]
    whole, refused_whole = _refusal(lambda: _received([content], charset, coding))
    cut, refused = _refusal(lambda: _received(pieces, charset, coding))
    assert (refused is None) == (refused_whole is None), (refused, refused_whole)
    assert cut == whole
    unpacked = _unpacked(content, coding)
    if unpacked is None or (coding == "gzip" and content.endswith(b"\0") and refused is not None):
        assert refused is not None  # zeros behind a member are padding to Python, and damage here
    elif charset in ("utf-8", "utf-8-sig"):
        assert whole == unpacked
    elif charset not in ("utf-16", "utf-32"):
        try:
            expected = unpacked.decode(charset).encode()
        except UnicodeError:
            assert refused is not None
            assert refused.line is not None
        else:
            assert refused is None, refused
            assert whole == expected


def _received(pieces: list[bytes], charset: str, coding: str) -> bytes:
    recoder, unpacking = Recoder(charset), unpacker(coding)
    text = b"".join([recoder.feed(part) for piece in pieces for part in unpacking.feed(piece)])
    unpacking.finish()
    return text + recoder.finish()


def _unpacked(content: bytes, coding: str) -> bytes | None:
    if coding == "identity":
        return content
    try:
        if coding == "zstd":
            return zstd.decompress(content) if content else None
        return gzip.decompress(content) if content else None
    except (OSError, EOFError, zstd.ZstdError, ValueError):
        return None
    except Exception as error:
        if type(error).__name__ == "error":  # zlib's
            return None
        raise


TARGETS: dict[str, Callable[[bytes], None]] = {
    "lines": lines,
    "array": array,
    "canonical": canonical_form,
    "store": store,
    "cursor": cursor,
    "body": body,
}
