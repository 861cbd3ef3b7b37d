"""What operations tell in the log: each of them once, with counts; and never a password, a secret or a payload."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from eventferry import (
    AUTO,
    MANUAL,
    ConcurrentError,
    EventferryError,
    EventStore,
    InputError,
    SecretExistsError,
    StoreExistsError,
    StoreFrozenError,
    open_store,
    pipeline,
    sync,
)
from eventferry.databases import database_at
from eventferry.operation_log import Operation, told_elsewhere
from tests.support import (
    FAR_FUTURE,
    NewUrl,
    Opened,
    exported,
    import_lines,
    make_event,
    make_lines,
)
from tests.support.servers import PASSWORD

HIDDEN = "h1dd3n-0f-C0urs3"
SAVED: dict[str, Any] = {"type": "T", "aggregateId": "a", "aggregateVersion": 1, "payload": HIDDEN}


class Records(logging.Handler):
    """All records of all loggers."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.all.append(record)

    def told(self, level: int = logging.INFO) -> list[dict[str, Any]]:
        """The fields of what operations told, at a level at least."""
        return [
            vars(record)
            for record in self.all
            if record.name == "eventferry.operations" and record.levelno >= level
        ]


@contextmanager
def watching(level: int = logging.DEBUG) -> Iterator[Records]:
    """Watch every logger that there is."""
    handler, root = Records(), logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(level)
    try:
        yield handler
    finally:
        root.removeHandler(handler)
        root.setLevel(before)


async def every_operation(store: EventStore) -> None:
    """All that a store can do, well and badly; in all of it there is something to hide."""
    event = make_event(0, payload={"text": HIDDEN})
    await store.init()
    await import_lines(store, [event])
    await import_lines(store, [event, make_event(1, payload=HIDDEN)], maintenance_mode=MANUAL)
    await store.save_event(SAVED)
    merged = {"type": "T", "timestamp": FAR_FUTURE, "aggregateId": "b", "payload": HIDDEN}
    await store.incremental_import([merged])
    await store.incremental_import([merged | {"aggregateId": "c"}], dry_run=True)
    for ends_well in (True, False):
        import_id = await store.begin_incremental_import()
        await store.push_incremental_import([merged], import_id)
        if ends_well:
            await store.commit_incremental_import(import_id)
        else:
            await store.rollback_incremental_import(import_id)
    await store.set_secret("anna", HIDDEN)
    await store.set_secret("bert", HIDDEN)
    await store.delete_secret("bert")
    text = b"".join([block async for block in store.export_secrets(tombstones=True)])
    await pipeline([text], store.import_secrets())
    await exported(store)
    await exported(store, maintenance_mode=AUTO)
    await store.save_snapshot("key", HIDDEN)
    await store.load_snapshot("key")
    await store.drop_snapshot("key")
    await store.ensure_event_subscriber("app", "model", {"text": HIDDEN}, HIDDEN)
    await store.get_event_subscribers()
    await store.remove_event_subscriber("app", "model")
    await store.load_events(limit=9, cursor=None)
    await store.describe()
    await store.upgrade()
    await store.freeze()
    await store.unfreeze()
    bad = b'{"payload":"%s","type":5}\n' % HIDDEN.encode()
    bad_secret = b'{"secret":["%s"],"id":"x","idx":1}\n' % HIDDEN.encode()
    for failing in (
        store.init(),
        store.save_event(SAVED),
        store.save_event({"type": HIDDEN}),
        store.save_event(SAVED | {"payload": {"text": HIDDEN, "bad": float("nan")}}),
        import_lines(store, bad),
        import_lines(store, [event, event | {"payload": [HIDDEN]}]),
        import_lines(store, [event | {"payload": HIDDEN * 2}], maintenance_mode=MANUAL),
        store.incremental_import([{"type": "T", "payload": HIDDEN}]),
        store.push_incremental_import([merged], HIDDEN),
        store.commit_incremental_import("unknown"),
        store.set_secret("anna", HIDDEN * 2),
        pipeline([text.replace(b'":"' + HIDDEN.encode(), b'":"x' + HIDDEN.encode())], store.import_secrets()),
        pipeline([bad_secret], store.import_secrets()),
    ):
        with pytest.raises(EventferryError):
            await failing
    await store.drop()


OPERATIONS = {
    "init", "drop", "upgrade", "freeze", "unfreeze", "export", "import", "incremental-import", "incremental begin",
    "incremental push", "incremental commit", "incremental rollback", "set-secret", "delete-secret",
    "export-secrets", "import-secrets",
}  # fmt: skip
AT_DEBUG = {"save-event", "save-snapshot", "drop-snapshot", "ensure-subscriber", "remove-subscriber"}


async def test_no_record_holds_a_password_a_secret_or_a_payload(new_url: NewUrl) -> None:
    url = new_url()
    with watching() as records:
        async with open_store(url) as store:
            await every_operation(store)
    assert "sqlite" in url or PASSWORD in url
    assert len(records.all) > 60
    for record in records.all:
        words = f"{vars(record)!r} {record.getMessage()} {logging.Formatter().format(record)}"
        assert HIDDEN not in words
        assert PASSWORD not in words
        assert url not in words


