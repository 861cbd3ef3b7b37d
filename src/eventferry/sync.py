"""The same names without await, for scripts, Django, notebooks.

    from eventferry.sync import open_store, pipeline

    with open_store("a.db") as a, open_store("b.db") as b:
        pipeline(a.export_events(), b.import_events())

All calls run in one event loop in its own worker thread, so a store can be used from any thread. The caller's iterators
and transforms run in the caller's thread.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
import time
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from functools import partial, wraps
from queue import SimpleQueue
from typing import (
    Any,
    Concatenate,
    Generic,
    Never,
    ParamSpec,
    Protocol,
    Self,
    TypeAlias,
    TypeVar,
    cast,
    overload,
)

import eventferry
from eventferry import AUTO, MANUAL, Event, MaintenanceMode, errors
from eventferry.backup.drilling import DrillReport
from eventferry.backup.reading import JOBS
from eventferry.backup.repository import Repository as AwaitedRepository
from eventferry.backup.restoring import RestoreReport
from eventferry.changing.changes import Changes
from eventferry.changing.erased import Erased
from eventferry.changing.erasing import EraseReport
from eventferry.databases import forking
from eventferry.errors import *  # noqa: F403
from eventferry.importing.batch import PART
from eventferry.importing.merge import ImportReport, Older
from eventferry.importing.stream import ImportStream as AwaitedImport
from eventferry.lines.blocks import DEFAULT_MAX_LINE_BYTES
from eventferry.lines.event import EventInput
from eventferry.lines.piping import File, Report, Report_co
from eventferry.lines.piping import Transform as AwaitedTransform
from eventferry.reading.exporting import ExportStream as AwaitedExport
from eventferry.reading.following import FollowStream as AwaitedFollow
from eventferry.reading.loading import EventLoader as AwaitedLoader
from eventferry.results import Page
from eventferry.secrets import SecretsExport as AwaitedSecretsExport
from eventferry.secrets import SecretsImport as AwaitedSecretsImport
from eventferry.sources.mapping import Mapping as SourceMapping
from eventferry.sources.source import ForeignExport as AwaitedForeignExport
from eventferry.sources.source import ForeignSource as AwaitedForeignSource
from eventferry.sources.source import SourceReport
from eventferry.state.syncs import Mode
from eventferry.store import EventStore as AwaitedStore
from eventferry.syncing.preview import SyncPreview
from eventferry.syncing.status import SyncStatus
from eventferry.syncing.sync import SyncReport
from eventferry.tabular.folder import FolderSink
from eventferry.targets.target import ForeignTarget as AwaitedTarget
from eventferry.targets.target import TargetStream as AwaitedTargetStream

__all__ = [
    "AUTO",
    "MANUAL",
    "Event",
    "EventLoader",
    "EventStore",
    "ExportStream",
    "FollowStream",
    "ForeignExport",
    "ForeignSource",
    "ForeignTarget",
    "ImportStream",
    "Repository",
    "RepositoryExport",
    "TargetStream",
    "back_up",
    "check",
    "open_source",
    "open_store",
    "open_target",
    "pipeline",
    "verify",
    "verify_secrets",
    *errors.__all__,
]

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S")

_Step: TypeAlias = Callable[[], None]


class _Here(threading.local):
    """The work that a thread is asked to do while it waits for its calls."""

    def __init__(self) -> None:
        self.steps: SimpleQueue[_Step | None] = SimpleQueue()


_HERE = _Here()


class _Loop:
    """An event loop in a worker thread, started at first use; a forked process starts its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop, and meanwhile do the work that it asks this thread to do.

        Ctrl-C cancels the coroutine and is raised when that has ended; a second one is raised at once.
        """
        loop, steps = self._begun(), _HERE.steps
        tasks: list[asyncio.Task[T]] = []

        def begin() -> None:
            task = loop.create_task(coroutine)
            task.add_done_callback(lambda _: steps.put(None))
            tasks.append(task)

        def wait() -> None:
            while not (tasks and tasks[0].done()):  # a step may be another call's
                if (step := steps.get()) is not None:
                    step()

        loop.call_soon_threadsafe(begin)
        try:
            wait()
        except BaseException:
            loop.call_soon_threadsafe(lambda: tasks[0].cancel())
            wait()
            raise
        return tasks[0].result()

    def _begun(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="eventferry", daemon=True).start()
                forking.ours(self)
            return self._loop

    def leave(self) -> object:
        """In a forked child: neither the worker thread nor the holder of the lock exists there."""
        loop, self._loop = self._loop, None
        self._lock = threading.Lock()
        return loop


_LOOP = _Loop()


class _Asked(Generic[T]):
    """An async iterator over the items of a caller's iterator. The iterator runs in the caller's thread, which is
    waiting for the loop. So it may use a store, or objects that belong to that thread, such as a database connection.

    Args:
        here: the work queue of the caller's thread.
        items: creates the iterator.
        at_once: the maximum number of items to take at once, if they come quickly.
    """

    def __init__(
        self, here: SimpleQueue[_Step | None], items: Callable[[], Iterator[T]], at_once: int = 1
    ) -> None:
        self._steps = here
        self._make = items
        self._items: Iterator[T] | None = None
        self._at_once = at_once
        self._found: deque[T] = deque()

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        if not self._found:
            self._found.extend(await self._ask(self._some))
            if not self._found:
                raise StopAsyncIteration
        return self._found.popleft()

    async def aclose(self) -> None:
        """Close the iterator."""
        if isinstance(self._items, Generator):
            await self._ask(self._items.close)

    def _some(self) -> list[T]:
        if self._items is None:
            self._items = self._make()
        some: list[T] = []
        until = time.monotonic() + _QUICKLY
        for item in self._items:
            some.append(item)
            if len(some) >= self._at_once or isinstance(item, bytes) or time.monotonic() > until:
                break
        return some

    async def _ask(self, function: Callable[[], R]) -> R:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[R] = loop.create_future()

        def tell(give: Callable[[Any], None], result: object) -> None:
            if not answer.done():
                give(result)

        def step() -> None:
            try:
                result = function()
            except Exception as error:
                loop.call_soon_threadsafe(tell, answer.set_exception, error)
            else:
                loop.call_soon_threadsafe(tell, answer.set_result, result)

        self._steps.put(step)
        return await answer


_QUICKLY = 0.01
"""Seconds for which a thread collects items before it hands them over."""


def _own(value: Any) -> Any:
    """An argument for the loop. Iterables are read here, in the caller's thread."""
    if isinstance(value, str | bytes | list | tuple | Mapping | BaseException | type):
        return value
    return list(value) if hasattr(value, "__iter__") else value


