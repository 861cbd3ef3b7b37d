"""Memory: a large event passes, and a large store takes no more than a small one."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from eventferry.comparing.side_by_side import WAITING_BYTES
from tests.support.places import DATABASES, Places

pytestmark = pytest.mark.slow

MEGABYTE = 1024 * 1024

# The peak of this process alone: on Linux that of getrusage begins with its parent's.
PRELUDE = """
import asyncio, resource, sys, time
from pathlib import Path
from eventferry import open_store, pipeline, verify

def say_peak():
    status = Path("/proc/self/status")
    if status.exists():
        peak = next(int(text.split()[1]) for text in status.read_text().splitlines() if text.startswith("VmHWM"))
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)
    print(peak * 1024)

class Counting:
    size = lines = 0
    async def write(self, block):
        self.size += len(block)
        self.lines += block.count(b"\\n")
    async def close(self):
        pass
    async def abort(self, error=None):
        pass

async def many(count):
    text = b"x" * 180
    for start in range(0, count, 2000):
        yield b"".join(
            b'{"threadCounter":%d,"threadId":%d,"type":"SOMETHING_HAPPENED","timestamp":%d,"aggregateId":"aggregate-%d",'
            b'"aggregateVersion":%d,"payload":{"number":%d,"text":"%s"}}\\n'
            % (i // 256, i % 256, 1600000000000 + i, i % 10000, i // 10000 + 1, i, text)
            for i in range(start, start + 2000)
        )
"""

IMPORT = """
async def main(url, source):
    async with open_store(url) as store:
        await store.init()
        await pipeline(many(int(source)) if source.isdigit() else source, store.import_events())
asyncio.run(main(*sys.argv[1:]))
say_peak()
"""

EXPORT = """
async def main(url, size):
    sink = Counting()
    async with open_store(url) as store:
        await pipeline(store.export_events(), sink)
    assert sink.size > int(size)
asyncio.run(main(*sys.argv[1:]))
say_peak()
"""

VERIFY = """
async def main(one, two, by, changed):
    async with open_store(one) as a, open_store(two) as b:
        began = time.monotonic()
        report = await verify(a.export_events(), b.export_events(), content=by == "content")
        seconds = time.monotonic() - began
    expected = (0, 0, 0) if not int(changed) else (1, 1, 0) if by == "content" else (0, 0, 1)
    assert (report.missing, report.extra, report.changed) == expected, report
    print(f"{by}: {report.events / seconds:,.0f} events a second", file=sys.stderr)
asyncio.run(main(*sys.argv[1:]))
say_peak()
"""


EQUAL_MOMENTS = """
async def equal_moments(numbers):
    text = b"x" * 1200
    for start in range(0, len(numbers), 2000):
        yield b"".join(
            b'{"type":"T","timestamp":1,"aggregateId":"a","payload":{"number":%d,"text":"%s"}}\\n' % (number, text)
            for number in numbers[start : start + 2000]
        )
"""

VERIFY_EQUAL_MOMENTS = """
async def main(count, waiting):
    one, two = range(int(count)), range(int(count), 0, -1)
    report = await verify(equal_moments(one), equal_moments(two), content=True, waiting_bytes=int(waiting))
    assert (report.missing, report.extra, report.events) == (1, 1, int(count)), report
asyncio.run(main(*sys.argv[1:]))
say_peak()
"""

VERIFY_EQUAL_POSITIONS = """
async def equal_positions(counters, count):
    line = (
        b'{"threadCounter":%d,"threadId":0,"type":"T","timestamp":1,"aggregateId":"a","aggregateVersion":1,'
        b'"payload":"' + b"x" * 1200 + b'"}\\n'
    )
    for counter in counters:
        for _ in range(0, count, 1000):
            yield line % counter * 1000

async def main(count, waiting):
    one, two = (equal_positions(counters, int(count)) for counters in ((1, 2), (2, 1)))
    report = await verify(one, two, waiting_bytes=int(waiting))
    assert report.equal and report.events == 2 * int(count), report
asyncio.run(main(*sys.argv[1:]))
say_peak()
"""

IMPORT_EQUAL_MOMENTS = """
async def main(url, count):
    async with open_store(url) as store:
        await store.init()
        every, half = range(int(count)), range(0, int(count), 2)
        assert (await store.incremental_import(equal_moments(half))).imported == len(half)
        report = await store.incremental_import(equal_moments(every[::-1]), older="accept")
        assert (report.imported, report.skipped_existing) == (len(every) - len(half), len(half)), report
asyncio.run(main(*sys.argv[1:]))
say_peak()
"""


def peak(script: str, *arguments: str) -> int:
    """The most memory, in bytes, that a process of its own had while it ran a script."""
    child = subprocess.run(
        [sys.executable, "-c", PRELUDE + script, *arguments], stdout=subprocess.PIPE, text=True, check=True
    )
    return int(child.stdout)


def head(payload: bytes, *, plain: bool) -> bytes:
    keys = b'"threadCounter":0,"threadId":0,"type":"T","timestamp":1,"aggregateId":"a","aggregateVersion":1'
    return b"{%s,%s}\n" % ((keys, b'"payload":' + payload) if plain else (b'"payload":' + payload, keys))


@pytest.mark.parametrize(
    ("piece", "plain"),
    [
        pytest.param(b'"%s"' % (b"x" * MEGABYTE), True, id="letters", marks=pytest.mark.scale),
        pytest.param("é日🛳 ".encode() * (MEGABYTE // 10), True, id="unicode"),
        pytest.param(b'{"a": [1, 2.50], "b":"c"}', False, id="structure", marks=pytest.mark.scale),
        pytest.param(b"[]", False, id="millions of lists, keys in another order"),
    ],
)
def test_an_event_of_50_megabytes_passes_with_less_than_8_times_its_size(
    tmp_path: Path, piece: bytes, plain: bool
) -> None:
    if piece.startswith((b"{", b"[")):
        payload = b"[" + b",".join([piece] * (50 * MEGABYTE // (len(piece) + 1))) + b"]"
    else:
        payload = b'"' + piece.replace(b'"', b"") * (50 * MEGABYTE // len(piece)) + b'"'
    source, url = tmp_path / "large.jsonl", f"sqlite:///{tmp_path / 'a.db'}"
    source.write_bytes(head(payload, plain=plain))
    size = source.stat().st_size
    assert size > 49 * MEGABYTE
    came_in = peak(IMPORT, url, str(source))
    went_out = peak(EXPORT, url, str(40 * MEGABYTE))
    print(f"import {came_in / size:.1f}, export {went_out / size:.1f} times the size of the event")
    assert came_in < 8 * size
    assert went_out < 8 * size


@pytest.mark.parametrize("database", DATABASES)
@pytest.mark.parametrize("events", [100_000, pytest.param(1_000_000, marks=pytest.mark.scale)])
def test_events_of_300_bytes_stay_under_150_megabytes(tmp_path: Path, database: str, events: int) -> None:
    with Places(database, tmp_path) as places:
        assert_flat(places.new_url(), events)


def assert_flat(url: str, events: int) -> None:
    came_in = peak(IMPORT, url, str(events))
    went_out = peak(EXPORT, url, str(290 * events))
    print(f"import {came_in / MEGABYTE:.0f} MB, export {went_out / MEGABYTE:.0f} MB resident")
    assert came_in < 150 * MEGABYTE
    assert went_out < 150 * MEGABYTE


@pytest.mark.parametrize("database", ["postgresql", "mariadb"])
@pytest.mark.parametrize("events", [30_000, pytest.param(1_000_000, marks=pytest.mark.scale)])
def test_verify_of_stores_on_different_databases_stays_under_200_megabytes_and_finds_one_changed_byte(
    tmp_path: Path, database: str, events: int
) -> None:
    with Places("sqlite", tmp_path) as here, Places(database, tmp_path) as there:
        one, two = here.new_url(), there.new_url()
        peak(IMPORT, one, str(events))
        peak(IMPORT, two, str(events))

        def verified(by: str, changed: int) -> int:
            took = peak(VERIFY, one, two, by, str(changed))
            print(f"{by}, {changed} changed: {took / MEGABYTE:.0f} MB resident")
            return took

        assert verified("identity", 0) < 200 * MEGABYTE
        assert verified("content", 0) < 200 * MEGABYTE
        with closing(sqlite3.connect(one.removeprefix("sqlite:///"))) as other, other:
            other.execute(
                """UPDATE events SET payload = replace(payload, 'xxx"', 'xxy"')
                WHERE threadId = 77 AND threadCounter = ?""",
                (events // 512,),
            )
        assert verified("identity", 1) < 200 * MEGABYTE
        assert verified("content", 1) < 200 * MEGABYTE


@pytest.mark.parametrize(
    ("events", "waiting", "bound"),
    [
        pytest.param(25_000, 4 * MEGABYTE, 85 * MEGABYTE, id="a twelfth of what may wait"),
        pytest.param(1_000_000, WAITING_BYTES, 250 * MEGABYTE, id="a million", marks=pytest.mark.scale),
    ],
)
def test_verify_of_events_of_one_moment_stays_within_its_bound(events: int, waiting: int, bound: int) -> None:
    took = peak(EQUAL_MOMENTS + VERIFY_EQUAL_MOMENTS, str(events), str(waiting))
    print(f"{took / MEGABYTE:.0f} MB resident")
    assert took < bound


@pytest.mark.slow
def test_verify_of_events_of_one_position_stays_within_its_bound() -> None:
    took = peak(VERIFY_EQUAL_POSITIONS, "25000", str(4 * MEGABYTE))
    print(f"{took / MEGABYTE:.0f} MB resident")
    assert took < 50 * MEGABYTE


@pytest.mark.parametrize("database", DATABASES)
@pytest.mark.parametrize("events", [60_000, pytest.param(1_000_000, marks=pytest.mark.scale)])
def test_an_incremental_import_of_events_of_one_moment_takes_no_more_for_more_of_them(
    tmp_path: Path, database: str, events: int
) -> None:
    with Places(database, tmp_path) as places:
        took = peak(EQUAL_MOMENTS + IMPORT_EQUAL_MOMENTS, places.new_url(), str(events))
        print(f"{took / MEGABYTE:.0f} MB resident")
        # SQLite itself keeps pages: of the file, and of what it sorts.
        assert took < (200 if database == "sqlite" else 110) * MEGABYTE
