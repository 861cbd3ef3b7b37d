"""Payloads of cold events move to a repository, and back; all else of the events stays in the store."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from eventferry import (
    MANUAL,
    Archive,
    ArchiveError,
    Changes,
    EventStore,
    InputError,
    Repository,
    RepositoryError,
    Rule,
    Rules,
    StoreClosedError,
    StoreFrozenError,
    archive,
    back_up,
    open_store,
    pipeline,
    recall,
    verify,
)
from eventferry.archiving import lines as archiving_lines
from eventferry.lines.marker import archive_of
from eventferry.state import archives
from tests.support import NewUrl, Opened, exported, import_lines, make_event
from tests.support.ends import WAYS, all_over, cut_short, named, threads
from tests.support.small_backups import KEY, RECIPIENT

COUNT = 300
UNTIL = 1_600_000_000_000
"""Between the cold events and the others."""


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archiving_lines, "_EVENTS", 40)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return tmp_path / "repository"


def cold(i: int, **more: Any) -> dict[str, Any]:
    """The ith event, of an aggregate of ten: long ago, and with something to be moved."""
    payload = {"number": i, "name": "Ada Lovelace", "note": "n" * 100} | more
    return make_event(i, payload=payload) | {"timestamp": UNTIL - COUNT + i}


def events() -> Iterable[dict[str, Any]]:
    """Ten aggregates, of which aggregate-3 goes on after the time up to which is archived."""
    yield from map(cold, range(COUNT))
    for i in range(COUNT, COUNT + 20):
        yield make_event(i, payload={"number": i}) | {
            "timestamp": UNTIL + i,
            "aggregateId": "aggregate-3" if i % 2 else "new",
            "aggregateVersion": i,
        }


async def held(store: EventStore) -> list[Archive]:
    return [each for each in await store.archives() if each.events]


async def rows(store: EventStore) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (await exported(store)).splitlines()]


def is_archived(event: dict[str, Any]) -> bool:
    return archive_of(json.dumps(event["payload"], separators=(",", ":")).encode()) is not None


async def test_cold_events_of_closed_aggregates_leave_markers(opened: Opened, repository: Path) -> None:
    async with opened() as store:
        await import_lines(store, events())
        before, heads = await exported(store), await store.describe(calculate_cursor=True)
        report = await archive(store, repository, until=UNTIL)
        assert (report.events, report.open, report.archived_before) == (270, 30, 0)
        assert sum(report.types.values()) == 270
        after = await rows(store)
        for event, old in zip(after, map(json.loads, before.splitlines()), strict=True):
            is_moved = event["timestamp"] <= UNTIL and event["aggregateId"] != "aggregate-3"
            assert event == (old | {"payload": {"$archived": report.archive}} if is_moved else old)
        assert len(before) - len(await exported(store)) == report.bytes
        assert await store.describe(calculate_cursor=True) == heads
        [one] = await held(store)
        assert (one.id, one.events, one.chain) == (report.archive, 270, report.chain)
        await store.save_event({"type": "LATER", "aggregateId": "aggregate-1", "aggregateVersion": 31})
        again = await archive(store, repository, until=UNTIL)
        assert (again.archive, again.events, again.archived_before) == (None, 0, 270)


async def test_recalled_events_are_what_they_were(opened: Opened, repository: Path) -> None:
    async with opened() as store:
        await import_lines(store, events())
        before = await exported(store)
        first = await archive(store, repository, until=UNTIL, aggregate_prefixes=["aggregate-1"])
        second = await archive(store, repository, until=UNTIL, event_types=["TYPE_2"])
        assert first.events == 30
        assert second.archived_before == 10
        assert {each.id: each.events for each in await held(store)} == {
            first.archive: first.events,
            second.archive: second.events,
        }
        one = await recall(store, repository, archive_ids=[first.archive or ""])
        assert (one.events, one.archives) == (30, [first.archive])
        assert sum(map(is_archived, await rows(store))) == second.events
        await recall(store, repository)
        assert await exported(store) == before
        assert await held(store) == []
        assert (await recall(store, repository)).events == 0


@pytest.mark.once
async def test_readers_may_leave_archived_events_out(opened: Opened, repository: Path) -> None:
    async with opened() as store:
        await import_lines(store, events())
        await archive(store, repository, until=UNTIL)
        left = [event for event in await rows(store) if not is_archived(event)]
        assert len(left) == 50
        found = await exported(store, archived="skip")
        assert [json.loads(line) for line in found.splitlines()] == left
        page = await store.load_events(cursor=None, limit=50, archived="skip")
        assert [event.payload for event in page.events] == [event["payload"] for event in left]
        rest = await store.load_events(cursor=page.cursor, limit=50, archived="skip")
        assert rest.events == []


@pytest.mark.once
async def test_bookmarks_are_good_behind_archive_and_recall(new_url: NewUrl, repository: Path) -> None:
    """Also those of which the last event that was read is archived; and a replica goes on."""
    async with open_store(new_url()) as store, open_store(new_url()) as replica:
        await store.init()
        await import_lines(store, events())
        await replica.sync(store)
        before = await store.bookmark()
        old = [event async for event in _followed(store, None)]
        await archive(store, repository, until=UNTIL)
        during = await store.bookmark()
        assert during != before
        assert [event async for event in _followed(store, before)] == []
        await store.save_event({"type": "LATER", "aggregateId": "later", "aggregateVersion": 1})
        await replica.sync(store)
        assert (await replica.describe()).event_count == len(old) + 1
        await recall(store, repository)
        assert [event.type async for event in _followed(store, during)] == ["LATER"]


async def _followed(store: EventStore, since: str | None) -> Any:
    page = await store.load_events(since=since, limit=1000)
    for event in page.events:
        yield event


async def test_a_later_backup_keeps_the_originals(opened: Opened, repository: Path) -> None:
    async with opened() as store, open_store(f"{repository}.db") as restored:
        await import_lines(store, events())
        before = await exported(store)
        await archive(store, repository, until=UNTIL)
        saved = {"type": "LATER", "aggregateId": "later", "aggregateVersion": 1}
        await store.save_event(saved)
        report = await back_up(store, repository)
        assert (report.events, report.total_events) == (1, 321)
        await Repository(repository).restore(restored)
        lines = (await exported(restored)).splitlines(keepends=True)
        assert sorted(lines[:-1]) == sorted(before.splitlines(keepends=True))
        found = await verify(Repository(repository).export_events(), store.export_events(), archived=True)
        assert (found.equal, found.archived) == (True, 270)
        assert not (await verify(Repository(repository).export_events(), store.export_events())).equal


@pytest.mark.once
async def test_markers_are_backed_up_nowhere(opened: Opened, repository: Path) -> None:
    async with opened() as store:
        await import_lines(store, events())
        await archive(store, repository, until=UNTIL)
        for _ in range(2):  # a part that a refused run had kept would be used by the next
            with pytest.raises(ArchiveError, match="back up into that repository, or recall"):
                await back_up(store, f"{repository}-2")
        await recall(store, repository)
        await back_up(store, f"{repository}-2")
        assert (await verify(Repository(f"{repository}-2").export_events(), store.export_events())).equal


@pytest.mark.once
async def test_an_event_that_the_repository_does_not_hold_stays(
    opened: Opened, repository: Path, change_payload: Callable[[EventStore, str, int], Any]
) -> None:
    async with opened() as store:
        await import_lines(store, events())
        await back_up(store, repository)
        await change_payload(store, "aggregate-7", 1)
        before = await exported(store)
        with pytest.raises(ArchiveError, match="is another one in the chain"):
            await archive(store, repository, until=UNTIL, aggregate_ids=["aggregate-7"])
        assert await exported(store) == before


@pytest.fixture
def change_payload() -> Callable[[EventStore, str, int], Any]:
    async def change(store: EventStore, aggregate_id: str, version: int) -> None:
        """As no operation of a store does."""
        page = await store.load_aggregate(aggregate_id, limit=version)
        event = page.events[version - 1]
        from eventferry.lines.event import Row

        row = Row(
            event.thread_id,
            event.thread_counter,
            event.timestamp,
            event.aggregate_id,
            event.aggregate_version,
            event.type,
            json.dumps({"changed": "c" * 60}).encode(),
        )
        async with store._database.writing("exclusive") as writing:
            await writing.rewrite([row])

    return change


async def test_what_is_erased_meanwhile_does_not_come_back(opened: Opened, repository: Path) -> None:
    rules = Rules(rules=(Rule(redact=("/name",), set={"/consent": False}),))
    async with opened() as store:
        await import_lines(store, events())
        await archive(store, repository, until=UNTIL)
        await store.save_snapshot("view", "Ada Lovelace")
        report = await store.erase(rules, aggregate_ids=["aggregate-1"])
        assert (report.events, report.changed, report.archived, report.snapshots) == (30, 0, 30, 1)
        assert sum(map(is_archived, await rows(store))) == 270
        await recall(store, repository)
        found = [event for event in await rows(store) if event["timestamp"] <= UNTIL]
        for event in found:
            is_erased = event["aggregateId"] == "aggregate-1"
            assert event["payload"]["name"] == (None if is_erased else "Ada Lovelace")
            assert ("consent" in event["payload"]) == is_erased


@pytest.mark.once
async def test_what_was_erased_before_can_be_archived(opened: Opened, repository: Path) -> None:
    """The repository holds it as it was, and a list that says what is left."""
    async with opened() as store:
        await import_lines(store, events())
        await back_up(store, repository)
        await store.erase(Rules(rules=(Rule(redact=("/name",)),)), aggregate_ids=["aggregate-1"])
        before = await exported(store)
        assert (await archive(store, repository, until=UNTIL)).events == 270
        await recall(store, repository)
        assert await exported(store) == before


@pytest.mark.once
async def test_no_store_takes_in_a_marker(opened: Opened, new_url: NewUrl, repository: Path) -> None:
    async with opened() as store, open_store(new_url()) as other:
        await import_lines(store, events())
        await archive(store, repository, until=UNTIL)
        lines = await exported(store)
        marker = next(event for event in await rows(store) if is_archived(event))
        await other.init()
        for sink in (other.import_events(), other.import_events(maintenance_mode=MANUAL)):
            with pytest.raises(InputError, match="marker of an archived event") as caught:
                await pipeline(_one(lines), sink)
            assert caught.value.line == 1
            assert caught.value.field == "payload"
        with pytest.raises(InputError, match="marker of an archived event"):
            await other.sync(store)
        import_id = await other.begin_import()
        with pytest.raises(InputError, match="marker of an archived event"):
            await other.push_import(import_id, "1", _one(lines))
        await other.rollback_import(import_id)
        for refused in (
            other.save_event(marker),
            other.append_events(marker["aggregateId"], [{"type": "A", "payload": marker["payload"]}]),
            other.incremental_import([marker]),
            other.incremental_import(_one(lines)),
        ):
            with pytest.raises(InputError, match="marker of an archived event"):
                await refused
        assert (await other.describe()).event_count == 0
        await pipeline(store.export_events(archived="skip"), other.import_events())
        assert (await other.describe()).event_count == 50


@pytest.mark.once
async def test_no_change_makes_a_payload_of_a_marker(
    opened: Opened, new_url: NewUrl, repository: Path
) -> None:
    """Nothing would tell any more that the payload is elsewhere."""
    async with opened() as store, open_store(new_url()) as other:
        await import_lines(store, events())
        await archive(store, repository, until=UNTIL, aggregate_ids=["aggregate-1"])
        await other.init()
        for changes in (
            Changes(rules=Rules(rules=(Rule(set={"/source": "old"}),))),
            Changes(function=lambda event: msgspec.structs.replace(event, payload=None)),
        ):
            with pytest.raises(InputError, match="marker of an archived event"):
                await pipeline(store.export_events(), changes, other.import_events())
            with pytest.raises(InputError, match="marker of an archived event"):
                await other.sync(store, changes=changes)
        left = Changes(rules=Rules(rules=(Rule(set={"/source": "old"}),)), exclude_types=["TYPE_0", "TYPE_1"])
        await archive(store, repository, until=UNTIL, event_types=["TYPE_0", "TYPE_1"])
        await recall(store, repository, archive_ids=[(await store.archives())[0].id])
        await pipeline(store.export_events(), left, other.import_events())
        assert (await other.describe()).event_count > 0


@pytest.mark.once
async def test_an_encrypted_chain_is_read_back_with_a_key(
    opened: Opened, repository: Path, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text(KEY)
    async with opened() as store:
        await import_lines(store, events())
        before = await exported(store)
        with pytest.raises(RepositoryError, match="give the key"):
            await archive(store, repository, until=UNTIL, recipients=[RECIPIENT])
        assert await exported(store) == before
        report = await archive(store, repository, until=UNTIL, recipients=[RECIPIENT], identities=[key])
        assert report.events == 270
        await recall(store, repository, identities=[key])
        assert await exported(store) == before


async def _one(block: bytes) -> Any:
    yield block


async def test_a_reader_that_began_before_the_table_of_archives_was_made_finds_none(opened: Opened) -> None:
    async with opened() as store, store._database.reading() as reading:
        await reading.heads()
        await archives.make_table(store._database)
        assert await archives.load(reading) == []


@pytest.mark.once
async def test_events_are_not_imported_a_second_time_in_place_of_archived_ones(
    opened: Opened, repository: Path
) -> None:
    async with opened() as store:
        await import_lines(store, map(cold, range(COUNT)))
        report = await archive(store, repository, until=UNTIL)
        assert report.kept == 1  # an import takes events of the store's last time
        again = await store.incremental_import(list(map(cold, range(COUNT))))
        assert (again.imported, again.skipped_existing, again.skipped_older) == (0, 1, 299)
        with pytest.raises(ArchiveError, match="recall them before"):
            await store.incremental_import(list(map(cold, range(COUNT))), older="accept")
        await recall(store, repository)
        again = await store.incremental_import(list(map(cold, range(COUNT))), older="accept")
        assert again.imported == 0


@pytest.mark.once
@pytest.mark.slow
@pytest.mark.parametrize("way", [way for way in WAYS if way != "loop"])
async def test_an_archive_that_is_ended_anywhere_is_continued(
    way: str, new_url: NewUrl, repository: Path
) -> None:
    url, name = named(new_url())
    async with open_store(url) as store:
        await store.init()
        await import_lines(store, events())
        await back_up(store, repository)
        before = await exported(store)
    for begin in (
        lambda store: archive(store, repository, until=UNTIL),
        lambda store: recall(store, repository),
    ):
        for at in random.sample(range(20, 600), 3):
            await _cut(way, url, begin, at)
            async with open_store(url) as store:
                await _each_is_whole(store, before)
        async with open_store(url) as store:
            await begin(store)
            await _each_is_whole(store, before)
    async with open_store(url) as store:
        assert await exported(store) == before
    all_over(url, name, set(threads()))


async def _cut(way: str, url: str, begin: Callable[[EventStore], Any], at: int) -> None:
    store = open_store(url)
    _, error = await cut_short(way, lambda: begin(store), store.close, lambda: _read(url), at)
    assert error is None or isinstance(error, asyncio.CancelledError | StoreClosedError), (at, error)
    await store.close()


async def _read(url: str) -> None:
    with suppress(StoreClosedError):  # of SQLite nothing can be read where a transaction was open at the fork
        async with open_store(url) as store:
            await exported(store)


async def _each_is_whole(store: EventStore, before: bytes) -> None:
    found = await rows(store)
    for event, old in zip(found, map(json.loads, before.splitlines()), strict=True):
        assert event == old or (is_archived(event) and event | {"payload": 0} == old | {"payload": 0})
    assert sum(each.events for each in await held(store)) == sum(map(is_archived, found))


@pytest.mark.once
async def test_a_frozen_store_is_left_as_it_is(opened: Opened, repository: Path) -> None:
    async with opened() as store:
        await import_lines(store, events())
        before = await exported(store)
        await store.freeze()
        with pytest.raises(StoreFrozenError):
            await archive(store, repository, until=UNTIL)
        assert await exported(store) == before


@pytest.mark.once
async def test_an_archive_that_was_recalled_meanwhile_goes_no_further(
    opened: Opened, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The repository has been told that nobody relies on it for this archive."""
    from eventferry.archiving.archive import _Archiving

    async with opened() as store:
        await import_lines(store, events())
        before = await exported(store)
        take = _Archiving.take

        async def and_recalled(self: Any, found: Any) -> None:
            await take(self, found)
            await recall(store, repository)

        monkeypatch.setattr(_Archiving, "take", and_recalled)
        with pytest.raises(ArchiveError, match="recalled meanwhile"):
            await archive(store, repository, until=UNTIL)
        assert await exported(store) == before


