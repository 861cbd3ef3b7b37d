"""Bookmarks: a reader whose store was replaced or restored hears of it, and never misses events in silence."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventferry import (
    AUTO,
    MANUAL,
    CursorAheadError,
    StoreReplacedError,
    UsageError,
    open_store,
    pipeline,
)
from eventferry import cursor as vector
from eventferry.reading import bookmarks
from tests.support import NewUrl, Opened, as_dict, exported, import_lines, line, make_event, make_lines
from tests.support.restoring import heads_of, restore, save_more

ZERO = "A" * 2048


async def test_pages_by_bookmark_are_the_export(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(700))
        lines: list[bytes] = []
        since: str | None = None
        while True:
            page = await store.load_events(limit=99, since=since)
            assert page.bookmark is not None
            if not page.events:
                break
            lines += [line(event) for event in page.events]
            since = page.bookmark
        assert b"".join(lines) == await exported(store)
        assert since == page.bookmark == await store.bookmark()


@pytest.mark.once
async def test_a_bookmark_holds_its_cursor_and_is_short(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(5_000))
        page = await store.load_events(limit=3_333, since=None)
        assert page.bookmark is not None
        assert page.cursor == vector.encode(bookmarks.decode(page.bookmark).unread)
        assert page.bookmark == await store.bookmark(page.cursor)
        assert len(page.bookmark) < 500
        assert page.bookmark.removeprefix(bookmarks.PREFIX).replace("-", "").replace("_", "").isalnum()


@pytest.mark.once
async def test_an_export_goes_on_from_the_bookmark_of_another(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(600))
        first = store.export_events(limit=250)
        begun = [block async for block in first]
        rest = await exported(store, since=await first.bookmark())
        assert b"".join(begun) + rest == make_lines(600)
        assert await first.bookmark_behind() == await store.bookmark()


async def test_a_filter_does_not_hide_a_restored_backup(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as store:
        await store.init()
        await import_lines(store, make_lines(60))
        backup = await heads_of(store)
        await save_more(url, 20, "lost")
        page = await store.load_events(limit=100, since=None, event_types=["TYPE_1"])
        assert page.bookmark is not None
    restore(url, backup)
    await save_more(url, 50, "lost")
    async with open_store(url) as store:
        with pytest.raises(StoreReplacedError):
            await store.load_events(limit=100, since=page.bookmark, event_types=["TYPE_1"])


async def test_a_bookmark_of_events_that_a_restore_took_away_is_ahead(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as store:
        await store.init()
        await import_lines(store, make_lines(100))
        backup = await heads_of(store)
        await save_more(url, 10, "lost")
        bookmark, cursor = await store.bookmark(), (await store.describe(calculate_cursor=True)).cursor
    restore(url, backup)
    async with open_store(url) as store:
        with pytest.raises(CursorAheadError) as refused:
            await store.load_events(limit=1, since=bookmark)
        assert not refused.value.is_standby
        assert refused.value.counter > refused.value.head
        with pytest.raises(CursorAheadError):
            await store.load_events(limit=1, cursor=cursor)
        with pytest.raises(CursorAheadError):
            await store.load_events(limit=1, cursor=cursor, aggregate_ids=["lost"])
        with pytest.raises(CursorAheadError):
            await exported(store, cursor=cursor)
        with pytest.raises(CursorAheadError):
            await exported(store, since=bookmark)
        with pytest.raises(CursorAheadError):
            await store.partitions(2, since=cursor)
        with pytest.raises(CursorAheadError):
            await store.get_cursor_until_event_types(cursor, ["T"])
        with pytest.raises(CursorAheadError):
            await (await store.get_event_loader(cursor=cursor)).load_events(1)
        with pytest.raises(CursorAheadError):
            await store.bookmark(cursor)


async def test_a_bookmark_of_a_restored_store_that_has_grown_past_it_is_refused(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as store:
        await store.init()
        await import_lines(store, make_lines(1_000))
        backup = await heads_of(store)
        await import_lines(store, [make_event(i) for i in range(1_000, 1_500)], maintenance_mode=MANUAL)
        bookmark = await store.bookmark()
        inside = (await store.load_events(limit=900, since=None)).bookmark
    restore(url, backup)
    async with open_store(url) as store:
        # At the same positions and times, with the same types, of the same aggregates: other payloads alone.
        others = [make_event(i, payload={"other": i}) for i in range(1_000, 2_000)]
        await import_lines(store, others, maintenance_mode=MANUAL)
        with pytest.raises(StoreReplacedError):
            await store.load_events(limit=1, since=bookmark)
        with pytest.raises(StoreReplacedError):
            await exported(store, since=bookmark)
        page = await store.load_events(limit=2_000, since=inside)
        assert len(page.events) == 1_100, "what was read before the backup is still there"


async def test_a_bookmark_of_events_that_were_replaced_is_refused_even_by_the_same(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(100))
        bookmark = await store.bookmark()
        await import_lines(store, make_lines(100))
        with pytest.raises(StoreReplacedError):
            await store.load_events(limit=1, since=bookmark)


@pytest.mark.once
async def test_a_bookmark_of_another_store_is_refused(opened: Opened) -> None:
    async with opened() as one, opened() as other:
        await import_lines(one, make_lines(100))
        await pipeline(one.export_events(), other.import_events())
        with pytest.raises(StoreReplacedError):
            await other.load_events(limit=1, since=await one.bookmark())


@pytest.mark.once
async def test_what_is_no_bookmark_is_refused_by_name(opened: Opened) -> None:
    async with opened() as store:
        good = await store.bookmark()
        for text in ("", "now", ZERO, good[:-1], good[:-8], good + "A", good.replace("ef1.", "ef2."), "ef1."):
            with pytest.raises(UsageError):
                await store.load_events(limit=1, since=text)
            with pytest.raises(UsageError):
                store.export_events(since=text)
        with pytest.raises(UsageError):
            store.export_events(since=good, cursor=ZERO)
        with pytest.raises(UsageError):
            await store.load_events(limit=1, since=good, cursor=ZERO)


@pytest.mark.once
async def test_a_saved_event_can_be_bookmarked(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(300))
        saved = await store.save_event({"type": "T", "aggregateId": "a", "aggregateVersion": 1})
        bookmark = await store.bookmark(saved.cursor)
        after = await store.save_event({"type": "T", "aggregateId": "a", "aggregateVersion": 2})
        page = await store.load_events(limit=9, since=bookmark)
        assert page.events == [after.event]


@pytest.mark.once
async def test_an_export_that_freezes_has_a_bookmark_too(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(10))
        async with store.export_events(maintenance_mode=AUTO) as export:
            blocks = [block async for block in export]
        assert b"".join(blocks) == make_lines(10)
        assert await export.bookmark() == await store.bookmark()


@pytest.mark.slow
async def test_large_events_do_not_hide_those_behind_them(opened: Opened) -> None:
    async with opened() as store:
        events = [make_event(i, payload={"fill": "x" * 600_000}) for i in range(12)]
        await import_lines(store, events)
        bookmark = await store.bookmark()
        assert (await store.load_events(limit=1, since=bookmark)).events == []
        first = await store.load_events(limit=5, since=None)
        rest = await store.load_events(limit=9, since=first.bookmark)
        assert [as_dict(event) for event in first.events + rest.events] == events
        assert rest.bookmark == bookmark


@pytest.mark.once
@given(
    st.lists(st.integers(0, vector.MAX_COUNTER + 1), min_size=256, max_size=256),
    st.binary(min_size=8, max_size=8),
    st.binary(min_size=12, max_size=12),
)
@settings(suppress_health_check=list(HealthCheck), deadline=None)
def test_its_text_gives_back_what_it_was_made_of(
    new_url: NewUrl, unread: list[int], identity: bytes, fingerprint: bytes
) -> None:
    written = bookmarks.Written(identity, fingerprint, unread)
    assert bookmarks.decode(bookmarks.encode(written)) == written
