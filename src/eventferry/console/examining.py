"""Examinations: a store is checked, or compared with its backup, while pages show how far that is.

One at a time runs: each reads all events. It belongs to the service, not to the page that began it, and ends with the
service.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from eventferry import EventStore, Repository, check, verify
from eventferry.clock import now
from eventferry.console.sessions import Visitor
from eventferry.errors import EventferryError
from eventferry.http.handling import tell
from eventferry.http.problems import RefusedError, message_of
from eventferry.http.streams import first_of
from eventferry.lifecycle import aclosing, end_tasks


@dataclass(frozen=True, slots=True)
class Finding:
    """What an examination has found.

    Attributes:
        is_sound: whether nothing is wrong.
        summary: a sentence.
        details: what was found, one by one; the first ones.
    """

    is_sound: bool
    summary: str
    details: Sequence[str] = ()


@dataclass(slots=True)
class Examination:
    """One examination, running or ended.

    Attributes:
        name: what is done.
        by: the name of the token of who began it.
        since: when it began, in ms since 1970.
        total: events that are to be read; None while that is not known.
        read: events that were read so far.
        until: when it ended; None while it runs.
        finding: what it found; None while it runs, if it failed, and if it was cancelled.
        problem: why it failed.
    """

    name: str
    by: str
    since: int
    total: int | None = None
    read: int = 0
    until: int | None = None
    finding: Finding | None = None
    problem: str | None = None

    async def counted(self, blocks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """The same blocks of lines; they are counted."""
        async for block in blocks:
            self.read += block.count(b"\n")
            yield block


Work = Callable[[Examination], Awaitable[Finding]]


class Examinations:
    """The examinations of a service.

    Args:
        leaving: set when the service ends.

    Attributes:
        running: the one that runs; None if none does.
        ended: the last one of each name, the newest first.
    """

    def __init__(self, leaving: asyncio.Event) -> None:
        self._leaving = leaving
        self._task: asyncio.Task[None] | None = None
        self.running: Examination | None = None
        self.ended: list[Examination] = []

    def begin(self, name: str, visitor: Visitor, work: Work) -> None:
        """Begin one. Raises RefusedError if another is running."""
        if self.running is not None:
            raise RefusedError(
                409, "examination-running", "another examination is running: wait for its end, or cancel it"
            )
        examination = self.running = Examination(name, visitor.name, now())
        self._task = asyncio.create_task(self._run(examination, work))
        self._task.add_done_callback(lambda _: self._end(examination))

    async def cancel(self) -> None:
        """End the one that runs; does nothing if none does."""
        if self._task is not None and not self._task.done():
            await end_tasks(self._task)

    async def _run(self, examination: Examination, work: Work) -> None:
        leaving = asyncio.ensure_future(self._leaving.wait())
        try:
            examination.finding = await first_of(work(examination), leaving)
        except EventferryError as error:
            examination.problem = message_of(error)
            tell(logging.WARNING, "console-examination", f"failed={type(error).__name__}", {})
        except Exception as error:
            examination.problem = message_of(error)
            tell(logging.ERROR, "console-examination", f"failed={type(error).__name__}", {}, error)
        finally:
            leaving.cancel()

    def _end(self, examination: Examination) -> None:
        examination.until = now()
        self.running = None
        self.ended = [examination, *(each for each in self.ended if each.name != examination.name)]


def checking(store: EventStore) -> Work:
    """Check the store: malformed events, positions and versions that are there twice, counters, indexes."""

    async def work(examination: Examination) -> Finding:
        examination.total = (await store.describe(estimate_counts=True)).event_count
        report = await check(store, examination.counted)
        remarks = [f"{remark.kind}: {remark.text}" for remark in report.remarks]
        what = f"{report.events:,} events of {report.aggregates:,} aggregates in {report.threads:,} threads"
        return Finding(
            report.sound, f"{what}; {'nothing is wrong' if report.sound else 'there is damage'}", remarks
        )

    return work


def comparing(store: EventStore, repository: Repository) -> Work:
    """Compare the store with its backup, up to where that ends."""

    async def work(examination: Examination) -> Finding:
        chain, until = await repository._end_of(store)
        examination.total = (await repository.status(chain)).newest.events
        async with (
            aclosing(repository.export_events(chain=chain)) as kept,
            aclosing(examination.counted(kept)) as backup,
            store.export_events(until=until) as events,
        ):
            report = await verify(backup, events, erased=await store.erased())
        differences = [
            f"{each.kind}: {each.aggregate_id} version {each.aggregate_version}, {each.type}"
            for each in report.differences
        ]
        summary = (
            f"{report.events:,} events are equal"
            if report.equal
            else f"{report.missing:,} missing, {report.extra:,} extra, {report.changed:,} changed in the store"
        )
        return Finding(report.equal, summary, differences)

    return work


def drilling(repository: Repository) -> Work:
    """Restore the backup into a temporary file, and compare it with the repository event by event."""

    async def work(examination: Examination) -> Finding:
        examination.total = (await repository.status()).newest.events
        report = await repository.drill(tell=examination.counted)
        summary = f"{report.restored_events:,} of {report.events:,} events restored in {report.restore_seconds:,.1f} s"
        return Finding(report.equal, f"{summary}; {'all are equal' if report.equal else 'they differ'}")

    return work
