"""The same names without await, for scripts, Django, notebooks.

    from eventferry.sync import open_store, pipeline

    with open_store("a.db") as a, open_store("b.db") as b:
        pipeline(a.export_events(), b.import_events())

All calls run in one event loop in a thread of its own, so a store can be used from any thread.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, cast

import eventferry
from eventferry import AUTO, MANUAL, Event, errors
from eventferry import store as awaited
from eventferry.errors import *  # noqa: F403
from eventferry.event import EventInput
from eventferry.exporting import ExportStream as AwaitedExport
from eventferry.importing import ImportStream as AwaitedImport
from eventferry.importing import StreamReport
from eventferry.lines import DEFAULT_MAX_LINE_BYTES
from eventferry.merge import ImportReport, Older
from eventferry.secret import SecretsExport as AwaitedSecretsExport
from eventferry.secret import SecretsImport as AwaitedSecretsImport
from eventferry.secret import SecretsReport

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
S = TypeVar("S")


class _Loop:
    """An event loop in a thread, begun at first use; anew in a process that was forked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(coroutine, self._begun())
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C in the caller's thread ends the call in the loop's too
            raise

    def _begun(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None or self._process != os.getpid():
                self._process = os.getpid()
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="eventferry", daemon=True).start()
            return self._loop


_LOOP = _Loop()


class _Face(Generic[S]):
    """What stands before an awaited object."""

    def __init__(self, inner: S) -> None:
        self.inner = inner


F = TypeVar("F", bound=_Face[Any])


