"""What handlers work with: the call that they answer, and the service that they share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
from starlette.requests import Request

from eventferry import EventferryError, EventStore, StoreUnreachableError
from eventferry.http import tracing
from eventferry.http.bodies import request_blocks, request_text
from eventferry.http.limits import Limits
from eventferry.http.metrics import Metrics
from eventferry.http.parameters import as_text
from eventferry.http.problems import RefusedError

log = logging.getLogger("eventferry.http")

HEALTH_SECONDS = 3.0
"""Seconds in which a healthy store answers."""


class Query(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """The query parameters of a handler; none."""


Q = TypeVar("Q", bound=msgspec.Struct)


@dataclass(slots=True)
class Service:
    """The state that the handlers of one service share.

    Attributes:
        exchange_dir: where the routes of reSolve's client read and write files; None if they are off.
        has_tokens: whether clients must present a token.
        has_console: whether it has pages for people.
        imports: number of running imports.
        followers: number of clients that follow the store.
        leaving: set when the service ends: nobody waits for events any more.
        looking: the current or latest health check.
        asking: the current or latest look at the syncs into the store.
    """

    store: EventStore
    limits: Limits = field(default_factory=Limits)
    metrics: Metrics = field(default_factory=Metrics)
    exchange_dir: Path | None = None
    has_tokens: bool = False
    has_console: bool = False
    imports: int = 0
    followers: int = 0
    leaving: asyncio.Event = field(default_factory=asyncio.Event)
    looking: asyncio.Task[bool] | None = None
    asking: asyncio.Task[None] | None = None

    async def is_there(self) -> bool:
        """Whether the store exists. Concurrent calls share one check, so that checks of an unresponsive database do not
        pile up.

        Raises:
            StoreUnreachableError: it does not answer within `HEALTH_SECONDS`.
        """
        look = self.looking
        if look is None or look.done():
            look = self.looking = asyncio.create_task(self._look())
            # If all callers are gone, nobody else retrieves its error.
            look.add_done_callback(lambda task: task.cancelled() or task.exception())
        # The check itself may end later: first it gives up its connection.
        done, _ = await asyncio.wait([look], timeout=HEALTH_SECONDS)
        with suppress(TimeoutError):
            if done:
                return look.result()
        raise StoreUnreachableError(f"the store does not answer within {HEALTH_SECONDS:g} seconds")

    async def note_syncs(self) -> None:
        """Bring the metrics of the syncs into the store up to date, if it answers. Concurrent calls share one look."""
        look = self.asking
        if look is None or look.done():
            look = self.asking = asyncio.create_task(self._ask_for_syncs())
        await asyncio.wait([look], timeout=HEALTH_SECONDS)

    async def _ask_for_syncs(self) -> None:
        with suppress(EventferryError, TimeoutError):
            async with asyncio.timeout(HEALTH_SECONDS):
                self.metrics.note_syncs(await self.store.sync_status())

    async def _look(self) -> bool:
        async with asyncio.timeout(HEALTH_SECONDS):
            return await self.store.exists()

    @contextmanager
    def importing(self) -> Iterator[None]:
        """Count a running import. Raises RefusedError if there are too many."""
        if self.imports >= self.limits.max_imports:
            raise _too_many("imports", self.imports, "are running")
        self.imports += 1
        self.metrics.open_imports.inc()
        try:
            yield
        finally:
            self.imports -= 1
            self.metrics.open_imports.dec()

    @contextmanager
    def following(self) -> Iterator[None]:
        """Count a client that follows the store. Raises RefusedError if there are too many."""
        if self.followers >= self.limits.max_followers:
            raise _too_many("followers", self.followers, "are connected")
        self.followers += 1
        self.metrics.open_followers.inc()
        try:
            yield
        finally:
            self.followers -= 1
            self.metrics.open_followers.dec()


def _too_many(what: str, count: int, state: str) -> RefusedError:
    return RefusedError(
        429, f"too-many-{what}", f"{count} {what} {state}, which is the limit", {"Retry-After": "5"}
    )


@dataclass(frozen=True, slots=True)
class Call(Generic[Q]):
    """One request to one handler, with the parameters in its path (unescaped) and in its query (checked)."""

    request: Request
    path: dict[str, bytes]
    query: Q
    service: Service
    operation: str

    @property
    def store(self) -> EventStore:
        """The store of the service."""
        return self.service.store

    def path_text(self, name: str) -> str:
        """A path parameter as text. Raises UsageError if it is not UTF-8."""
        return as_text(self.path[name], f"the parameter {name!r}")

    def blocks(self) -> AsyncGenerator[bytes, None]:
        """The body as blocks of UTF-8."""
        return request_blocks(self.request, self.service.limits)

    async def text(self) -> bytes:
        """The whole body as UTF-8."""
        return await request_text(self.request, self.service.limits)

    def came_in(self, events: int) -> None:
        """Count and log events that were stored."""
        self.service.metrics.events.labels(self.operation, "in").inc(events)
        tell(logging.INFO, self.operation, f"events={events}", {"events": events})

    def went_out(self, events: int) -> None:
        """Count events that were sent to the client."""
        self.service.metrics.events.labels(self.operation, "out").inc(events)


def tell(
    level: int, operation: str, what: str, fields: dict[str, Any], error: Exception | None = None
) -> None:
    """Log an operation, with its trace."""
    trace = tracing.fields(tracing.current_trace())
    words = " ".join((f"operation={operation}", *(f"{key}={value}" for key, value in trace.items()), what))
    log.log(level, "%s", words, exc_info=error, extra={"operation": operation, **trace, **fields})
