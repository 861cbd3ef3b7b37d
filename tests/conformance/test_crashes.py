"""kill -9 at any moment: the old events or the new ones, nothing frozen, and the next command works as it is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from eventferry import (
    MANUAL,
    ConcurrentError,
    Description,
    EventStore,
    ImportNotFoundError,
    ImportReport,
    Rule,
    Rules,
    StoreBusyError,
    open_store,
    pipeline,
)
from tests.support import FAR_FUTURE, LONG_AGO, NewUrl, exported, import_lines, line, make_event, make_lines

pytestmark = pytest.mark.slow

T = TypeVar("T")

OLD = make_lines(300)
NEW = b"".join(
    line(make_event(i, aggregateId=f"new-{i % 7}", aggregateVersion=i + 1, payload="x" * 4000))
    for i in range(5000)
)
"""Enough for several commits on the way to the swap."""

PRELUDE = """
import asyncio, sys
from eventferry import AUTO, MANUAL, open_store, pipeline

def say(*words):
    print(*words, flush=True)

def run(main):
    asyncio.run(main(*sys.argv[1:]))
"""

IMPORT = """
async def main(url, path, freeze):
    async with open_store(url) as store:
        say("begun")
        await pipeline(path, store.import_events(freeze=freeze == "freeze"))
        say("done")
run(main)
"""

ERASE = """
from eventferry import Rule, Rules
async def main(url):
    async with open_store(url) as store:
        say("begun")
        await store.erase(Rules(rules=(Rule(redact=("/name",)),)))
        say("done")
run(main)
"""

# Says after each block how far the stage has come.
RESUMED_IMPORT = """
async def main(url, path):
    async with open_store(url) as store, store.import_events(resume=True) as stream:
        say(stream.byte_offset)
        with open(path, "rb") as file:
            file.seek(stream.byte_offset)
            while block := file.read(500_000):
                await stream.write(block)
                say(stream.byte_offset)
        await stream.close()
        say("done")
run(main)
"""

APPEND = """
async def main(url, path):
    async with open_store(url) as store:
        say("begun")
        await pipeline(path, store.import_events(maintenance_mode=MANUAL))
        say("done")
run(main)
"""

MERGE = """
from eventferry import read_blocks
async def main(url, path):
    async with open_store(url) as store:
        say("begun")
        await store.incremental_import(read_blocks(path))
        say("done")
run(main)
"""

COMMIT = """
async def main(url, import_id):
    async with open_store(url) as store:
        say("begun")
        await store.commit_incremental_import(import_id)
        say("done")
run(main)
"""

SAVE = """
async def main(url, aggregate):
    async with open_store(url) as store:
        say("begun")
        for version in range(1, 100_000):
            await store.save_event({"type": "S", "aggregateId": aggregate, "aggregateVersion": version})
            say(version)
run(main)
"""

EXPORT = """
async def main(url):
    async with open_store(url) as store:
        async for _ in store.export_events(maintenance_mode=AUTO):
            say("begun")
            await asyncio.sleep(60)
run(main)
"""


@contextmanager
def running(script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A child process that runs a script; it is dead at the end."""
    child = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + script, *arguments], stdout=subprocess.PIPE, text=True
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