@pytest.mark.once
async def test_every_operation_tells_its_beginning_and_its_end(new_url: NewUrl) -> None:
    with watching() as records:
        async with open_store(new_url()) as store:
            await every_operation(store)
    everything = records.told(logging.DEBUG)
    assert {fields["operation"] for fields in everything} == OPERATIONS | AT_DEBUG
    assert {fields["operation"] for fields in records.told() if fields["outcome"] == "done"} == OPERATIONS
    begun = [fields["operation"] for fields in everything if fields["outcome"] == "begun"]
    over = [
        fields["operation"]
        for fields in everything
        if fields["outcome"] != "begun" and fields["operation"] in OPERATIONS
    ]
    assert sorted(begun) == sorted(over)
    for fields in everything:
        assert fields["store"]
        assert ("seconds" in fields) == (fields["outcome"] != "begun")
        assert ("error" in fields) == (fields["outcome"] == "failed")
        assert fields["levelno"] == level_of(fields)


def level_of(fields: dict[str, Any]) -> int:
    if fields["outcome"] == "failed" and fields["error"] != "ConcurrentError":
        return logging.WARNING
    return (
        logging.INFO if fields["outcome"] == "done" and fields["operation"] in OPERATIONS else logging.DEBUG
    )


@pytest.mark.once
async def test_the_counts_are_those_of_what_was_done(opened: Opened) -> None:
    def last() -> dict[str, Any]:
        return records.told()[-1]

    with watching(logging.INFO) as records:
        async with opened() as store:
            await import_lines(store, make_lines(300))
            assert (last()["operation"], last()["imported"], last()["mode"]) == ("import", 300, "auto")
            assert last()["byte_offset"] == len(make_lines(300))
            await exported(store, limit=7)
            assert (last()["operation"], last()["events"]) == ("export", 7)
            event = {"type": "T", "timestamp": FAR_FUTURE, "aggregateId": "b"}
            await store.incremental_import([event, make_event(3)], dry_run=True)
            assert (last()["imported"], last()["skipped_existing"], last()["dry_run"]) == (1, 1, True)
            import_id = await store.begin_incremental_import()
            await store.push_incremental_import([event, event], import_id)
            assert (last()["operation"], last()["events"]) == ("incremental push", 2)
            await store.commit_incremental_import(import_id)
            assert last()["imported"] == 2
            await store.set_secret("anna", HIDDEN)
            assert "events" not in last()
            [block async for block in store.export_secrets()]
            assert last()["secrets"] == 1


@pytest.mark.once
async def test_what_fails_is_told_by_the_error_s_name_and_a_taken_version_only_to_who_asks(
    opened: Opened,
) -> None:
    async with opened() as store:
        await store.save_event(SAVED)
        with watching(logging.INFO) as records:
            with pytest.raises(ConcurrentError):
                await store.save_event(SAVED)
            assert records.told() == []
            await store.freeze()
            with pytest.raises(StoreFrozenError):
                await store.save_event(SAVED)
            with pytest.raises(StoreExistsError):
                await store.init()
            await store.unfreeze()
            with pytest.raises(InputError):
                await import_lines(store, make_lines(20)[:-5])
    warned = [
        (fields["operation"], fields["error"])
        for fields in records.told(logging.WARNING)
        if fields["outcome"] == "failed"
    ]
    assert warned == [
        ("save-event", "StoreFrozenError"),
        ("init", "StoreExistsError"),
        ("import", "InputError"),
    ]


@pytest.mark.once
async def test_what_is_given_up_is_told_once(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(30))
        with watching() as records:
            export = store.export_events(limit=3)
            await anext(export)
            await export.aclose()
            await export.aclose()
            sink = store.import_events()
            await sink.write(make_lines(9))
            await sink.abort()
            await sink.abort()
            task = asyncio.ensure_future(pipeline(never_ending(), store.import_events()))
            await asyncio.sleep(0.3)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            store.export_events()  # of which nobody asks anything
    ends = [fields for fields in records.told(logging.DEBUG) if fields["outcome"] != "begun"]
    assert [(fields["operation"], fields["outcome"]) for fields in ends] == [
        ("export", "given up"),
        ("import", "given up"),
        ("import", "given up"),
    ]


async def test_what_is_over_is_not_told_again() -> None:
    database = database_at("a.db", {})()
    with watching() as records:
        operation = Operation("export", database)
        operation.fail(None)  # it never began
        operation.begin()
        operation.end()
        operation.end()
        operation.fail(InputError("too late"))
    assert [fields["outcome"] for fields in records.told(logging.DEBUG)] == ["begun", "done"]
    await database.life.end()


async def never_ending() -> Any:
    yield make_lines(9)
    await asyncio.sleep(60)


@pytest.mark.once
async def test_who_tells_elsewhere_is_told_here_at_debug_only(opened: Opened) -> None:
    async with opened() as store:
        with watching() as records, told_elsewhere():
            export = store.export_events()
            with pytest.raises(StoreExistsError):
                await store.init()
        with watching() as later:
            assert [block async for block in export] == []
    assert records.told() == later.told() == []
    assert len(records.told(logging.DEBUG)) == 2
    assert [fields["outcome"] for fields in later.told(logging.DEBUG)] == ["begun", "done"]


@pytest.mark.once
def test_without_await_the_same_is_told(new_url: NewUrl) -> None:
    with watching(logging.INFO) as records, sync.open_store(new_url()) as store:
        store.init()
        store.set_secret("anna", HIDDEN)
        with pytest.raises(SecretExistsError):
            store.set_secret("anna", HIDDEN)
        sync.pipeline([make_lines(3)], store.import_events(allow_empty=True))
    told = [(fields["operation"], fields["outcome"]) for fields in records.told()]
    assert told == [
        ("init", "done"),
        ("set-secret", "done"),
        ("set-secret", "failed"),
        ("import", "done"),
    ]