@pytest.mark.once
async def test_a_chain_with_archived_events_is_never_pruned(opened: Opened, repository: Path) -> None:
    async with opened() as store:
        await import_lines(store, events())
        report = await archive(store, repository, until=UNTIL)
        await import_lines(store, map(cold, range(5)), replace=True)
        await back_up(store, repository)
        pruned = await Repository(repository).prune(keep_replaced=0)
        assert (pruned.removed_chains, pruned.archived_chains) == ([], [report.chain])
        assert (await Repository(repository).check(1.0)).sound
        [mark] = (repository / report.chain / "archives").iterdir()
        whole = mark.read_bytes()
        mark.write_bytes(whole.replace(b'"until":1', b'"until":2'))
        [problem] = (await Repository(repository).check()).problems
        assert problem.name.endswith(f"archives/{report.archive}.json")
        mark.write_bytes(whole)
        # The events were replaced, so that no marker is left.
        assert (await recall(store, repository)).archives == [report.archive]
        assert (await Repository(repository).prune(keep_replaced=0)).removed_chains == [report.chain]


@pytest.mark.once
async def test_a_recall_in_a_restored_store_leaves_the_archive_to_the_store_that_has_it(
    opened: Opened, new_url: NewUrl, repository: Path
) -> None:
    async with opened() as store, open_store(new_url()) as restored:
        await import_lines(store, events())
        before = await exported(store)
        report = await archive(store, repository, until=UNTIL)
        await Repository(repository).restore(restored)
        assert (await recall(restored, repository)).archives == []
        [mark] = (repository / report.chain / "archives").iterdir()
        assert mark.stem == report.archive
        assert (await recall(store, repository)).archives == [report.archive]
        assert await exported(store) == before


@pytest.mark.once
async def test_a_restored_store_takes_the_bookmarks_of_an_archived_one(
    opened: Opened, new_url: NewUrl, repository: Path
) -> None:
    async with opened() as store, open_store(new_url()) as restored:
        await import_lines(store, events())
        await archive(store, repository, until=UNTIL)
        bookmark = await store.bookmark()
        await Repository(repository).restore(restored)
        assert [event async for event in _followed(restored, bookmark)] == []