class _Face(Generic[S]):
    """Wraps an object with async methods."""

    def __init__(self, inner: S) -> None:
        self.inner = inner


class _Shown(Generic[T]):
    """An attribute of the wrapped object, for reading."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, face: _Face[Any], owner: type) -> T:
        return cast(T, getattr(face.inner, self._name))

    def __set__(self, face: _Face[Any], value: Never) -> None:
        raise AttributeError(f"{self._name} cannot be set")


def _method(
    method: Callable[Concatenate[Any, P], T], of_result: Callable[[T], R]
) -> Callable[Concatenate[Any, P], R]:
    """A method of the wrapped object, with its parameters and documentation, and what is made of its result."""

    @wraps(method)
    def call(self: _Face[Any], /, *args: P.args, **kwargs: P.kwargs) -> R:
        own: Any = [_own(value) for value in args]
        named: Any = {name: _own(value) for name, value in kwargs.items()}
        return of_result(method(self.inner, *own, **named))

    return call


def _blocking(
    method: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Any, P], T]:
    """The same method without await."""
    return _method(method, _LOOP.run)


def _plain(method: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], T]:
    """The same method, which needs no loop."""
    return _method(method, lambda result: result)


B = TypeVar("B", AwaitedExport, AwaitedForeignExport, AwaitedSecretsExport, AsyncGenerator[bytes, None])


class _Blocks(_Face[B]):
    """An iterator of blocks of lines."""

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        block = _LOOP.run(_next(self.inner))
        if block is None:
            raise StopIteration
        return block

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the export. Calling it again does nothing."""
        _LOOP.run(self.inner.aclose())


