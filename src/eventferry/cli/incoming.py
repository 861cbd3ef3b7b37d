"""What an import is given: a source in some format, and what changes its events on the way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import eventferry
from eventferry.cli.changing import beginnings, changing_of
from eventferry.cli.foreign import taken, told_of
from eventferry.cli.formats import FileFormat, source_in, tell_in
from eventferry.cli.options import end_of
from eventferry.cli.terminal import Extent
from eventferry.databases import is_store

if TYPE_CHECKING:
    from eventferry.sources.source import Previewing, SourceReport


class Incoming:
    """What comes in from a place, by the options of a command, of which it takes those that say so.

    Attributes:
        changing: what is changed on the way. A dry run counts as a change, where the source is not another product's.
    """

    def __init__(
        self,
        place: str,
        options: dict[str, Any],
        *,
        file_format: FileFormat = "jsonl",
        jobs: int = 1,
        dry_run: bool = False,
    ) -> None:
        start, mapping = beginnings(options.pop("starts"))
        self._place, self._format, self._jobs = place, file_format, jobs
        self._end = end_of(options)
        self._aggregate: str | None = options.pop("aggregate_attribute", None)
        self._foreign = taken(options, mapping)
        self.changing = changing_of(
            options,
            start,
            dry_run=dry_run and self._foreign is None,
            ignore_unknown_keys=options["ignore_unknown_keys"],
        )

    @property
    def is_unchanged_store(self) -> bool:
        """Whether it is a store's events as they are there."""
        return is_store(self._place) and self._foreign is None and self.changing.changes is None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[tuple[AsyncIterator[bytes], Extent]]:
        """Its lines, not changed yet, and how much there is of them. The report of the changes is written when the
        block ends."""
        async with (
            self.changing.reported(),
            source_in(
                self._format, self._place, self._jobs, self._foreign, self._end, self._aggregate
            ) as found,
        ):
            yield found

    async def tell(self, *, as_json: bool) -> None:
        """Print what would come in. Nothing is stored."""
        if self._foreign is not None and self.changing.changes is None:
            await tell_in(self._format, self._place, self._foreign, as_json=as_json)
            return
        async with self.opened() as (source, extent):
            await self.changing.tell(source, extent, as_json=as_json)

    def previewing(self, source: AsyncIterator[bytes]) -> Previewing | None:
        """What notes the events of its lines as they pass, where a mapping makes them and they are not changed."""
        report = _report_of(source)
        if report is None or self.changing.changes is not None:
            return None
        from eventferry.sources.source import Previewing

        return Previewing(lambda: _report_of(source) or report)


class Mark:
    """A transform that takes the bookmark of a source when all of it is read: if there is none, nothing appears.

    Attributes:
        bookmark: behind what was read; None if the source is not a store.
    """

    def __init__(self, source: AsyncIterator[bytes]) -> None:
        self._source = source
        self.bookmark: str | None = None

    async def __call__(self, blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The blocks as they are."""
        async for block in blocks:
            yield block
        if isinstance(self._source, eventferry.ExportStream):
            self.bookmark = await self._source.bookmark()

    def told(self, result: dict[str, Any], *, with_bookmark: bool) -> str:
        """Adds to a result what is to be told of the source; gives the same in words, the bookmark only if asked."""
        words = ""
        if self.bookmark is not None:
            result["bookmark"] = self.bookmark
            words = f"; bookmark of the source {self.bookmark}" if with_bookmark else ""
        return words + told_rows(self._source, result)


def told_rows(source: AsyncIterator[bytes], result: dict[str, Any]) -> str:
    """Adds to a result what became of the rows of a source, if a mapping made its events; gives the same in words."""
    report = _report_of(source)
    if report is None:
        return ""
    result["source"] = report
    return told_of(report)


@runtime_checkable
class _Mapped(Protocol):
    """Lines that a mapping may have made of rows."""

    @property
    def report(self) -> SourceReport | None:
        """What has become of the rows so far."""


def _report_of(source: AsyncIterator[bytes]) -> SourceReport | None:
    return source.report if isinstance(source, _Mapped) else None
