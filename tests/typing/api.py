"""What type checkers must know of the public API: scripts/check has them read this file, and nothing runs it."""

from __future__ import annotations

import gzip
import io
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, assert_type

import eventferry
from eventferry import (
    AggregatePage,
    Append,
    Appended,
    BackupReport,
    ChangedEvent,
    ChangeReport,
    Changes,
    CheckReport,
    CutoverReport,
    Description,
    Event,
    EventInput,
    EventLoader,
    EventStore,
    ExportStream,
    FolderSink,
    FollowStream,
    ForeignExport,
    ForeignSource,
    ForeignTarget,
    History,
    ImportReport,
    ImportStream,
    Older,
    Page,
    Partition,
    Repository,
    RestoreReport,
    SavedEvent,
    SearchPage,
    SecretsExport,
    SecretsImport,
    SecretsReport,
    Sink,
    SourcePreview,
    SourceReport,
    Stats,
    StreamReport,
    TargetReport,
    TargetStream,
    VerifyReport,
    back_up,
    check,
    cutover,
    data_of,
    from_cloudevents,
    from_csv,
    load_rules,
    metadata_of,
    open_source,
    open_store,
    open_target,
    pipeline,
    read_parquet,
    sync,
    to_cloudevents,
    to_csv,
    to_parquet,
    verify,
    with_metadata,
)


class Counting:
    """A sink of one's own."""

    async def write(self, block: bytes) -> None: ...

    async def close(self) -> int:
        return 0

    async def abort(self, error: BaseException | None = None) -> None: ...