class ExportStream(_Blocks[AwaitedExport]):
    """An iterator of blocks of lines of events, with the attributes of `eventferry.ExportStream`."""

    cursor = _Shown[str]()
    is_end = _Shown[bool]()
    is_buffer_overflow = _Shown[bool]()
    exported = _Shown[int]()
    begin = _blocking(AwaitedExport.begin)
    bookmark = _blocking(AwaitedExport.bookmark)
    bookmark_behind = _blocking(AwaitedExport.bookmark_behind)
    stop = _plain(AwaitedExport.stop)


class ForeignExport(_Blocks[AwaitedForeignExport]):
    """An iterator of blocks of lines, with the attributes of `eventferry.ForeignExport`."""

    exported = _Shown[int]()
    report = _Shown[SourceReport]()


class ForeignSource(_Face[AwaitedForeignSource]):
    """Tables of another product, read by a mapping, with the methods of `eventferry.ForeignSource` without await."""

    mapping = _Shown[SourceMapping]()
    place = _Shown[str]()
    export_events = _method(AwaitedForeignSource.export_events, ForeignExport)
    preview = _blocking(AwaitedForeignSource.preview)
    close = _blocking(AwaitedForeignSource.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class FollowStream(_Face[AwaitedFollow]):
    """An endless iterator of pages, as `eventferry.FollowStream`. It can be left at any time, also by Ctrl-C."""

    def __init__(self, inner: AwaitedFollow) -> None:
        super().__init__(inner)
        self._found: Page | None = None
        self._bookmark: str | None = None

    @property
    def bookmark(self) -> str | None:
        """The bookmark behind the last page; None before the first."""
        return self._bookmark if self._found else self.inner.bookmark

    def __iter__(self) -> Iterator[Page]:
        return self

    def __next__(self) -> Page:
        if self._found is None:
            self._bookmark = self.inner.bookmark  # until the page is given, also where there was none yet
            _LOOP.run(self._step())
        page, self._found = cast(Page, self._found), None
        return page

    async def _step(self) -> None:
        # Ctrl-C may come when the page is there, and its step is behind it already: the next call gives it.
        self._found = await anext(self.inner)


class SecretsExport(_Blocks[AwaitedSecretsExport]):
    """An iterator of blocks of lines of secrets, with the attributes of `eventferry.SecretsExport`."""

    idx = _Shown[int]()
    exported = _Shown[int]()


class ImportStream(_Face[AwaitedImport]):
    """A sink for blocks of lines, with the attributes of `eventferry.ImportStream`.

    Leaving `with` normally commits; an exception aborts.
    """

    is_stopped = _Shown[bool]()
    is_verified = _Shown[bool]()
    byte_offset = _Shown[int]()
    saved_events_count = _Shown[int]()
    begin = _blocking(AwaitedImport.begin)
    write = _blocking(AwaitedImport.write)
    verify = _blocking(AwaitedImport.verify)
    close = _blocking(AwaitedImport.close)
    finish = _blocking(AwaitedImport.finish)
    abort = _blocking(AwaitedImport.abort)
    stop = _plain(AwaitedImport.stop)
    __exit__ = _blocking(AwaitedImport.__aexit__)

    def __enter__(self) -> Self:
        self.begin()
        return self


class TargetStream(_Face[AwaitedTargetStream]):
    """The same for another product's table, as `eventferry.TargetStream`."""

    begin = _blocking(AwaitedTargetStream.begin)
    write = _blocking(AwaitedTargetStream.write)
    close = _blocking(AwaitedTargetStream.close)
    finish = _blocking(AwaitedTargetStream.finish)
    abort = _blocking(AwaitedTargetStream.abort)
    __exit__ = _blocking(AwaitedTargetStream.__aexit__)

    def __enter__(self) -> Self:
        self.begin()
        return self


class ForeignTarget(_Face[AwaitedTarget]):
    """The table of another product; created by `open_target`. Use it with `with`, or call `close`."""

    def __enter__(self) -> Self:
        return self

    __exit__ = _blocking(AwaitedTarget.__aexit__)
    close = _blocking(AwaitedTarget.close)
    import_events = _method(AwaitedTarget.import_events, TargetStream)


class SecretsImport(_Face[AwaitedSecretsImport]):
    """A sink for lines of secrets. Leaving `with` normally stores them; an exception aborts."""

    write = _blocking(AwaitedSecretsImport.write)
    close = _blocking(AwaitedSecretsImport.close)
    abort = _blocking(AwaitedSecretsImport.abort)
    __exit__ = _blocking(AwaitedSecretsImport.__aexit__)

    def __enter__(self) -> Self:
        return self


class EventLoader(_Face[AwaitedLoader]):
    """Loads one page after another, from a cursor on."""

    cursor = _Shown[str]()
    load_events = _blocking(AwaitedLoader.load_events)
    close = _blocking(AwaitedLoader.close)


class EventStore(_Face[AwaitedStore]):
    """An event store in a database; created by `open_store`. Use it with `with`, or call `close`."""

    def __enter__(self) -> Self:
        return self

    __exit__ = _blocking(AwaitedStore.__aexit__)
    init = _blocking(AwaitedStore.init)
    undo_init = _blocking(AwaitedStore.undo_init)
    drop = _blocking(AwaitedStore.drop)
    close = _blocking(AwaitedStore.close)
    exists = _blocking(AwaitedStore.exists)
    upgrade = _blocking(AwaitedStore.upgrade)
    freeze = _blocking(AwaitedStore.freeze)
    unfreeze = _blocking(AwaitedStore.unfreeze)
    describe = _blocking(AwaitedStore.describe)

    save_event = _blocking(AwaitedStore.save_event)
    append_events = _blocking(AwaitedStore.append_events)
    append_batches = _blocking(AwaitedStore.append_batches)
    load_aggregate = _blocking(AwaitedStore.load_aggregate)
    last_events = _blocking(AwaitedStore.last_events)
    load_events = _blocking(AwaitedStore.load_events)
    get_event_loader = _method(AwaitedStore.get_event_loader, lambda loader: EventLoader(_LOOP.run(loader)))
    bookmark = _blocking(AwaitedStore.bookmark)
    follow = _method(AwaitedStore.follow, FollowStream)
    get_latest_event = _blocking(AwaitedStore.get_latest_event)
    get_next_cursor = _plain(AwaitedStore.get_next_cursor)
    get_cursor_until_event_types = _blocking(AwaitedStore.get_cursor_until_event_types)

    def sync(
        self,
        source: EventStore | ForeignSource,
        *,
        mode: Mode | None = None,
        same_aggregate: str | None = None,
        follow: bool = False,
        with_secrets: bool | None = None,
        changes: Changes | None = None,
        rate: int | None = None,
        tell: Callable[[SyncReport], None] | None = None,
    ) -> SyncReport:
        """As `eventferry.EventStore.sync`. `tell` is called in the worker thread of the loop."""
        return _LOOP.run(
            self.inner.sync(
                source.inner,
                mode=mode,
                same_aggregate=same_aggregate,
                follow=follow,
                with_secrets=with_secrets,
                changes=changes,
                rate=rate,
                tell=tell,
            )
        )

    def preview_sync(
        self,
        source: EventStore | ForeignSource,
        *,
        mode: Mode | None = None,
        same_aggregate: str | None = None,
        changes: Changes | None = None,
    ) -> SyncPreview:
        """As `eventferry.EventStore.preview_sync`."""
        return _LOOP.run(
            self.inner.preview_sync(source.inner, mode=mode, same_aggregate=same_aggregate, changes=changes)
        )

    def sync_status(self, source: EventStore | ForeignSource | None = None) -> list[SyncStatus]:
        """As `eventferry.EventStore.sync_status`."""
        return _LOOP.run(self.inner.sync_status(None if source is None else source.inner))

    export_events = _method(AwaitedStore.export_events, ExportStream)
    partitions = _blocking(AwaitedStore.partitions)
    read_partition = _method(AwaitedStore.read_partition, ExportStream)

    def import_events(
        self,
        byte_offset: int = 0,
        maintenance_mode: MaintenanceMode = AUTO,
        freeze: bool = False,
        resume: bool = False,
        allow_empty: bool = False,
        ignore_unknown_keys: bool = False,
        max_line_bytes: int = DEFAULT_MAX_LINE_BYTES,
        replace: bool = True,
        erased_from: EventStore | None = None,
    ) -> ImportStream:
        """As `eventferry.EventStore.import_events`."""
        return ImportStream(
            self.inner.import_events(
                byte_offset,
                maintenance_mode,
                freeze=freeze,
                resume=resume,
                allow_empty=allow_empty,
                ignore_unknown_keys=ignore_unknown_keys,
                max_line_bytes=max_line_bytes,
                replace=replace,
                erased_from=None if erased_from is None else erased_from.inner,
            )
        )

    import_progress = _blocking(AwaitedStore.import_progress)

    def incremental_import(
        self,
        events: Iterable[EventInput] | Iterable[bytes],
        older: Older = "skip",
        dry_run: bool = False,
        ignore_unknown_keys: bool = False,
        max_line_bytes: int = DEFAULT_MAX_LINE_BYTES,
        changes: Changes | None = None,
    ) -> ImportReport:
        """Add the events that the store lacks: dicts or `Event` objects, or an iterator of blocks of bytes."""
        return _LOOP.run(
            self.inner.incremental_import(
                _events(events), older, dry_run, ignore_unknown_keys, max_line_bytes, changes
            )
        )

    begin_incremental_import = _blocking(AwaitedStore.begin_incremental_import)

    def push_incremental_import(
        self,
        events: Iterable[EventInput] | Iterable[bytes],
        import_id: str,
        part: str | None = None,
        ignore_unknown_keys: bool = False,
        max_line_bytes: int = DEFAULT_MAX_LINE_BYTES,
    ) -> int:
        """Add events to the open import; returns their number."""
        return _LOOP.run(
            self.inner.push_incremental_import(
                _events(events), import_id, part, ignore_unknown_keys, max_line_bytes
            )
        )

    commit_incremental_import = _blocking(AwaitedStore.commit_incremental_import)
    rollback_incremental_import = _blocking(AwaitedStore.rollback_incremental_import)

    load_secrets = _blocking(AwaitedStore.load_secrets)
    get_secret = _blocking(AwaitedStore.get_secret)
    set_secret = _blocking(AwaitedStore.set_secret)
    delete_secret = _blocking(AwaitedStore.delete_secret)
    erase = _blocking(AwaitedStore.erase)
    erased = _blocking(AwaitedStore.erased)

    def bring_erasures(self, source: EventStore) -> EraseReport | None:
        """As `eventferry.EventStore.bring_erasures`."""
        return _LOOP.run(self.inner.bring_erasures(source.inner))

    export_secrets = _method(AwaitedStore.export_secrets, SecretsExport)
    import_secrets = _method(AwaitedStore.import_secrets, SecretsImport)
    gather_secrets_from_events = _blocking(AwaitedStore.gather_secrets_from_events)

    load_snapshot = _blocking(AwaitedStore.load_snapshot)
    save_snapshot = _blocking(AwaitedStore.save_snapshot)
    drop_snapshot = _blocking(AwaitedStore.drop_snapshot)
    ensure_event_subscriber = _blocking(AwaitedStore.ensure_event_subscriber)
    remove_event_subscriber = _blocking(AwaitedStore.remove_event_subscriber)
    get_event_subscribers = _blocking(AwaitedStore.get_event_subscribers)


def open_store(url: str, *, snapshot_bucket_size: int = 1, **options: Any) -> EventStore:
    """Open an event store, as `eventferry.open_store` does."""
    return EventStore(eventferry.open_store(url, snapshot_bucket_size=snapshot_bucket_size, **options))


@wraps(eventferry.open_source)
def open_source(*args: Any, **kwargs: Any) -> ForeignSource:
    """Open the event tables of another product, as `eventferry.open_source` does."""
    return ForeignSource(eventferry.open_source(*args, **kwargs))


def open_target(url: str, product: str, **options: Any) -> ForeignTarget:
    """Open the table of another product as a target, as `eventferry.open_target` does."""
    return ForeignTarget(eventferry.open_target(url, product, **options))


class RepositoryExport(_Blocks[AsyncGenerator[bytes, None]]):
    """An iterator of blocks of lines of a backup."""


class Repository(_Face[AwaitedRepository]):
    """A repository of backups, with the methods of `eventferry.Repository` without await."""

    def __init__(
        self, place: str | os.PathLike[str], identities: Iterable[str | os.PathLike[str]] = ()
    ) -> None:
        super().__init__(AwaitedRepository(place, identities))

    place = _Shown[str]()
    runs = _blocking(AwaitedRepository.runs)
    status = _blocking(AwaitedRepository.status)
    head = _blocking(AwaitedRepository.head)
    check = _blocking(AwaitedRepository.check)
    prune = _blocking(AwaitedRepository.prune)
    export_events = _method(AwaitedRepository.export_events, RepositoryExport)

    def restore(
        self,
        store: EventStore,
        *,
        manifest: int | None = None,
        until: str | int | None = None,
        chain: str | None = None,
        changes: Changes | None = None,
        replace: bool = False,
        freeze: bool = False,
        resume: bool = False,
        allow_empty: bool = False,
        with_secrets: bool = False,
        without_erasures: bool = False,
        jobs: int = JOBS,
    ) -> RestoreReport:
        """As `eventferry.Repository.restore`."""
        return _LOOP.run(
            self.inner.restore(
                store.inner,
                manifest=manifest,
                until=until,
                chain=chain,
                changes=changes,
                replace=replace,
                freeze=freeze,
                resume=resume,
                allow_empty=allow_empty,
                with_secrets=with_secrets,
                without_erasures=without_erasures,
                jobs=jobs,
            )
        )

    def drill(
        self,
        store: EventStore | None = None,
        *,
        manifest: int | None = None,
        chain: str | None = None,
        jobs: int = JOBS,
    ) -> DrillReport:
        """As `eventferry.Repository.drill`."""
        place = None if store is None else store.inner
        return _LOOP.run(self.inner.drill(place, manifest=manifest, chain=chain, jobs=jobs))


class _Sink(Protocol[Report_co]):
    """What has a report at its end: an `ImportStream` or a `SecretsImport` of this module."""

    def write(self, block: bytes) -> None: ...

    def close(self) -> Report_co: ...

    def abort(self, error: BaseException | None = None) -> None: ...


_Transform: TypeAlias = Callable[[Iterator[bytes]], Iterable[bytes]] | AwaitedTransform


@overload
def pipeline(source: Any, *rest: *tuple[*tuple[_Transform, ...], _Sink[Report]]) -> Report: ...


@overload
def pipeline(source: Any, *rest: _Transform | File | FolderSink) -> None: ...


def pipeline(source: Any, *rest: Any) -> Any:  # type: ignore[misc]  # mypy: not all of `rest`
    """Send a source through transforms into a sink, as `eventferry.pipeline` does.

    Sources, sinks, files and the transforms of `eventferry` are the same. A transform of your own is a function from an
    iterator of blocks to another one. `Changes` calls its function in the worker thread of the loop.
    """
    *transforms, sink = rest or (None,)
    steps = [each if _is_asynchronous(each) else _awaited_transform(each) for each in transforms]
    return _LOOP.run(eventferry.pipeline(_source(source), *steps, _bare(sink)))


def back_up(
    store: EventStore,
    repository: str | os.PathLike[str],
    *,
    recipients: Iterable[str | os.PathLike[str]] = (),
    secrets: bool = False,
    single_writer: bool = False,
    jobs: int = 1,
) -> eventferry.BackupReport:
    """Add to a repository what is new in a store, as `eventferry.back_up` does."""
    return _LOOP.run(
        eventferry.back_up(
            _bare(store),
            repository,
            recipients=recipients,
            secrets=secrets,
            single_writer=single_writer,
            jobs=jobs,
        )
    )


def check(source: Any) -> eventferry.CheckReport:
    """Check a store, or one source of lines, as `eventferry.check` does."""
    bare = _bare(source)
    return _LOOP.run(eventferry.check(bare if isinstance(bare, AwaitedStore) else _source(source)))


def verify(
    source: Any,
    other: Any,
    *,
    content: bool = False,
    changes: Changes | None = None,
    erased: Erased | None = None,
    other_grows: bool = False,
) -> eventferry.VerifyReport:
    """Compare two sources of lines, as `eventferry.verify` does."""
    return _LOOP.run(
        eventferry.verify(
            _source(source),
            _source(other),
            content=content,
            changes=changes,
            erased=erased,
            other_grows=other_grows,
        )
    )


def verify_secrets(source: Any, other: Any, *, content: bool = False) -> eventferry.SecretsVerifyReport:
    """Compare two sources of lines of secrets, as `eventferry.verify_secrets` does."""
    return _LOOP.run(eventferry.verify_secrets(_source(source), _source(other), content=content))


def _bare(stream: Any) -> Any:
    return stream.inner if isinstance(stream, _Face) else stream


def _source(source: Any) -> Any:
    """Plain iterators are read in this thread; files are passed on."""
    bare = _bare(source)
    if isinstance(bare, str | os.PathLike) or hasattr(bare, "__aiter__") or hasattr(bare, "read"):
        return bare
    return _Asked(_HERE.steps, partial(iter, bare))


def _events(events: Any) -> Any:
    """Lists of events, and values that are not events at all, are passed on; iterators are read in this thread."""
    bare = _bare(events)
    if isinstance(bare, str | bytes | Mapping) or not hasattr(bare, "__iter__"):
        return bare
    if isinstance(bare, list | tuple) and not (bare and isinstance(bare[0], bytes)):
        return bare
    return _Asked(_HERE.steps, partial(iter, bare), PART)


def _is_asynchronous(transform: Any) -> bool:
    """Whether a transform makes an asynchronous iterator of one, as those of `eventferry` do."""
    return inspect.isasyncgenfunction(transform) or inspect.isasyncgenfunction(type(transform).__call__)


def _awaited_transform(transform: Callable[[Iterator[bytes]], Iterable[bytes]]) -> Any:
    here = _HERE.steps

    def run(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        return _Asked(here, lambda: iter(transform(_sooner(blocks))))

    return run


def _sooner(blocks: AsyncIterator[bytes]) -> Iterator[bytes]:
    """The blocks of an async iterator, for a transform."""
    while (block := _LOOP.run(_next(blocks))) is not None:
        yield block


async def _next(blocks: AsyncIterator[bytes]) -> bytes | None:
    return cast("bytes | None", await cast(Any, anext(blocks, None)))
