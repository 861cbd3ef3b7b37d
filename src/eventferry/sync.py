"""The same names without await, for scripts, Django, notebooks.

    from eventferry.sync import open_store, pipeline

    with open_store("a.db") as a, open_store("b.db") as b:
        pipeline(a.export_events(), b.import_events())

All calls run in one event loop in its own worker thread, so a store can be used from any thread. The caller's iterators
and transforms run in the caller's thread.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterable, Iterator, Mapping
from functools import partial
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeAlias, TypeVar, cast, overload

import eventferry
from eventferry import AUTO, MANUAL, Event, errors
from eventferry import store as awaited
from eventferry.databases import forking
from eventferry.errors import *  # noqa: F403
from eventferry.importing.batch import PART
from eventferry.importing.merge import ImportReport, Older
from eventferry.importing.stream import ImportStream as AwaitedImport
from eventferry.importing.stream import StreamReport
from eventferry.lines.blocks import DEFAULT_MAX_LINE_BYTES
from eventferry.lines.event import EventInput
from eventferry.lines.piping import File, Report, Report_co
from eventferry.reading.exporting import ExportStream as AwaitedExport
from eventferry.secrets import SecretsExport as AwaitedSecretsExport
from eventferry.secrets import SecretsImport as AwaitedSecretsImport
from eventferry.secrets import SecretsReport

__all__ = [
    "AUTO",
    "MANUAL",
    "Event",
    "EventLoader",
    "EventStore",
    "ExportStream",
    "ImportStream",
    "check",
    "open_store",
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


class _Call(Generic[T]):
    """A call that runs in the loop while a thread waits for it."""

    def __init__(self, coroutine: Coroutine[Any, Any, T], steps: SimpleQueue[_Step | None]) -> None:
        self._coroutine = coroutine
        self._steps = steps
        self._task: asyncio.Task[T] | None = None
        self.is_over = False

    def begin(self) -> None:
        """Start the task; called in the loop."""
        self._task = asyncio.get_running_loop().create_task(self._coroutine)
        self._task.add_done_callback(self._end)

    def _end(self, _: asyncio.Task[T]) -> None:
        self.is_over = True
        self._steps.put(None)

    def cancel(self) -> None:
        """Cancel the task; called in the loop."""
        if self._task is not None:
            self._task.cancel()

    def result(self) -> T:
        """Return its result, or raise its error."""
        assert self._task is not None  # noqa: S101 -- it has ended
        return self._task.result()


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
        call = _Call(coroutine, steps)
        loop.call_soon_threadsafe(call.begin)
        try:
            _wait(call, steps)
        except BaseException:
            loop.call_soon_threadsafe(call.cancel)
            _wait(call, steps)
            raise
        return call.result()

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


def _wait(call: _Call[Any], steps: SimpleQueue[_Step | None]) -> None:
    while not call.is_over:  # a step may be another call's
        if (step := steps.get()) is not None:
            step()


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
    if isinstance(value, str | bytes | list | tuple | dict) or not hasattr(value, "__iter__"):
        return value
    return list(value)


class _Face(Generic[S]):
    """Wraps an object with async methods."""

    def __init__(self, inner: S) -> None:
        self.inner = inner


F = TypeVar("F", bound=_Face[Any])


def _sync(
    method: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Any, P], T]:
    """The same method without await, with the same parameters, result and documentation."""

    def call(self: _Face[Any], /, *args: P.args, **kwargs: P.kwargs) -> T:
        own: Any = [_own(value) for value in args]
        named: Any = {name: _own(value) for name, value in kwargs.items()}
        return _LOOP.run(method(self.inner, *own, **named))

    call.__name__ = method.__name__
    call.__doc__ = method.__doc__
    call.__wrapped__ = method  # type: ignore[attr-defined]
    return call


def _opening(
    method: Callable[Concatenate[Any, P], Any], face: Callable[[Any], F]
) -> Callable[Concatenate[Any, P], F]:
    """A method that returns a stream; here it returns the wrapped stream."""

    def call(self: _Face[Any], /, *args: P.args, **kwargs: P.kwargs) -> F:
        return face(method(self.inner, *args, **kwargs))

    call.__name__ = method.__name__
    call.__doc__ = method.__doc__
    call.__wrapped__ = method  # type: ignore[attr-defined]
    return call


B = TypeVar("B", AwaitedExport, AwaitedSecretsExport)


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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the export. Calling it again does nothing."""
        _LOOP.run(self.inner.aclose())


