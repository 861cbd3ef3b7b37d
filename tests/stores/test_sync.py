"""The same names without await."""

from __future__ import annotations

import inspect
import io
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import eventferry
from eventferry import (
    AUTO,
    MANUAL,
    ConcurrentError,
    Event,
    GatheredSecrets,
    ImportReport,
    InputError,
    Rule,
    Rules,
    Secret,
    SecretsReport,
    StoreClosedError,
    StoreFrozenError,
    StoreNotFoundError,
    Subscriber,
    sync,
)
from eventferry.sync import open_store, pipeline
from tests.support import FAR_FUTURE, events_of, line, make_event, make_lines


def test_a_script_uses_every_method_without_await(tmp_path: Path) -> None:
    with open_store(f"sqlite:///{tmp_path}/a.db") as store, open_store(f"{tmp_path}/b.db") as other:
        assert store.exists() is False
        store.init()
        other.init()
        assert store.exists() is True
        assert store.upgrade() == []

        saved = store.save_event({"type": "T", "aggregateId": "a", "aggregateVersion": 1, "payload": [1]})
        assert saved.event.payload == [1]
        assert store.load_events(limit=5, cursor=None).events == [saved.event]
        assert store.load_events(limit=5, start_time=0, finish_time=FAR_FUTURE).events == [saved.event]
        assert store.get_latest_event() == saved.event
        assert store.get_next_cursor(None, [saved.event]) == saved.cursor
        assert store.get_cursor_until_event_types(None, ["OTHER"]) == saved.cursor
        assert store.describe(calculate_cursor=True).cursor == saved.cursor
        loader = store.get_event_loader(cursor=None)
        assert loader.load_events(5).events == [saved.event]
        assert loader.cursor == saved.cursor
        loader.close()
        with pytest.raises(StoreClosedError):
            loader.load_events(5)

        with store.import_events() as stream:
            stream.write(make_lines(60))
            stream.write(make_lines(100)[len(make_lines(60)) :])
        assert (stream.byte_offset, stream.saved_events_count) == (len(make_lines(100)), 100)
        export = store.export_events()
        assert b"".join(export) == make_lines(100)
        assert (export.is_end, export.is_buffer_overflow, export.exported) == (True, False, 100)
        part = store.export_events(buffer_size=1000)
        first = b"".join(part)
        assert (part.is_end, part.is_buffer_overflow) == (False, True)
        assert first + b"".join(store.export_events(cursor=part.cursor)) == make_lines(100)
        report = pipeline(store.export_events(), other.import_events())
        assert (report.imported, report.byte_offset) == (100, len(make_lines(100)))

        assert other.incremental_import([make_event(100), make_event(99)]) == ImportReport(1, 1, 0)
        assert other.incremental_import([make_event(101)], dry_run=True) == ImportReport(1, 0, 0)
        assert other.incremental_import(store.export_events()) == ImportReport(0, 100, 0)
        assert other.incremental_import(iter([make_lines(50), make_lines(3)])) == ImportReport(0, 50, 3)
        import_id = other.begin_incremental_import()
        assert other.push_incremental_import([make_event(101)], import_id, part="1") == 1
        assert other.push_incremental_import([line(make_event(102))], import_id) == 1
        assert other.commit_incremental_import(import_id, older="reject") == ImportReport(2, 0, 0)
        other.begin_incremental_import()
        other.rollback_incremental_import()

        store.set_secret("id", "secret")
        assert store.get_secret("id") == "secret"
        assert store.load_secrets(limit=5).secrets == [Secret("secret", "id", 0)]
        told = store.load_events(limit=5, cursor=None, event_types=["RESOLVE_SET_SECRET"]).events
        assert store.gather_secrets_from_events(told) == GatheredSecrets([Secret("secret", "id", 0)], [])
        assert pipeline(store.export_secrets(), other.import_secrets()) == SecretsReport(imported=1)
        with other.import_secrets() as sink:
            sink.write(b"".join(store.export_secrets(tombstones=True)))
        assert sink.close() == SecretsReport(skipped_existing=1)
        assert store.delete_secret("id") is True
        assert store.delete_secret("id") is False

        store.save_snapshot("key", "content")
        assert store.load_snapshot("key") == "content"
        store.drop_snapshot("key")
        assert store.load_snapshot("key") is None
        assert store.ensure_event_subscriber("app", "model", {"at": 1}, "ok") is True
        assert store.get_event_subscribers() == [Subscriber("app", "model", {"at": 1}, "ok")]
        store.remove_event_subscriber("app", "model")
        assert store.get_event_subscribers("app") == []

        store.freeze()
        with pytest.raises(StoreFrozenError):
            store.save_event({"type": "T", "aggregateId": "a", "aggregateVersion": 1})
        store.unfreeze()
        store.drop()
        assert store.exists() is False
    with pytest.raises(StoreClosedError):
        store.describe()
    store.close()


