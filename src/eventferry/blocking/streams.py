"""Streams, sources and targets without await."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from typing import Self, TypeVar, cast

from eventferry.blocking.loop import LOOP, next_of
from eventferry.blocking.wrapping import Face, Shown, blocking, plain, wrapped
from eventferry.importing.stream import ImportStream as AwaitedImport
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
from eventferry.targets.target import ForeignTarget as AwaitedTarget
from eventferry.targets.target import TargetStream as AwaitedTargetStream

B = TypeVar("B", AwaitedExport, AwaitedForeignExport, AwaitedSecretsExport, AsyncGenerator[bytes, None])


class BlockIterator(Face[B]):
    """An iterator of blocks of lines."""

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        block = LOOP.run(next_of(self.inner))
        if block is None:
            raise StopIteration
        return block

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the export. Calling it again does nothing."""
        LOOP.run(self.inner.aclose())


class ExportStream(BlockIterator[AwaitedExport]):
    """An iterator of blocks of lines of events, with the attributes of `eventferry.ExportStream`."""

    cursor = Shown[str]()
    is_end = Shown[bool]()
    is_buffer_overflow = Shown[bool]()
    exported = Shown[int]()
    begin = blocking(AwaitedExport.begin)
    bookmark = blocking(AwaitedExport.bookmark)
    bookmark_behind = blocking(AwaitedExport.bookmark_behind)
    stop = plain(AwaitedExport.stop)


class ForeignExport(BlockIterator[AwaitedForeignExport]):
    """An iterator of blocks of lines, with the attributes of `eventferry.ForeignExport`."""

    exported = Shown[int]()
    report = Shown[SourceReport]()


class ForeignSource(Face[AwaitedForeignSource]):
    """Tables of another product, read by a mapping, with the methods of `eventferry.ForeignSource` without await."""

    mapping = Shown[SourceMapping]()
    place = Shown[str]()
    export_events = wrapped(AwaitedForeignSource.export_events, ForeignExport)
    preview = blocking(AwaitedForeignSource.preview)
    close = blocking(AwaitedForeignSource.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class FollowStream(Face[AwaitedFollow]):
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
            LOOP.run(self._step())
        page, self._found = cast(Page, self._found), None
        return page

    async def _step(self) -> None:
        # Ctrl-C may come when the page is there, and its step is behind it already: the next call gives it.
        self._found = await anext(self.inner)


class SecretsExport(BlockIterator[AwaitedSecretsExport]):
    """An iterator of blocks of lines of secrets, with the attributes of `eventferry.SecretsExport`."""

    idx = Shown[int]()
    exported = Shown[int]()


class ImportStream(Face[AwaitedImport]):
    """A sink for blocks of lines, with the attributes of `eventferry.ImportStream`.

    Leaving `with` normally commits; an exception aborts.
    """

    is_stopped = Shown[bool]()
    is_verified = Shown[bool]()
    byte_offset = Shown[int]()
    saved_events_count = Shown[int]()
    begin = blocking(AwaitedImport.begin)
    write = blocking(AwaitedImport.write)
    verify = blocking(AwaitedImport.verify)
    close = blocking(AwaitedImport.close)
    finish = blocking(AwaitedImport.finish)
    abort = blocking(AwaitedImport.abort)
    stop = plain(AwaitedImport.stop)
    __exit__ = blocking(AwaitedImport.__aexit__)

    def __enter__(self) -> Self:
        self.begin()
        return self


class TargetStream(Face[AwaitedTargetStream]):
    """The same for another product's table, as `eventferry.TargetStream`."""

    begin = blocking(AwaitedTargetStream.begin)
    write = blocking(AwaitedTargetStream.write)
    close = blocking(AwaitedTargetStream.close)
    finish = blocking(AwaitedTargetStream.finish)
    abort = blocking(AwaitedTargetStream.abort)
    __exit__ = blocking(AwaitedTargetStream.__aexit__)

    def __enter__(self) -> Self:
        self.begin()
        return self


class ForeignTarget(Face[AwaitedTarget]):
    """The table of another product; created by `open_target`. Use it with `with`, or call `close`."""

    def __enter__(self) -> Self:
        return self

    __exit__ = blocking(AwaitedTarget.__aexit__)
    close = blocking(AwaitedTarget.close)
    import_events = wrapped(AwaitedTarget.import_events, TargetStream)


class SecretsImport(Face[AwaitedSecretsImport]):
    """A sink for lines of secrets. Leaving `with` normally stores them; an exception aborts."""

    write = blocking(AwaitedSecretsImport.write)
    close = blocking(AwaitedSecretsImport.close)
    abort = blocking(AwaitedSecretsImport.abort)
    __exit__ = blocking(AwaitedSecretsImport.__aexit__)

    def __enter__(self) -> Self:
        return self


class EventLoader(Face[AwaitedLoader]):
    """Loads one page after another, from a cursor on."""

    cursor = Shown[str]()
    load_events = blocking(AwaitedLoader.load_events)
    close = blocking(AwaitedLoader.close)