def _sync(
    method: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Any, P], T]:
    """The same method without await: parameters, result and documentation are the original's."""

    def call(self: _Face[Any], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return _LOOP.run(method(self.inner, *args, **kwargs))

    call.__name__ = method.__name__
    call.__doc__ = method.__doc__
    call.__wrapped__ = method  # type: ignore[attr-defined]
    return call


def _opening(
    method: Callable[Concatenate[Any, P], Any], face: Callable[[Any], F]
) -> Callable[Concatenate[Any, P], F]:
    """A method that gives a stream; here it gives the stream's face."""

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
        """End now; twice is fine."""
        _LOOP.run(self.inner.aclose())


class ExportStream(_Blocks[AwaitedExport]):
    """An iterator of blocks of lines of events."""

    begin = _sync(AwaitedExport.begin)

    @property
    def cursor(self) -> str:
        """Behind the last event that was given out whole."""
        return self.inner.cursor

    @property
    def is_end(self) -> bool:
        """Whether the end of the store was reached."""
        return self.inner.is_end

    @property
    def is_buffer_overflow(self) -> bool:
        """Whether it ended because of `buffer_size`."""
        return self.inner.is_buffer_overflow

    @property
    def exported(self) -> int:
        """How many events have been given out."""
        return self.inner.exported

    def stop(self) -> None:
        """End properly at the next block."""
        self.inner.stop()


class SecretsExport(_Blocks[AwaitedSecretsExport]):
    """An iterator of blocks of lines of secrets."""


class ImportStream(_Face[AwaitedImport]):
    """A sink for blocks of lines; leaving `with` normally commits, an exception aborts."""

    begin = _sync(AwaitedImport.begin)
    write = _sync(AwaitedImport.write)
    verify = _sync(AwaitedImport.verify)
    abort = _sync(AwaitedImport.abort)

    def close(self) -> StreamReport:
        """Come to the end of the source and commit; the report."""
        return _LOOP.run(self.inner.close())

    def stop(self) -> None:
        """Take in nothing more from the next commit on."""
        self.inner.stop()

    @property
    def is_verified(self) -> bool:
        """Whether all that was consumed before a resume has been seen again."""
        return self.inner.is_verified

    @property
    def byte_offset(self) -> int:
        """Of the source, behind the last line that is committed."""
        return self.inner.byte_offset

    @property
    def saved_events_count(self) -> int:
        """How many events are committed."""
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
        """Store them; the report."""
        return _LOOP.run(self.inner.close())

    def __enter__(self) -> SecretsImport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _LOOP.run(self.inner.__aexit__(kind, error, trace))


class EventLoader(_Face[awaited.EventLoader]):
    """Pages one after another from a cursor on."""

    load_events = _sync(awaited.EventLoader.load_events)
    close = _sync(awaited.EventLoader.close)

    @property
    def cursor(self) -> str:
        """Behind what was loaded."""
        return self.inner.cursor


class EventStore(_Face[awaited.EventStore]):
    """An event store in a database; made by `open_store`. Use it with `with`, or call `close`."""

    def __enter__(self) -> EventStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    init = _sync(awaited.EventStore.init)
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
        """Something that loads page after page and remembers how far it is."""
        return EventLoader(
            _LOOP.run(
                self.inner.get_event_loader(
                    cursor=cursor, event_types=event_types, aggregate_ids=aggregate_ids
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
        """Import what the store lacks; events are dicts or `Event` objects, or a stream of blocks of bytes."""
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
        """Add events to the open import; how many."""
        return _LOOP.run(
            self.inner.push_incremental_import(
                _events(events), import_id, part, ignore_unknown_keys, max_line_bytes
            )
        )


def open_store(url: str, *, snapshot_bucket_size: int = 1, **options: Any) -> EventStore:
    """An event store; arguments as of `eventferry.open_store`."""
    return EventStore(eventferry.open_store(url, snapshot_bucket_size=snapshot_bucket_size, **options))


def pipeline(source: Any, *rest: Any) -> Any:
    """Send all of a source through transforms into a sink; as `eventferry.pipeline`.

    Sources, sinks and files as there. A transform is a function from an iterator of blocks to one.
    """
    *transforms, sink = rest or (None,)
    steps = [_awaited_transform(transform) for transform in transforms]
    return _LOOP.run(eventferry.pipeline(_source(source), *steps, _bare(sink)))


def check(source: Any) -> eventferry.CheckReport:
    """Look at a store, or at one source of lines; as `eventferry.check`."""
    bare = _bare(source)
    return _LOOP.run(eventferry.check(bare if isinstance(bare, awaited.EventStore) else _source(source)))


def verify(source: Any, other: Any, *, content: bool = False) -> eventferry.VerifyReport:
    """Compare two sources of lines; as `eventferry.verify`."""
    return _LOOP.run(eventferry.verify(_source(source), _source(other), content=content))


def verify_secrets(source: Any, other: Any, *, content: bool = False) -> eventferry.SecretsVerifyReport:
    """Compare two sources of lines of secrets; as `eventferry.verify_secrets`."""
    return _LOOP.run(eventferry.verify_secrets(_source(source), _source(other), content=content))


def _bare(stream: Any) -> Any:
    return stream.inner if isinstance(stream, _Face) else stream


def _source(source: Any) -> Any:
    """A plain iterator is asked in a thread, for it may itself wait for the loop; files are as they are."""
    bare = _bare(source)
    if isinstance(bare, str | os.PathLike) or hasattr(bare, "__aiter__") or hasattr(bare, "read"):
        return bare
    return _later(iter(bare))


def _events(events: Any) -> Any:
    """An iterator of bytes becomes an awaited one; events stay as they are."""
    bare = _bare(events)
    if hasattr(bare, "__aiter__"):
        return bare
    if isinstance(bare, bytes | str):
        return bare
    rest = iter(bare)
    first = next(rest, None)
    if first is None:
        return []
    if isinstance(first, bytes):
        return _later(_chain(first, rest))
    return _chain(first, rest)


def _chain(first: T, rest: Iterator[T]) -> Iterator[T]:
    yield first
    yield from rest


async def _later(blocks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The blocks of a plain iterator; it is asked in a thread, for it may itself wait for the loop."""
    while (block := await asyncio.to_thread(next, blocks, None)) is not None:
        yield block


def _awaited_transform(transform: Callable[[Iterator[bytes]], Iterable[bytes]]) -> Any:
    def run(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        return _later(iter(transform(_sooner(blocks))))

    return run


def _sooner(blocks: AsyncIterator[bytes]) -> Iterator[bytes]:
    """The blocks of an awaited iterator, for a transform that runs in a thread beside the loop."""
    while (block := _LOOP.run(_next(blocks))) is not None:
        yield block


async def _next(blocks: AsyncIterator[bytes]) -> bytes | None:
    return cast("bytes | None", await cast(Any, anext(blocks, None)))
