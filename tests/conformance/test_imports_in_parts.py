"""An import in parts: begin, push from everywhere at once, commit by one swap, or roll back."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence

import pytest

from eventferry import (
    MANUAL,
    EmptyInputError,
    EventStore,
    ImportNotFoundError,
    ImportOpenError,
    ImportReport,
    InputError,
    PartMissingError,
    PartReport,
    Rule,
    Rules,
    StoreBusyError,
    StoreChangedError,
    StoreFrozenError,
    StoreFullError,
    UsageError,
    open_store,
    pipeline,
)
from eventferry.importing import parts
from eventferry.state import commits, owners
from tests.support import NewUrl, Opened, exported, import_lines, line, make_event, make_lines
from tests.support.raw import tables

OLD = make_lines(40)
NEW = make_lines(1000).splitlines(keepends=True)


def part(number: int, count: int = 10) -> list[bytes]:
    """The lines of one of so many equal parts of the new events."""
    size = len(NEW) // count
    return [b"".join(NEW[number * size : (number + 1) * size])]


async def push_all(store: EventStore, import_id: str, but: Sequence[int] = ()) -> None:
    await asyncio.gather(
        *(
            store.push_import(import_id, f"part {number}", part(number))
            for number in range(10)
            if number not in but
        )
    )


async def broken(number: int) -> AsyncIterator[bytes]:
    """A part whose connection is lost in the middle."""
    [lines] = part(number)
    yield lines[: len(lines) // 2]
    raise ConnectionError("the source is gone")


@pytest.mark.slow
async def test_parts_pushed_at_once_are_the_store_that_they_were_cut_from(opened: Opened) -> None:
    async with opened() as source, opened() as store:
        await import_lines(source, make_lines(3000))
        await import_lines(store, OLD)
        import_id = await store.begin_import()
        reports = await asyncio.gather(
            *(
                store.push_import(import_id, str(each.number), source.read_partition(each))
                for each in await source.partitions(7)
            )
        )
        assert sum(report.events for report in reports) == 3000
        assert await exported(store) == OLD
        assert await store.commit_import(import_id) == ImportReport(3000)
        assert await exported(store) == await exported(source)
        saved = await store.save_event({"type": "T", "aggregateId": "aggregate-1", "aggregateVersion": 301})
        assert saved.event.thread_counter in (11, 12)


async def test_a_part_that_is_pushed_again_replaces_what_it_has_brought(opened: Opened) -> None:
    async with opened() as store:
        import_id = await store.begin_import()
        await push_all(store, import_id)
        [lines] = part(3)
        again = await store.push_import(import_id, "part 3", [lines[:500], lines[500:]])
        assert again == PartReport(events=100, byte_offset=len(lines), is_repeated=True)
        [lines] = part(4)
        cut = lines[: lines.index(b"\n") + 1]
        assert not (await store.push_import(import_id, "part 4", [cut])).is_repeated
        assert await store.commit_import(import_id) == ImportReport(901)
        assert await exported(store) == b"".join([*NEW[:401], *NEW[500:]])


async def test_a_part_that_was_cut_off_is_missed_until_it_is_pushed_again(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, OLD)
        import_id = await store.begin_import()
        await push_all(store, import_id, but=[2, 7])
        for number in (2, 7):
            with pytest.raises(ConnectionError):
                await store.push_import(import_id, f"part {number}", broken(number))
        with pytest.raises(InputError, match="line 1, byte 0"):
            await store.push_import(import_id, "part 8", [b"no line\n"])
        with pytest.raises(PartMissingError, match=r"2 of the parts .* 'part 2', 'part 7'") as caught:
            await store.commit_import(import_id)
        assert caught.value.parts == ("part 2", "part 7")
        await asyncio.gather(
            *(store.push_import(import_id, f"part {number}", part(number)) for number in (2, 7))
        )
        assert await store.commit_import(import_id) == ImportReport(1000)
        assert await exported(store) == b"".join(NEW)


async def test_a_commit_is_harmless_when_it_is_repeated(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as store:
        await store.init()
        import_id = await store.begin_import()
        await push_all(store, import_id)
        report = await store.commit_import(import_id)
        await store.save_event({"type": "T", "aggregateId": "later", "aggregateVersion": 1})
        before = await exported(store)
        assert await store.commit_import(import_id) == report == ImportReport(1000)
        assert await exported(store) == before
        with pytest.raises(ImportNotFoundError, match="is committed"):
            await store.rollback_import(import_id)
        with pytest.raises(ImportNotFoundError):
            await store.push_import(import_id, "late", part(0))
        other = await store.begin_import()
        await store.push_import(other, "1", part(0))
        await store.commit_import(other)
        assert await store.commit_import(import_id) == report
        assert await exported(store) == part(0)[0]
        await store.drop()
    assert not tables(url)


async def test_a_rollback_leaves_nothing_behind(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as store:
        await store.init()
        await import_lines(store, OLD)
    before = tables(url)
    async with open_store(url) as store:
        import_id = await store.begin_import()
        await push_all(store, import_id)
        description = await store.describe()
        assert description.parts_import is not None
        assert description.parts_import.id == import_id
        with pytest.raises(ImportOpenError, match=f"in parts is open since .* commit {import_id} or roll"):
            await store.begin_import()
        await store.freeze()
        await store.rollback_import(import_id)
        await store.unfreeze()
        assert (await store.describe()).parts_import is None
        await store.rollback_import()
        for wrong in (import_id, "", "wrong", "' OR 1=1", f"{import_id[:-1]}%"):
            with pytest.raises(ImportNotFoundError):
                await store.push_import(wrong, "1", part(0))
            with pytest.raises(ImportNotFoundError):
                await store.commit_import(wrong)
            with pytest.raises(ImportNotFoundError):
                await store.rollback_import(wrong)
        assert await exported(store) == OLD
    assert tables(url) == before | {"events-committed-imports"}


@pytest.mark.parametrize("what", ["save", "gap", "replacement"])
async def test_events_that_came_meanwhile_are_not_replaced_unseen(opened: Opened, what: str) -> None:
    gap = line(make_event(3))
    async with opened() as store:
        await import_lines(store, OLD.replace(gap, b""))
        import_id = await store.begin_import()
        await push_all(store, import_id)
        if what == "save":
            await store.save_event({"type": "T", "aggregateId": "mine", "aggregateVersion": 1})
        elif what == "gap":  # which the heads do not show
            await store.freeze()
            await import_lines(store, gap, maintenance_mode=MANUAL)
            await store.unfreeze()
        else:
            await import_lines(store, OLD)
        before = await exported(store)
        with pytest.raises(StoreChangedError):
            await store.commit_import(import_id)
        assert await exported(store) == before
        with pytest.raises(StoreBusyError, match="has begun, and no part can be added"):
            await store.push_import(import_id, "late", part(0))
        await store.rollback_import(import_id)
        assert await exported(store) == before


@pytest.mark.once
async def test_duplicates_between_parts_are_told_by_their_parts(opened: Opened) -> None:
    async with opened() as store:
        import_id = await store.begin_import()
        await push_all(store, import_id)
        await store.push_import(import_id, "extra", [b"\n", NEW[5], NEW[510]])
        with pytest.raises(InputError) as caught:
            await store.commit_import(import_id)
        assert str(caught.value) == (
            "line 2, field threadCounter: threadId 5 with threadCounter 0 of the part 'extra' is already in line 6 of "
            "the part 'part 0'"
        )
        await store.push_import(import_id, "extra", [line(make_event(2000))])
        assert await store.commit_import(import_id) == ImportReport(1001)


async def test_a_push_is_refused_from_the_moment_the_commit_has_taken_over(opened: Opened) -> None:
    goes_on, began = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        began.set()
        await goes_on.wait()
        yield part(1)[0]

    async with opened() as store:
        import_id = await store.begin_import()
        await store.push_import(import_id, "1", part(1))
        # Another push of the same part, as of a worker that was taken for dead.
        late = asyncio.create_task(store.push_import(import_id, "1", slow()))
        await began.wait()
        assert await store.commit_import(import_id) == ImportReport(100)
        goes_on.set()
        with pytest.raises(ImportNotFoundError):
            await late
        assert await exported(store) == part(1)[0]


async def test_a_push_that_a_refused_commit_has_met_does_not_count(opened: Opened) -> None:
    goes_on, began = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        began.set()
        await goes_on.wait()
        yield part(3)[0]

    async with opened() as store:
        import_id = await store.begin_import()
        await store.push_import(import_id, "1", part(1))
        await store.push_import(import_id, "2", part(1))
        late = asyncio.create_task(store.push_import(import_id, "1", slow()))
        await began.wait()
        with pytest.raises(InputError, match="is already in line 1 of the part"):
            await store.commit_import(import_id)
        await store.push_import(import_id, "2", part(2))  # may get the number of the one that was dropped
        goes_on.set()
        with pytest.raises(StoreBusyError, match="push the part '1' again"):
            await late
        assert await store.commit_import(import_id) == ImportReport(200)
        assert await exported(store) == part(1)[0] + part(2)[0]


PUSH = """
import asyncio, sys
from eventferry import open_store

