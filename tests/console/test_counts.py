"""Counting for pages: once for all who ask for the same, one count at a time, and for nobody who has gone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from eventferry.console import counts
from eventferry.console.counts import Counts
from tests.support import make_event
from tests.support.console import console


class Counting:
    """A count that takes as long as it is let."""

    def __init__(self) -> None:
        self.begun = 0
        self.at_once = 0
        self.most_at_once = 0
        self.go = asyncio.Event()

    async def __call__(self) -> int:
        self.begun += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.go.wait()
        finally:
            self.at_once -= 1
        return self.begun


async def turns(number: int = 5) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def test_many_readers_have_one_count(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, counting = Counts(), Counting()
    readers = [asyncio.create_task(kept.of("types", counting)) for _ in range(5)]
    other = asyncio.create_task(kept.of("chart", counting))
    await turns()
    readers.pop().cancel()
    counting.go.set()
    assert await asyncio.gather(*readers) == [1, 1, 1, 1]
    assert await other == 2
    assert counting.most_at_once == 1
    assert await kept.of("types", counting) == 1
    monkeypatch.setattr(counts, "KEPT_SECONDS", 0.0)
    assert await kept.of("newer", counting) == 3
    assert await kept.of("newer", counting) == 4


async def test_a_count_ends_with_its_last_reader() -> None:
    kept, counting = Counts(), Counting()
    readers = [asyncio.create_task(kept.of("types", counting)) for _ in range(2)]
    await turns()
    for reader in readers:
        reader.cancel()
    later = asyncio.create_task(kept.of("types", counting))
    with pytest.raises(asyncio.CancelledError):
        await asyncio.gather(*readers)
    await turns()
    assert (counting.begun, counting.at_once) == (2, 1)
    counting.go.set()
    assert await later == 2


async def test_a_count_that_fails_is_told_to_all_and_made_anew() -> None:
    kept = Counts()

    async def fail() -> int:
        await asyncio.sleep(0)
        raise ValueError("lost")

    found = await asyncio.gather(kept.of("a", fail), kept.of("a", fail), return_exceptions=True)
    assert [str(error) for error in found] == ["lost", "lost"]
    counting = Counting()
    counting.go.set()
    assert await kept.of("a", counting) == 1


async def test_pages_that_are_asked_for_again_and_again_are_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counts, "KEPT_SECONDS", 600.0)
    async with console(tmp_path, 10) as (visitor, store, tokens):
        await visitor.sign_in(tokens["read"])
        seen = [await visitor.see(path) for path in ("/types", "/chart", "/aggregates")]
        assert ["10 events" in page.text for page in seen] == [True, True, False]
        await store.incremental_import([make_event(10)])
        again = [await visitor.see(path) for path in ("/types", "/chart", "/aggregates")]
        assert [page.text for page in again] == [page.text for page in seen]
        assert "11 events" in (await visitor.see("/chart", startTime="0")).text