class ExportStream(_Blocks[AwaitedExport]):
    """An iterator of blocks of lines of events."""

    begin = _sync(AwaitedExport.begin)

    @property
    def cursor(self) -> str:
        """The cursor after the last complete event that was returned."""
        return self.inner.cursor

    @property
    def is_end(self) -> bool:
        """Whether the end of the store was reached."""
        return self.inner.is_end

    @property
    def is_buffer_overflow(self) -> bool:
        """Whether the export ended because of `buffer_size`."""
        return self.inner.is_buffer_overflow

    @property
    def exported(self) -> int:
        """The number of events returned so far."""
        return self.inner.exported

    def stop(self) -> None:
        """End regularly at the next block, but not before the first one."""
        self.inner.stop()


class SecretsExport(_Blocks[AwaitedSecretsExport]):
    """An iterator of blocks of lines of secrets."""

    @property
    def idx(self) -> int:
        """The `idx` from which another export continues."""
        return self.inner.idx

    @property
    def exported(self) -> int:
        """The number of secrets returned so far."""
        return self.inner.exported


class ImportStream(_Face[AwaitedImport]):
    """A sink for blocks of lines. Leaving `with` normally commits; an exception aborts."""

    begin = _sync(AwaitedImport.begin)
    write = _sync(AwaitedImport.write)
    verify = _sync(AwaitedImport.verify)
    abort = _sync(AwaitedImport.abort)

    def close(self) -> StreamReport:
        """Commit everything, or after `stop` what was read until then; returns the report."""
        return _LOOP.run(self.inner.close())

    def finish(self) -> StreamReport:
        """The same, if the source is known to be at its end."""
        return _LOOP.run(self.inner.finish())

    def stop(self) -> None:
        """Stop reading at the next commit."""
        self.inner.stop()

    @property
    def is_stopped(self) -> bool:
        """Whether the import has stopped."""
        return self.inner.is_stopped

    @property
    def is_verified(self) -> bool:
        """Whether everything read before the interruption has been compared with the source."""
        return self.inner.is_verified

    @property
    def byte_offset(self) -> int:
        """The offset in the source after the last committed line."""
        return self.inner.byte_offset

    @property
    def saved_events_count(self) -> int:
        """The number of committed events."""
        return self.inner.saved_events_count

    def __enter__(self) -> ImportStream:
        _LOOP.run(self.inner.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _LOOP.run(self.inner.__aexit__(kind, error, trace))


class SecretsImport(_Face[AwaitedSecretsImport]):
    """A sink for lines of secrets."""

    write = _sync(AwaitedSecretsImport.write)
    abort = _sync(AwaitedSecretsImport.abort)

    def close(self) -> SecretsReport:
        """Store the secrets; returns the report."""
        return _LOOP.run(self.inner.close())

    def __enter__(self) -> SecretsImport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _LOOP.run(self.inner.__aexit__(kind, error, trace))


class EventLoader(_Face[awaited.EventLoader]):
    """Loads one page after another, from a cursor on."""

    load_events = _sync(awaited.EventLoader.load_events)
    close = _sync(awaited.EventLoader.close)

    @property
    def cursor(self) -> str:
        """The cursor after the loaded events."""
        return self.inner.cursor


class EventStore(_Face[awaited.EventStore]):
    """An event store in a database; created by `open_store`. Use it with `with`, or call `close`."""

    def __enter__(self) -> EventStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    init = _sync(awaited.EventStore.init)
    undo_init = _sync(awaited.EventStore.undo_init)
    drop = _sync(awaited.EventStore.drop)
    close = _sync(awaited.EventStore.close)
    exists = _sync(awaited.EventStore.exists)
    upgrade = _sync(awaited.EventStore.upgrade)
    freeze = _sync(awaited.EventStore.freeze)
    unfreeze = _sync(awaited.EventStore.unfreeze)
    describe = _sync(awaited.EventStore.describe)
    save_event = _sync(awaited.EventStore.save_event)
    load_events = _sync(awaited.EventStore.load_events)
    get_latest_event = _sync(awaited.EventStore.get_latest_event)
    get_cursor_until_event_types = _sync(awaited.EventStore.get_cursor_until_event_types)
    import_progress = _sync(awaited.EventStore.import_progress)
    begin_incremental_import = _sync(awaited.EventStore.begin_incremental_import)
    commit_incremental_import = _sync(awaited.EventStore.commit_incremental_import)
    rollback_incremental_import = _sync(awaited.EventStore.rollback_incremental_import)
    load_secrets = _sync(awaited.EventStore.load_secrets)
    get_secret = _sync(awaited.EventStore.get_secret)
    set_secret = _sync(awaited.EventStore.set_secret)
    delete_secret = _sync(awaited.EventStore.delete_secret)
    gather_secrets_from_events = _sync(awaited.EventStore.gather_secrets_from_events)
    load_snapshot = _sync(awaited.EventStore.load_snapshot)
    save_snapshot = _sync(awaited.EventStore.save_snapshot)
    drop_snapshot = _sync(awaited.EventStore.drop_snapshot)
    ensure_event_subscriber = _sync(awaited.EventStore.ensure_event_subscriber)
    remove_event_subscriber = _sync(awaited.EventStore.remove_event_subscriber)
    get_event_subscribers = _sync(awaited.EventStore.get_event_subscribers)

    def get_next_cursor(self, cursor: str | None, events: Iterable[eventferry.Event]) -> str:
        """The cursor after `events` have been read from `cursor` on."""
        return self.inner.get_next_cursor(cursor, events)

    def get_event_loader(
        self,
        *,
        cursor: str | None,
        event_types: Iterable[str] | None = None,
        aggregate_ids: Iterable[str] | None = None,
    ) -> EventLoader:
        """A loader that loads page after page and remembers its cursor."""
        return EventLoader(
            _LOOP.run(
                self.inner.get_event_loader(
                    cursor=cursor, event_types=_own(event_types), aggregate_ids=_own(aggregate_ids)
                )
            )
        )

    export_events = _opening(awaited.EventStore.export_events, ExportStream)
    partitions = _sync(awaited.EventStore.partitions)
    read_partition = _opening(awaited.EventStore.read_partition, ExportStream)
    import_events = _opening(awaited.EventStore.import_events, ImportStream)
    export_secrets = _opening(awaited.EventStore.export_secrets, SecretsExport)
    import_secrets = _opening(awaited.EventStore.import_secrets, SecretsImport)

    def incremental_import(
        self,
        events: Iterable[EventInput] | Iterable[bytes],
        older: Older = "skip",
        dry_run: bool = False,
        ignore_unknown_keys: bool = False,
        max_line_bytes: int = DEFAULT_MAX_LINE_BYTES,
    ) -> ImportReport:
        """Add the events that the store lacks: dicts or `Event` objects, or an iterator of blocks of bytes."""
        return _LOOP.run(
            self.inner.incremental_import(
                _events(events), older, dry_run, ignore_unknown_keys, max_line_bytes
            )
        )

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


def open_store(url: str, *, snapshot_bucket_size: int = 1, **options: Any) -> EventStore:
    """Open an event store, as `eventferry.open_store` does."""
    return EventStore(eventferry.open_store(url, snapshot_bucket_size=snapshot_bucket_size, **options))


class _Sink(Protocol[Report_co]):
    """What has a report at its end: an `ImportStream` or a `SecretsImport` of this module."""

    def write(self, block: bytes) -> None: ...

    def close(self) -> Report_co: ...

    def abort(self, error: BaseException | None = None) -> None: ...


_Transform: TypeAlias = Callable[[Iterator[bytes]], Iterable[bytes]]


@overload
def pipeline(source: Any, *rest: *tuple[*tuple[_Transform, ...], _Sink[Report]]) -> Report: ...


@overload
def pipeline(source: Any, *rest: _Transform | File) -> None: ...


def pipeline(source: Any, *rest: Any) -> Any:  # type: ignore[misc]  # mypy: not all of `rest`
    """Send a source through transforms into a sink, as `eventferry.pipeline` does.

    Sources, sinks and files are the same. A transform is a function from an iterator of blocks to another one.
    """
    *transforms, sink = rest or (None,)
    steps = [_awaited_transform(transform) for transform in transforms]
    return _LOOP.run(eventferry.pipeline(_source(source), *steps, _bare(sink)))


def check(source: Any) -> eventferry.CheckReport:
    """Check a store, or one source of lines, as `eventferry.check` does."""
    bare = _bare(source)
    return _LOOP.run(eventferry.check(bare if isinstance(bare, awaited.EventStore) else _source(source)))


def verify(source: Any, other: Any, *, content: bool = False) -> eventferry.VerifyReport:
    """Compare two sources of lines, as `eventferry.verify` does."""
    return _LOOP.run(eventferry.verify(_source(source), _source(other), content=content))


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