async def blocks(lines):
    for start in range(0, len(lines), 100_000):
        yield lines[start:start + 100_000]
        print("block", flush=True)

async def main(url, import_id, part, path):
    async with open_store(url) as store:
        with open(path, "rb") as file:
            lines = file.read()
        async def endless():
            async for block in blocks(lines):
                yield block
            await asyncio.sleep(600)
        await store.push_import(import_id, part, endless())

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.slow
async def test_workers_that_are_killed_lose_and_double_nothing(new_url: NewUrl, tmp_path) -> None:  # type: ignore[no-untyped-def]
    url, path = new_url(), tmp_path / "part.jsonl"
    big = b"".join(line(make_event(i, payload="x" * 2000)) for i in range(4000, 9_000))
    path.write_bytes(big)
    async with open_store(url) as store:
        await store.init()
        import_id = await store.begin_import()
        await push_all(store, import_id)
        for blocks in (1, 90):
            worker = subprocess.Popen(
                [sys.executable, "-c", PUSH, url, import_id, "big", path], stdout=subprocess.PIPE, text=True
            )
            assert worker.stdout is not None
            for _ in range(blocks):
                assert await asyncio.to_thread(worker.stdout.readline) == "block\n"
            worker.kill()
            worker.wait()
            worker.stdout.close()
        with pytest.raises(PartMissingError):
            await store.commit_import(import_id)
        await store.push_import(import_id, "big", path)
        assert await store.commit_import(import_id) == ImportReport(6000)
        assert await exported(store) == b"".join(NEW) + big


