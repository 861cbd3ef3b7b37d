"""Which events of a backup lie before a cut."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventferry import EventStore, StoreReplacedError, UsageError, open_store
from eventferry.backup.cuts import AtBookmark, AtTime, until
from eventferry.reading.bookmarks import Written, encode
from tests.support import examples, line, make_event

REACH = encode(Written(bytes(8), bytes(12), [100] * 256))

threads = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), max_size=40)
"""The thread and the time of each event, in the order in which they come."""


@settings(max_examples=examples(200))
@given(threads, st.integers(-1, 21))
async def test_a_time_takes_each_thread_up_to_its_first_later_event(
    found: list[tuple[int, int]], time: int
) -> None:
    events = _numbered(found)
    taken = await _taken(AtTime(time, REACH), events)
    for thread in range(4):
        whole = [event for event in events if event["threadId"] == thread]
        kept = [event for event in whole if line(event) in taken]
        first_later = next((at for at, event in enumerate(whole) if event["timestamp"] > time), len(whole))
        assert kept == whole[:first_later]


async def test_a_bookmark_takes_what_it_has_read(tmp_path: Path) -> None:
    async with _saved(tmp_path / "a.db", 5) as store:
        exported = store.export_events(limit=3)
        first = b"".join([block async for block in exported])
        bookmark = await exported.bookmark()
        whole = b"".join([block async for block in store.export_events()])
        end = await store.bookmark()
    assert b"".join([block async for block in until(AtBookmark(bookmark, end), _blocks(whole))]) == first


async def test_a_bookmark_of_other_events_is_refused(tmp_path: Path) -> None:
    async with _saved(tmp_path / "a.db", 5) as store:
        end = await store.bookmark()
        whole = b"".join([block async for block in store.export_events()])
    other = whole.replace(b'"type":"', b'"type":"OTHER_')
    with pytest.raises(StoreReplacedError, match="does not hold the events"):
        _ = [block async for block in until(AtBookmark(end, end), _blocks(other))]


async def test_a_bookmark_behind_the_backup_is_refused(tmp_path: Path) -> None:
    async with _saved(tmp_path / "a.db", 1) as store:
        reach = await store.bookmark()
        await store.save_event(make_event(1))
        later = await store.bookmark()
    with pytest.raises(UsageError, match="behind the last run"):
        AtBookmark(later, reach)


async def test_a_bookmark_of_another_store_is_refused(tmp_path: Path) -> None:
    bookmarks = []
    for name in ("a.db", "b.db"):
        async with _saved(tmp_path / name, 1) as store:
            bookmarks.append(await store.bookmark())
    with pytest.raises(UsageError, match="another store"):
        AtBookmark(*bookmarks)


@asynccontextmanager
async def _saved(path: Path, count: int) -> AsyncIterator[EventStore]:
    async with open_store(str(path)) as store:
        await store.init()
        for number in range(count):
            await store.save_event(make_event(number))
        yield store


def _numbered(found: list[tuple[int, int]]) -> list[Mapping[str, Any]]:
    counters: dict[int, int] = defaultdict(int)
    events: list[Mapping[str, Any]] = []
    for number, (thread, time) in enumerate(found):
        events.append(
            make_event(number) | {"threadId": thread, "threadCounter": counters[thread], "timestamp": time}
        )
        counters[thread] += 1
    return events


async def _taken(cut: AtTime, events: list[Mapping[str, Any]]) -> set[bytes]:
    text = b"".join(map(line, events))
    whole = b"".join([block async for block in until(cut, _blocks(text))])
    return set(whole.splitlines(keepends=True))


async def _blocks(text: bytes) -> AsyncGenerator[bytes, None]:
    yield text
