"""The functions of the library without await."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Iterator
from functools import wraps
from typing import Any, Protocol, TypeAlias, cast, overload

import eventferry
from eventferry.blocking.arguments import awaited_transform, is_asynchronous, source_of, unwrapped
from eventferry.blocking.loop import LOOP
from eventferry.blocking.store import EventStore
from eventferry.blocking.streams import ForeignSource, ForeignTarget
from eventferry.blocking.wrapping import P, T, blocking_function, wrapped
from eventferry.lines.piping import OutputFile, Report, Report_co
from eventferry.lines.piping import Transform as AwaitedTransform
from eventferry.store import EventStore as AwaitedStore
from eventferry.tabular.folder import FolderSink


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


class _Sink(Protocol[Report_co]):
    """What has a report at its end: an `ImportStream` or a `SecretsImport` of this module."""

    def write(self, block: bytes) -> None: ...

    def close(self) -> Report_co: ...

    def abort(self, error: BaseException | None = None) -> None: ...


_Transform: TypeAlias = Callable[[Iterator[bytes]], Iterable[bytes]] | AwaitedTransform


@overload
def pipeline(source: Any, *rest: *tuple[*tuple[_Transform, ...], _Sink[Report]]) -> Report: ...


@overload
def pipeline(source: Any, *rest: _Transform | OutputFile | FolderSink) -> None: ...


def pipeline(source: Any, *rest: Any) -> Any:  # type: ignore[misc]  # mypy: not all of `rest`
    """Send a source through transforms into a sink, as `eventferry.pipeline` does.

    Sources, sinks, files and the transforms of `eventferry` are the same. A transform of your own is a function from an
    iterator of blocks to another one. `Changes` calls its function in the worker thread of the loop.
    """
    *transforms, sink = rest or (None,)
    steps = [each if is_asynchronous(each) else awaited_transform(each) for each in transforms]
    return LOOP.run(eventferry.pipeline(source_of(source), *steps, unwrapped(sink)))


back_up = blocking_function(eventferry.back_up)
archive = blocking_function(eventferry.archive)
recall = blocking_function(eventferry.recall)


def cutover(
    source: EventStore, target: EventStore, *, unfreeze_on_failure: bool = True
) -> eventferry.CutoverReport:
    """Move an application from a store to its replica, as `eventferry.cutover` does."""
    return LOOP.run(eventferry.cutover(source.inner, target.inner, unfreeze_on_failure=unfreeze_on_failure))


def check(source: Any) -> eventferry.CheckReport:
    """Check a store, or one source of lines, as `eventferry.check` does."""
    bare = unwrapped(source)
    return LOOP.run(eventferry.check(bare if isinstance(bare, AwaitedStore) else source_of(source)))


def _of_sources(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """A function whose arguments are sources."""
    return cast("Callable[P, T]", wrapped(function, LOOP.run, source_of))


verify = _of_sources(eventferry.verify)
verify_secrets = _of_sources(eventferry.verify_secrets)