COMMIT = """
import asyncio, os, signal, sys
from unittest.mock import patch  # refuses a name that is no longer there
from eventferry import open_store
from eventferry.importing import parts, replace

BEFORE = {
    "taken": (parts, "_settle"),
    "indexed": (replace, "_refuse_changed"),
    "swapped": (parts.owners, "thaw"),  # within the transaction of the swap
}

async def main(url, import_id, step):
    def die(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)
    async with open_store(url) as store:
        with patch.object(*BEFORE[step], die):
            await store.commit_import(import_id)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("step", ["taken", "indexed", "swapped"])
async def test_a_commit_that_was_killed_is_committed_again_or_rolled_back(new_url: NewUrl, step: str) -> None:
    url = new_url()
    async with open_store(url) as store:
        await store.init()
        await import_lines(store, OLD)
        import_id = await store.begin_import()
        await push_all(store, import_id)
        await store.push_import(import_id, "part 3", part(3))
        command = [sys.executable, "-c", COMMIT, url, import_id, step]
        assert subprocess.run(command, check=False).returncode == -9
        assert await exported(store) == OLD
        with pytest.raises(StoreBusyError, match="commit again or roll back"):
            await store.push_import(import_id, "part 3", part(3))
        assert await store.commit_import(import_id) == ImportReport(1000)
        assert await exported(store) == b"".join(NEW)
        # And the other way to end it.
        import_id = await store.begin_import()
        await store.push_import(import_id, "1", part(0))
        command[4] = import_id
        assert subprocess.run(command, check=False).returncode == -9
        await store.rollback_import(import_id)
        assert await exported(store) == b"".join(NEW)
    assert not [name for name in tables(url) if "stage" in name or "steps" in name]


async def test_what_is_rolled_back_does_not_count_as_committed(new_url: NewUrl) -> None:
    async with open_store(new_url()) as store:
        await store.init()
        import_id = await store.begin_import()
        await store.push_import(import_id, "1", part(0))
        # As a commit leaves it that was killed on MySQL before the tables had their names.
        async with owners.writing(store._database) as writing:
            await commits.save(writing, import_id, ImportReport(100))
        await store.rollback_import(import_id)
        with pytest.raises(ImportNotFoundError):
            await store.commit_import(import_id)


@pytest.mark.once
async def test_what_several_jobs_import_is_committed_by_nobody_else(opened: Opened) -> None:
    async with opened() as store:
        driver = await store._database.own()
        import_id = await parts.begin(store._database, replace=True, driver=driver)
        await store.push_import(import_id, "1", part(0))
        for call in (
            lambda: store.commit_import(import_id),
            lambda: store.rollback_import(import_id),
            lambda: store.begin_import(),
            lambda: store.erase(Rules(rules=(Rule(redact=("/number",)),))),
        ):
            with pytest.raises(StoreBusyError, match="another import into this store is running"):
                await call()
        await store._database.release(driver)
        with pytest.raises(ImportNotFoundError, match="import again"):
            await store.commit_import(import_id)
        assert await exported(store) == b""
        await store.rollback_import(import_id)


@pytest.mark.once
async def test_what_dead_jobs_had_half_committed_is_committed_no_more(opened: Opened) -> None:
    async with opened() as store:
        driver = await store._database.own()
        import_id = await parts.begin(store._database, replace=True, driver=driver)
        await store.push_import(import_id, "1", part(0))
        # As a commit leaves it that was killed on MySQL before the tables had their names.
        async with owners.writing(store._database) as writing:
            await commits.save(writing, import_id, ImportReport(100))
        await store._database.release(driver)
        await import_lines(store, OLD)  # drops what the dead left
        with pytest.raises(ImportNotFoundError):
            await store.commit_import(import_id)


async def test_of_two_commits_at_once_one_swaps(opened: Opened) -> None:
    async with opened() as store:
        import_id = await store.begin_import()
        await push_all(store, import_id)
        both = await asyncio.gather(
            store.commit_import(import_id), store.commit_import(import_id), return_exceptions=True
        )
        assert ImportReport(1000) in both
        assert all(one == ImportReport(1000) or isinstance(one, StoreBusyError) for one in both), both
        assert await store.commit_import(import_id) == ImportReport(1000)


@pytest.mark.once
async def test_an_import_in_parts_is_open_to_other_store_objects(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as first:
        await first.init()
        import_id = await first.begin_import()
    async with open_store(url) as second, open_store(url) as third:
        await second.push_import(import_id, "1", part(0))
        assert await third.commit_import(import_id) == ImportReport(100)


@pytest.mark.once
async def test_a_frozen_store_refuses_to_begin_or_to_commit_an_import_in_parts(opened: Opened) -> None:
    async with opened() as store:
        import_id = await store.begin_import()
        await store.push_import(import_id, "1", part(0))
        await store.freeze()
        with pytest.raises(StoreFrozenError):
            await store.commit_import(import_id)
        with pytest.raises(StoreFrozenError):
            await store.begin_import()
        await store.unfreeze()
        assert await store.commit_import(import_id) == ImportReport(100)


@pytest.mark.once
async def test_an_import_in_parts_can_be_kept_from_replacing_or_emptying(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, OLD)
        with pytest.raises(StoreFullError):
            await store.begin_import(replace=False)
        import_id = await store.begin_import()
        with pytest.raises(EmptyInputError):
            await store.commit_import(import_id)
        await store.push_import(import_id, "1", [b""])
        assert await store.commit_import(import_id, allow_empty=True) == ImportReport(0)
        assert await exported(store) == b""


@pytest.mark.once
async def test_nothing_is_erased_while_an_import_in_parts_is_open(opened: Opened) -> None:
    rules = Rules(rules=(Rule(redact=("/number",)),))
    async with opened() as store:
        await import_lines(store, OLD)
        await store.erase(rules, aggregate_ids=["aggregate-1"])
        import_id = await store.begin_import()
        await store.push_import(import_id, "1", part(0))
        with pytest.raises(ImportOpenError, match="an import in parts is open since"):
            await store.erase(rules)
        await store.commit_import(import_id)
        events = (await store.load_events(limit=100, cursor=None)).events
        assert {isinstance(event.payload["number"], int) for event in events} == {True, False}
        assert all(
            (event.aggregate_id == "aggregate-1") != isinstance(event.payload["number"], int)
            for event in events
        )


@pytest.mark.once
@pytest.mark.parametrize("name", ["", "x" * 2001, "\ud800"])
async def test_a_part_needs_a_name(opened: Opened, name: str) -> None:
    async with opened() as store:
        import_id = await store.begin_import()
        with pytest.raises(UsageError):
            await store.push_import(import_id, name, part(0))
        with contextlib.suppress(UsageError):
            await store.push_import(import_id, "\udcff", part(0))  # a file's name that is not UTF-8
        await store.rollback_import()


@pytest.mark.once
async def test_an_ordinary_import_goes_past_an_open_one_in_parts(opened: Opened) -> None:
    async with opened() as store:
        import_id = await store.begin_import()
        await pipeline([OLD], store.import_events())
        description = await store.describe()
        assert description.parts_import is not None
        assert description.parts_import.id == import_id
        assert await exported(store) == OLD


@pytest.mark.once
async def test_a_copy_in_parts_brings_no_erasure_while_an_import_that_does_not_know_it_is_open(
    opened: Opened,
) -> None:
    async with opened() as source, opened() as store:
        await import_lines(source, make_lines(40))
        await source.erase(Rules(rules=(Rule(redact=("/number",)),)), aggregate_ids=["aggregate-1"])
        await import_lines(store, OLD)
        other = await store.begin_incremental_import()
        await store.push_incremental_import([make_event(50)], other)
        import_id = await store.begin_import()
        await store.push_import(import_id, "all", source.export_events())
        with pytest.raises(ImportOpenError, match="would bring back what is erased"):
            await store.commit_import(import_id, erased_from=source)
        assert await exported(store) == OLD
        await store.rollback_incremental_import(other)
        assert (await store.commit_import(import_id, erased_from=source)).imported == 40
        assert await exported(store) == await exported(source)