def methods(of: type) -> dict[str, Callable[..., Any]]:
    return {
        name: member
        for name, member in inspect.getmembers(of, inspect.isfunction)
        if not name.startswith("_") and name != "aclose"
    }


@pytest.mark.parametrize("name", methods(eventferry.EventStore))
def test_every_method_of_a_store_is_there_with_the_same_parameters(name: str) -> None:
    awaited, plain = methods(eventferry.EventStore)[name], methods(sync.EventStore)[name]
    expected, found = inspect.signature(awaited).parameters, inspect.signature(plain).parameters
    assert [(p.name, p.kind, p.default) for p in found.values()] == [
        (p.name, p.kind, p.default) for p in expected.values()
    ]
    assert plain.__doc__
    assert not inspect.iscoroutinefunction(plain)


@pytest.mark.parametrize(
    ("awaited", "plain"),
    [
        (eventferry.EventStore, sync.EventStore),
        (eventferry.ExportStream, sync.ExportStream),
        (eventferry.FollowStream, sync.FollowStream),
        (eventferry.ImportStream, sync.ImportStream),
        (eventferry.EventLoader, sync.EventLoader),
    ],
)
def test_every_public_name_of_a_store_and_its_streams_is_there(awaited: type, plain: type) -> None:
    def names(of: type) -> set[str]:
        return {name for name in dir(of) if not name.startswith("_")} - {"aclose"}

    assert names(awaited) - names(plain) == set()
    assert inspect.signature(eventferry.open_store).parameters.keys() == (
        inspect.signature(open_store).parameters.keys()
    )


def test_a_script_moves_an_application_without_await(tmp_path: Path) -> None:
    def save(store: sync.EventStore, version: int) -> None:
        store.save_event({"type": "T", "aggregateId": "a", "aggregateVersion": version})

    assert inspect.signature(eventferry.cutover).parameters.keys() == (
        inspect.signature(sync.cutover).parameters.keys()
    )
    with open_store(f"{tmp_path}/a.db") as source, open_store(f"{tmp_path}/b.db") as target:
        source.init()
        save(source, 1)
        target.sync(source)
        save(source, 2)
        assert sync.cutover(source, target).events == 1
        with pytest.raises(StoreFrozenError):
            save(source, 3)
        save(target, 3)
        with pytest.raises(eventferry.AlreadyFrozenError):
            sync.cutover(source, target, unfreeze_on_failure=False)


def test_a_script_erases_without_await(tmp_path: Path) -> None:
    with open_store(f"{tmp_path}/a.db") as store, open_store(f"{tmp_path}/b.db") as copy:
        store.init()
        copy.init()
        pipeline([line(make_event(i, payload={"name": "Ada"})) for i in range(20)], store.import_events())
        older = list(store.export_events())
        pipeline(older, copy.import_events())
        rules = Rules(rules=(Rule(redact=("/name",)),))
        assert store.erase(rules, aggregate_ids=["aggregate-1"], dry_run=True).changed == 2
        assert store.erase(rules, aggregate_ids=["aggregate-1"]).changed == 2
        assert not sync.verify(older, store.export_events()).equal
        assert sync.verify(older, store.export_events(), erased=store.erased()).equal
        report = copy.bring_erasures(store)
        assert report is not None
        assert report.changed == 2
        assert sync.verify(copy.export_events(), store.export_events()).equal