def hear(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def duration(script: str, *arguments: str) -> float:
    """How long a script takes from its beginning to its end, if nobody kills it."""
    with running(script, *arguments) as child:
        assert hear(child) == "begun"
        start = time.perf_counter()
        assert hear(child) == "done"
        return time.perf_counter() - start


def run_and_kill(seconds: float, script: str, *arguments: str) -> bool:
    """Run a script and kill it so long after its beginning; whether it had come to its end."""
    with running(script, *arguments) as child:
        assert hear(child) == "begun"
        time.sleep(seconds)
        child.kill()
        child.wait()
        return hear(child) == "done"


async def thawed(store: EventStore) -> Description:
    """The store when nothing is frozen any more: a server takes a moment to notice that its client is dead."""
    for _ in range(1000):
        description = await store.describe()
        if not description.is_frozen:
            return description
        await asyncio.sleep(0.01)
    raise AssertionError(f"the store is left frozen by {description.frozen_by}")


async def noticed(call: Callable[[], Awaitable[T]]) -> T:
    """What an import gives when the server has noticed, a moment later, that the client of the one before is dead."""
    for _ in range(1000):
        try:
            return await call()
        except StoreBusyError:
            await asyncio.sleep(0.01)
    return await call()


@pytest.fixture
def chance() -> random.Random:
    """Randomness that a failing test prints the seed of; EVENTFERRY_SEED gives it again."""
    seed = int(os.environ.get("EVENTFERRY_SEED") or random.SystemRandom().randrange(2**32))
    print(f"EVENTFERRY_SEED={seed}")
    return random.Random(seed)


def moments(count: int, whole: float, chance: random.Random) -> list[float]:
    """Moments spread over a time and a little beyond, each at random within its part."""
    return [(part + chance.random()) / count * whole * 1.15 for part in range(count)]


@pytest.fixture
def new_file(tmp_path: Path) -> str:
    path = tmp_path / "new.jsonl"
    path.write_bytes(NEW)
    return str(path)


async def test_an_import_killed_at_any_moment_leaves_the_old_events_or_the_new_ones(
    new_url: NewUrl, new_file: str, chance: random.Random
) -> None:
    url, other = new_url(), new_url()
    async with open_store(other) as store:
        await store.init()
    whole = duration(IMPORT, other, new_file, "")
    async with open_store(url) as store:
        await store.init()
        seen = set()
        for i, moment in enumerate(moments(6, whole, chance)):
            await noticed(lambda: import_lines(store, OLD))
            await store.save_snapshot("key", "content")
            done = run_and_kill(moment, IMPORT, url, new_file, ["", "freeze"][i % 2])
            await thawed(store)
            left = await exported(store)
            assert left in (OLD, NEW)
            assert await store.load_snapshot("key") == ("content" if left == OLD else None)
            if done:
                assert left == NEW
            seen.add(left == OLD)
            # The next command works as it is, whichever it is.
            match i % 4:
                case 0:
                    event = {"type": "T", "aggregateId": "somebody", "aggregateVersion": 1}
                    assert (await store.save_event(event)).event.aggregate_version == 1
                case 1:
                    await noticed(lambda: import_lines(store, OLD, freeze=True))
                    assert await exported(store) == OLD
                case 2:
                    event = make_event(0, timestamp=FAR_FUTURE)
                    assert await store.incremental_import([event]) == ImportReport(1, 0, 0)
                case _:
                    await store.freeze()
                    await store.unfreeze()
        assert True in seen


async def test_an_import_killed_in_the_middle_goes_on_where_it_was(
    new_url: NewUrl, new_file: str, chance: random.Random
) -> None:
    url, other = new_url(), new_url()
    async with open_store(url) as store:
        await store.init()
        await import_lines(store, OLD)
        begun_at: list[int] = []
        killed = 0
        while True:
            wait_for = (begun_at[-1] if begun_at else 0) + chance.randrange(len(NEW) // 3)
            with running(RESUMED_IMPORT, url, new_file) as child:
                begun_at.append(int(hear(child)))
                heard = begun_at[-1]
                while (word := hear(child)) not in ("done", ""):
                    heard = int(word)
                    if heard > wait_for and killed < 4:
                        break
                if word == "done":
                    break
                assert heard > 0, "the import died"
                time.sleep(chance.random() * 0.05)
            killed += 1
            assert await exported(store) == OLD
            await thawed(store)
        assert killed >= 2
        assert begun_at == sorted(begun_at)
        assert begun_at[1] > 0
        assert await exported(store) == NEW
        async with open_store(other) as uninterrupted:
            await uninterrupted.init()
            await import_lines(uninterrupted, NEW)
            mine, theirs = [await each.describe(calculate_cursor=True) for each in (store, uninterrupted)]
            assert mine.cursor == theirs.cursor
            assert mine.event_count == theirs.event_count


async def test_an_import_killed_in_the_middle_goes_on_in_a_pipeline_too(
    new_url: NewUrl, new_file: str
) -> None:
    url = new_url()
    async with open_store(url) as store:
        await store.init()
        with running(RESUMED_IMPORT, url, new_file) as child:
            while int(hear(child)) == 0:
                pass
        report = await noticed(lambda: pipeline(new_file, store.import_events(resume=True)))
        assert report.imported == 5000
        assert await exported(store) == NEW


async def test_after_a_killed_import_another_begins_anew_without_resume(
    new_url: NewUrl, new_file: str
) -> None:
    url = new_url()
    async with open_store(url) as store:
        await store.init()
        with running(RESUMED_IMPORT, url, new_file) as child:
            while int(hear(child)) == 0:
                pass

        async def begin_anew() -> None:
            async with store.import_events() as stream:
                assert stream.byte_offset == 0
                await stream.write(OLD)

        await noticed(begin_anew)
        assert await exported(store) == OLD


async def test_an_appending_import_killed_at_any_moment_leaves_a_beginning_and_goes_on(
    new_url: NewUrl, new_file: str, chance: random.Random
) -> None:
    url = new_url()
    async with open_store(url) as store:
        await store.init()
        whole = duration(APPEND, url, new_file)
        for moment in moments(3, whole, chance):
            await import_lines(store, b"", allow_empty=True)
            run_and_kill(moment, APPEND, url, new_file)
            left = await exported(store)
            assert NEW.startswith(left)
            assert left == b"" or left.endswith(b"\n")
            await import_lines(store, NEW, maintenance_mode=MANUAL)
            assert await exported(store) == NEW


async def test_an_incremental_import_killed_at_any_moment_is_in_whole_or_not_at_all(
    new_url: NewUrl, tmp_path: Path, chance: random.Random
) -> None:
    url, n, rounds = new_url(), 3000, 3

    def batch(k: int) -> str:
        path = tmp_path / f"{k}.jsonl"
        path.write_bytes(
            b"".join(
                line(make_event(i, timestamp=LONG_AGO + 10**6 * (k + 1) + i // 3, payload=[k, i]))
                for i in range(n)
            )
        )
        return str(path)

    async with open_store(url) as store:
        await store.init()
        whole = duration(MERGE, url, batch(0))
        for k, moment in enumerate(moments(rounds, whole, chance), start=1):
            before = (await store.describe()).event_count
            path = batch(k)
            done = run_and_kill(moment, MERGE, url, path)
            description = await thawed(store)
            came_in = description.event_count - before
            assert came_in in (0, n)
            assert came_in == n or not done
            report = await store.incremental_import(map(_event, Path(path).read_bytes().splitlines()))
            assert report == ImportReport(n - came_in, came_in, 0)
        events = (await store.load_events(limit=100_000, cursor=None)).events
        assert len(events) == n * (rounds + 1)
        heads: dict[int, int] = {}
        versions: dict[str, list[int]] = {}
        for event in events:
            assert event.thread_counter == heads.get(event.thread_id, 0)
            heads[event.thread_id] = event.thread_counter + 1
            versions.setdefault(event.aggregate_id, []).append(event.aggregate_version)
        assert all(found == list(range(1, len(found) + 1)) for found in versions.values())


def _event(text: bytes) -> dict[str, object]:
    event: dict[str, object] = json.loads(text)
    return event


async def test_a_commit_killed_at_any_moment_leaves_the_import_open_or_the_events_in(
    new_url: NewUrl, chance: random.Random
) -> None:
    url, n, rounds = new_url(), 3000, 3

    async with open_store(url) as store:
        await store.init()

        async def staged(k: int) -> str:
            import_id = await store.begin_incremental_import()
            events = [make_event(i, timestamp=LONG_AGO + 10**6 * (k + 1) + i) for i in range(n)]
            await store.push_incremental_import(events[n // 2 :], import_id, part="2")
            await store.push_incremental_import(events[: n // 2], import_id, part="1")
            return import_id

        whole = duration(COMMIT, url, await staged(0))
        for k, moment in enumerate(moments(rounds, whole, chance), start=1):
            before = (await store.describe()).event_count
            import_id = await staged(k)
            done = run_and_kill(moment, COMMIT, url, import_id)
            description = await thawed(store)
            if description.open_import is None:
                assert description.event_count == before + n
                with pytest.raises(ImportNotFoundError):
                    await store.commit_incremental_import(import_id)
            else:
                assert not done
                assert description.open_import.id == import_id
                assert description.event_count == before
                try:
                    assert await store.commit_incremental_import(import_id) == ImportReport(n, 0, 0)
                except (
                    ImportNotFoundError
                ):  # the server carried out what the dead one had sent, a moment later
                    assert (await store.describe()).event_count == before + n
        assert (await store.describe()).event_count == n * (rounds + 1)


async def test_saves_killed_at_any_moment_keep_every_event_that_was_confirmed(
    new_url: NewUrl, chance: random.Random
) -> None:
    url = new_url()
    async with open_store(url) as store:
        await store.init()
        for k in range(3):
            with running(SAVE, url, f"aggregate-{k}") as child:
                assert hear(child) == "begun"
                time.sleep(chance.random() * 0.3)
                child.kill()
                assert child.stdout is not None
                confirmed = [int(word) for word in child.stdout.read().split("\n")[:-1]]
            # A server may still have the last save before it when its client is dead already: then ours, of the
            # same version, is refused. Whichever came, the next version is free after it.
            with contextlib.suppress(ConcurrentError):
                await store.save_event(
                    {"type": "OURS", "aggregateId": f"aggregate-{k}", "aggregateVersion": len(confirmed) + 1}
                )
            events = (
                await store.load_events(limit=100_000, cursor=None, aggregate_ids=[f"aggregate-{k}"])
            ).events
            assert [event.aggregate_version for event in events] == list(range(1, len(confirmed) + 2))
            saved = await store.save_event(
                {"type": "OURS", "aggregateId": f"aggregate-{k}", "aggregateVersion": len(confirmed) + 2}
            )
            assert saved.event.aggregate_version == len(confirmed) + 2
        heads: dict[int, int] = {}
        for event in (await store.load_events(limit=100_000, cursor=None)).events:
            assert event.thread_counter == heads.get(event.thread_id, 0)
            heads[event.thread_id] = event.thread_counter + 1


async def test_an_export_that_froze_and_was_killed_keeps_nobody_out(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as store:
        await store.init()
        await import_lines(store, OLD)
        with running(EXPORT, url) as child:
            assert hear(child) == "begun"
            assert (await store.describe()).is_frozen
        await thawed(store)
        await store.save_event({"type": "T", "aggregateId": "somebody", "aggregateVersion": 1})
        assert (await exported(store)).startswith(OLD)


async def test_a_freeze_that_a_user_took_over_stays_when_the_export_is_killed(
    new_url: NewUrl,
) -> None:
    url = new_url()
    async with open_store(url) as store:
        await store.init()
        await import_lines(store, OLD)
        with running(EXPORT, url) as child:
            assert hear(child) == "begun"
            await store.freeze()
        description = await store.describe()
        assert (description.is_frozen, description.frozen_by) == (True, "user")


async def test_an_erasure_killed_at_any_moment_is_in_whole_or_not_at_all(
    new_url: NewUrl, chance: random.Random
) -> None:
    before = b"".join(line(make_event(i, payload={"i": i, "name": "Ada"})) for i in range(20_000))
    after = before.replace(b'"name":"Ada"', b'"name":null')
    url = new_url()
    async with open_store(url) as store:
        await store.init()
        await import_lines(store, before)
        whole = duration(ERASE, url)
        assert await exported(store) == after
        await store.drop()
        await store.init()
        await import_lines(store, before)
        seen = set()
        for moment in moments(6, whole, chance):
            done = run_and_kill(moment, ERASE, url)
            await store.freeze()  # a server may still be undoing it: this waits for its end
            await store.unfreeze()
            left = await exported(store)
            assert left in (before, after)
            assert bool((await store.erased()).erasures) == (left == after)
            assert not done or left == after
            seen.add(left == before)
            if left == after:
                await store.drop()
                await store.init()
                await import_lines(store, before)
        assert True in seen
        await store.erase(Rules(rules=(Rule(redact=("/name",)),)))
        assert await exported(store) == after