async def packed(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for block in blocks:
        yield gzip.compress(block)


async def streams(a: EventStore, b: EventStore) -> None:
    assert_type(a.export_events(), ExportStream)
    assert_type(a.import_events(), ImportStream)
    assert_type(a.export_secrets(), SecretsExport)
    assert_type(a.import_secrets(), SecretsImport)
    assert_type(await pipeline(a.export_events(), b.import_events()), StreamReport)
    assert_type(await pipeline(a.export_events(), packed, packed, packed, b.import_events()), StreamReport)
    assert_type(await pipeline("secrets.jsonl", b.import_secrets()), SecretsReport)
    assert_type(await pipeline(a.export_events(), packed, Counting()), int)
    sink: Sink[int] = Counting()
    assert_type(await pipeline([b"{}"], sink), int)
    await pipeline(a.export_events(), Path("events.jsonl"))
    await pipeline(a.export_events(), packed, io.BytesIO())
    await pipeline(a.export_events(), to_csv(), "events.csv")
    assert_type(await pipeline("events.csv", from_csv(), b.import_events()), StreamReport)
    await pipeline(a.export_events(), to_cloudevents("/shop"), "events.jsonl")
    assert_type(await pipeline("events.jsonl", from_cloudevents(), b.import_events()), StreamReport)
    assert_type(await pipeline(read_parquet("a.parquet"), b.import_events()), StreamReport)
    folder = FolderSink("days", split_by="day", conversion=to_parquet(), ending=".parquet")
    assert_type(await pipeline(a.export_events(), folder), None)
    assert_type(await verify(a.export_events(), "events.jsonl"), VerifyReport)
    assert_type(await check(a), CheckReport)
    assert_type(await a.stats(span="day", event_types=["T"]), Stats)
    assert_type(await a.search("text", path="/a", value=1, start_time=0), SearchPage)
    assert_type(await a.history("a"), History)
    assert_type(await back_up(a, Path("backups"), recipients=["age1…", Path("keys")]), BackupReport)


async def changes() -> None:
    def twice(event: Event) -> list[Event]:
        return [event, event]

    made = Changes(rules=load_rules("rules.toml"), function=twice, event_types=["T"])
    Changes(rules="rules.toml", function=lambda event: None, keep_positions=True)
    async with open_store("a.db") as a, open_store("b.db") as b:
        assert_type(await pipeline(a.export_events(), made, b.import_events()), StreamReport)
    assert_type(made.report, ChangeReport)
    assert_type(made.first_changed, list[ChangedEvent])
    assert_type(made.digest, str)


async def events(older: Older, event: EventInput) -> None:
    async with open_store("a.db") as store:
        assert_type(store, EventStore)
        page = await store.load_events(limit=10, cursor=None)
        assert_type(page, Page)
        assert_type(with_metadata(page.events[0], id="e"), Event)
        assert_type(with_metadata({"type": "T"}), dict[str, Any])
        assert_type(metadata_of(event).causation_id, str | None)
        assert_type(data_of(event), Any)
        assert_type(page.events[0], Event)
        assert_type(page.events[0].payload, Any)
        assert_type(page.cursor, str | None)
        assert_type(await store.save_event(event), SavedEvent)
        assert_type(
            await store.save_event({"type": "T", "aggregateId": "a", "aggregateVersion": 1}), SavedEvent
        )
        assert_type(await store.append_events("a", [event], expected_version="none"), Appended)
        assert_type(await store.append_batches([Append("a", [event], expected_version=3)]), Appended)
        assert_type(await store.load_aggregate("a"), AggregatePage)
        assert_type(await store.last_events(3), list[Event])
        assert_type(await store.incremental_import([event], older=older), ImportReport)
        assert_type(await store.get_event_loader(cursor=None), EventLoader)
        assert_type(await store.describe(), Description)
        assert_type(await store.get_secret("id"), str | None)
        assert_type(await store.partitions(4), list[Partition])


async def following(store: EventStore) -> None:
    stream = store.follow("now", event_types=["T"], idle=1)
    assert_type(stream, FollowStream)
    assert_type(stream.bookmark, str | None)
    async for page in stream:
        assert_type(page, Page)
        assert_type(page.bookmark, str | None)
        assert_type(await store.bookmark(page.cursor), str)
    export = store.export_events(since=await store.bookmark())
    assert_type(await export.bookmark(), str)
    assert_type(await export.bookmark_behind(), str)


async def moving(source: EventStore, store: EventStore) -> None:
    assert_type(await cutover(source, store), CutoverReport)


async def target(store: EventStore) -> None:
    async with open_target("a.sqlite", "pyeventsourcing", encode=["zlib"]) as opened:
        assert_type(opened, ForeignTarget)
        assert_type(opened.import_events(), TargetStream)
        assert_type(await pipeline(store.export_events(), opened.import_events()), TargetReport)


def synchronous(blocks: Iterator[bytes]) -> None:
    def upper(lines: Iterator[bytes]) -> Iterator[bytes]:
        return (line.upper() for line in lines)

    with sync.open_store("a.db") as a, sync.open_store("b.db") as b:
        assert_type(sync.back_up(a, "s3://bucket/backups", secrets=True), BackupReport)
        assert_type(a, sync.EventStore)
        assert_type(sync.pipeline(a.export_events(), upper, b.import_events()), StreamReport)
        assert_type(sync.cutover(a, b, unfreeze_on_failure=False), CutoverReport)
        assert_type(sync.pipeline(blocks, b.import_secrets()), SecretsReport)
        sync.pipeline(a.export_events(), "events.jsonl")
        assert_type(a.load_events(limit=1, cursor=None), Page)
        assert_type(a.get_event_loader(cursor=None), sync.EventLoader)
        assert_type(a.export_events(limit=1), sync.ExportStream)
        assert_type(a.export_events().cursor, str)
        assert_type(a.export_events().bookmark(), str)
        assert_type(a.bookmark(), str)
        assert_type(a.follow(idle=1), sync.FollowStream)
        assert_type(a.follow().bookmark, str | None)
        assert_type(next(a.follow()), Page)
        with sync.open_target("a.sqlite", "pyeventsourcing") as target:
            assert_type(target, sync.ForeignTarget)
            assert_type(sync.pipeline(a.export_events(), target.import_events()), TargetReport)
        with b.import_events(resume=True) as stream:
            assert_type(stream, sync.ImportStream)
            assert_type(stream.byte_offset, int)
            assert_type(stream.close(), StreamReport)


async def foreign(store: EventStore) -> None:
    async with open_source("app.db", "app.toml", tables={"events": "history"}, keep=["link"]) as source:
        assert_type(source, ForeignSource)
        assert_type(await source.preview(), SourcePreview)
        export = source.export_events()
        assert_type(export, ForeignExport)
        assert_type(await pipeline(export, store.import_events()), StreamReport)
        assert_type(export.report, SourceReport)
    with sync.open_source("app.db", "message-db") as another:
        assert_type(another, sync.ForeignSource)
        assert_type(another.preview(), SourcePreview)
        assert_type(another.export_events(), sync.ForeignExport)
    open_source("app.db", "app.toml", payload="bare")  # type: ignore[arg-type]


async def backups(store: EventStore) -> None:
    repository = Repository("backups", ["key"])
    assert_type(await back_up(store, "backups"), BackupReport)
    assert_type(await repository.restore(store, until="ef1.", replace=True), RestoreReport)
    assert_type((await repository.check(0.05)).sound, bool)
    assert_type((await repository.status()).newest.events, int)
    assert_type(await verify(repository.export_events(), store.export_events()), VerifyReport)
    with sync.open_store("a.db") as plain:
        assert_type(sync.Repository("backups").restore(plain), RestoreReport)
        assert_type(sync.Repository("backups").drill().equal, bool)
        assert_type(next(sync.Repository("backups").export_events()), bytes)


def wrong(store: EventStore) -> None:
    """What is no use of the API is an error: a comment that silences nothing is one too."""
    store.export_events(maintenance_mode="auto")  # type: ignore[arg-type]
    store.import_events(resume="yes")  # type: ignore[arg-type]
    eventferry.open_store(5)  # type: ignore[arg-type]


def wrong_without_await(store: sync.EventStore) -> None:
    store.load_events(cursor=None)  # type: ignore[call-arg]
    store.export_events().cursor = ""  # type: ignore[assignment]
    sync.cutover(store, "b.db")  # type: ignore[arg-type]
    store.import_events(resume="yes")  # type: ignore[arg-type]