def test_errors_are_the_same_ones(tmp_path: Path) -> None:
    with open_store(f"{tmp_path}/a.db") as store:
        with pytest.raises(StoreNotFoundError):
            store.describe()
        store.init()
        event = Event(type="T", aggregate_id="a", aggregate_version=1)
        store.save_event(event)
        with pytest.raises(ConcurrentError) as caught:
            store.save_event(event)
        assert (caught.value.aggregate_id, caught.value.aggregate_version) == ("a", 1)
        with pytest.raises(InputError):
            store.incremental_import([make_event(0), {"type": "T"}])


def test_leaving_an_import_by_an_error_aborts_it(tmp_path: Path) -> None:
    def dies() -> None:
        with store.import_events() as stream:
            stream.write(make_lines(10))
            raise ZeroDivisionError

    with open_store(f"{tmp_path}/a.db") as store:
        store.init()
        with store.import_events() as stream:
            stream.write(make_lines(3))
        with pytest.raises(ZeroDivisionError):
            dies()
        assert b"".join(store.export_events()) == make_lines(3)


def test_an_export_that_is_left_early_unfreezes_what_it_froze(tmp_path: Path) -> None:
    with open_store(f"{tmp_path}/a.db") as store:
        store.init()
        with store.import_events() as stream:
            stream.write(make_lines(3))
        with store.export_events(maintenance_mode=AUTO) as export:
            next(export)
            assert store.describe().is_frozen
        assert not store.describe().is_frozen


def test_a_pipeline_takes_the_transforms_that_await(tmp_path: Path) -> None:
    changes = eventferry.Changes(function=lambda event: event if event.type == "TYPE_0" else None)
    with open_store(f"{tmp_path}/a.db") as store:
        store.init()
        text = pipeline_text(
            [make_lines(30)], eventferry.mark_end, eventferry.CheckEnd(required=True), changes
        )
        pipeline([text], store.import_events())
        assert {event.type for event in store.load_events(limit=99, cursor=None).events} == {"TYPE_0"}
        assert (changes.report.read, changes.report.dropped) == (30, 20)
        report = store.incremental_import(
            map(make_event, range(60)), changes=eventferry.Changes(finish_time=0)
        )
        assert report == ImportReport(0, 0, 0)


def pipeline_text(*steps: Any) -> bytes:
    """The bytes that come out at the end of a pipeline."""
    out = io.BytesIO()
    pipeline(*steps, out)
    return out.getvalue()


def test_a_pipeline_takes_files_transforms_and_iterators(tmp_path: Path) -> None:
    def shout(blocks: Iterator[bytes]) -> Iterable[bytes]:
        for block in blocks:
            yield block.replace(b"TYPE_", b"LOUD_")

    with open_store(f"{tmp_path}/a.db") as store, open_store(f"{tmp_path}/b.db") as other:
        store.init()
        other.init()
        text = make_lines(300)
        pipeline([text[:100], text[100:]], store.import_events())
        pipeline(store.export_events(), str(tmp_path / "a.jsonl.gz"))
        pipeline(str(tmp_path / "a.jsonl.gz"), shout, shout, other.import_events())
        assert b"".join(other.export_events()) == text.replace(b"TYPE_", b"LOUD_")
        pipeline([text], other.import_events(maintenance_mode=AUTO))
        with pytest.raises(InputError):
            pipeline([text, b"broken"], other.import_events(maintenance_mode=MANUAL))
        assert b"".join(other.export_events()) == text


def test_an_error_in_a_transform_comes_out_and_leaves_the_target(tmp_path: Path) -> None:
    def dies(blocks: Iterator[bytes]) -> Iterator[bytes]:
        yield next(blocks)
        raise ZeroDivisionError

    with open_store(f"{tmp_path}/a.db") as store:
        store.init()
        with pytest.raises(ZeroDivisionError):
            pipeline([make_lines(3), make_lines(3)], dies, store.import_events())
        assert b"".join(store.export_events()) == b""
        store.save_event(Event(type="T", aggregate_id="a", aggregate_version=1))


def test_stores_are_verified_without_await(tmp_path: Path) -> None:
    with open_store(f"{tmp_path}/a.db") as store:
        store.init()
        with store.import_events() as stream:
            stream.write(make_lines(5))
        assert sync.verify(store.export_events(), [make_lines(5)]).equal
        assert sync.verify(store.export_events(), [make_lines(4)]).missing == 1


def test_a_store_may_be_used_from_many_threads(tmp_path: Path) -> None:
    with open_store(f"{tmp_path}/a.db") as store:
        store.init()

        def save(name: str) -> None:
            for version in range(1, 21):
                store.save_event(Event(type="T", aggregate_id=name, aggregate_version=version))

        threads = [threading.Thread(target=save, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = events_of(b"".join(store.export_events()))
        assert sorted((event.aggregate_id, event.aggregate_version) for event in found) == [
            (name, version) for name in "abcd" for version in range(1, 21)
        ]


def test_iterators_and_transforms_run_in_the_thread_of_their_caller(tmp_path: Path) -> None:
    seen: set[int] = set()

    def noted(items: Iterable[Any]) -> Iterator[Any]:
        try:
            for item in items:
                seen.add(threading.get_ident())
                yield item
        finally:
            seen.add(threading.get_ident())

    with open_store(f"{tmp_path}/a.db") as store:
        store.init()
        pipeline(noted([make_lines(2000)]), noted, store.import_events())
        store.incremental_import(noted(make_event(9000 + number) for number in range(3000)))
        store.incremental_import(noted([make_lines(5)]))
        import_id = store.begin_incremental_import()
        store.push_incremental_import(noted([make_event(9999)]), import_id)
        store.load_events(limit=5, cursor=None, event_types=noted(["TYPE_1"]))
        store.gather_secrets_from_events(noted([make_event(1)]))
        sync.verify(store.export_events(), noted([make_lines(1)]))
        with pytest.raises(InputError):
            pipeline(noted([b"nonsense\n", make_lines(3)]), store.import_events(replace=True))
        assert seen == {threading.get_ident()}


def test_a_generator_of_events_may_read_from_a_store(tmp_path: Path) -> None:
    with open_store(f"{tmp_path}/a.db") as store, open_store(f"{tmp_path}/b.db") as other:
        store.init()
        other.init()
        pipeline([make_lines(1000)], store.import_events())

        def events() -> Iterator[Event]:
            cursor = None
            while (page := store.load_events(limit=30, cursor=cursor)).events:
                yield from page.events
                cursor = page.cursor

        def again(blocks: Iterator[bytes]) -> Iterator[bytes]:
            for block in blocks:
                store.describe()
                yield block

        assert other.incremental_import(events()).imported == 1000
        assert (
            pipeline(store.export_events(), again, again, other.import_events(replace=True)).imported == 1000
        )


def test_an_export_of_secrets_says_how_far_it_is(tmp_path: Path) -> None:
    with open_store(f"{tmp_path}/a.db") as store:
        store.init()
        for name in "abc":
            store.set_secret(name, name)
        export = store.export_secrets()
        whole = b"".join(export)
        assert (export.idx, export.exported) == (3, 3)
        assert whole.count(b"\n") == 3
        assert b"".join(store.export_secrets(idx=export.idx)) == b""


INTERRUPTED = """
import os, signal, sys, threading, time
from eventferry.sync import AUTO, open_store, pipeline

signal.signal(signal.SIGINT, signal.default_int_handler)

def interrupted(call):
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        call()
    except KeyboardInterrupt:
        return
    raise AssertionError("it went on")

def slow():
    yield b'{"threadCounter":0,"threadId":7,"type":"T","timestamp":1,"aggregateId":"b","aggregateVersion":1}\\n'
    time.sleep(60)

def waits(store):
    with store.export_events(maintenance_mode=AUTO) as export:
        next(export)
        time.sleep(60)

with open_store(sys.argv[1]) as store:
    store.init()
    for call in (
        lambda: pipeline(slow(), store.import_events(freeze=True)),
        lambda: waits(store),
    ):
        event = {"type": "T", "aggregateId": str(time.monotonic()), "aggregateVersion": 1}
        interrupted(call)
        # At once: nothing is left of it.
        assert not store.describe().is_frozen
        store.save_event(event)
        with store.import_events(replace=True) as sink:
            sink.write(b"".join(store.export_events()))
print("whole")
"""


def test_ctrl_c_comes_back_when_nothing_is_left_of_the_call(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, f"{tmp_path}/a.db"],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.returncode) == (b"whole\n", 0), done.stderr.decode()


FOLLOWED = """
import os, random, signal, sys, threading
from eventferry.sync import open_store

def interrupt(number, frame):
    # While a call is waited for: right before an assignment, Python loses whatever is assigned.
    if frame.f_code.co_filename.endswith("loop.py") and frame.f_code.co_name == "wait":
        raise KeyboardInterrupt

signal.signal(signal.SIGINT, interrupt)

with open_store(sys.argv[1]) as store:
    stream = store.follow(limit=2)
    numbers, interrupted = [], 0
    while len(numbers) < 400:
        before = stream.bookmark
        timer = threading.Timer(random.random() / 200, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        try:
            page = next(stream)
        except KeyboardInterrupt:
            interrupted += 1
            assert before is None or stream.bookmark == before, "nothing was given"
        else:
            assert stream.bookmark == page.bookmark
            numbers += [event.payload["number"] for event in page.events]
        timer.join()
    assert numbers == list(range(400)), numbers
    print("whole" if interrupted > 5 else interrupted)
"""


@pytest.mark.slow
def test_a_reader_that_follows_loses_nothing_by_ctrl_c(tmp_path: Path) -> None:
    with open_store(f"{tmp_path}/a.db") as store:
        store.init()
        with store.import_events() as sink:
            sink.write(make_lines(400))
    done = subprocess.run(
        [sys.executable, "-c", FOLLOWED, f"{tmp_path}/a.db"], capture_output=True, timeout=60, check=False
    )
    assert (done.stdout, done.returncode) == (b"whole\n", 0), done.stderr.decode()


def test_a_store_is_followed_without_await(tmp_path: Path) -> None:
    with open_store(f"{tmp_path}/a.db") as store:
        store.init()
        with store.import_events() as sink:
            sink.write(make_lines(30))
        stream = store.follow(event_types=(kind for kind in ["TYPE_1"]), limit=6, idle=0)
        assert stream.bookmark is None
        pages = [next(stream), next(stream), next(stream)]
        assert [len(page.events) for page in pages] == [6, 4, 0]
        assert stream.bookmark == pages[-1].bookmark == store.bookmark()
        export = store.export_events(since=pages[0].bookmark, limit=3)
        rest = b"".join(export)
        assert pages[1].events[0] in events_of(rest)
        assert export.bookmark() == store.bookmark(export.cursor)
        assert export.bookmark_behind() == store.bookmark()
        assert store.load_events(limit=9, since=export.bookmark()).events[0] not in events_of(rest)


async def test_it_works_where_an_event_loop_runs_already_as_in_a_notebook(tmp_path: Path) -> None:
    with open_store(f"{tmp_path}/a.db") as store:
        store.init()
        store.save_event(Event(type="T", aggregate_id="a", aggregate_version=1))
        assert store.describe().event_count == 1
