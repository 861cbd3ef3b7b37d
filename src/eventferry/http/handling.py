"""What every handler shares: parameters checked, errors answered, operations counted and limited.

A handler is written as one function from a `Call` to an answer. `Handler` makes of it what a framework mounts: given a
store, an endpoint that takes a request. So each can be used alone, and all of them together make the service.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from eventferry import EventferryError, EventStore, InputError, StoreUnreachableError
from eventferry.http import tracing
from eventferry.http.bodies import ClientGoneError, request_blocks, request_text
from eventferry.http.limits import Limits
from eventferry.http.metrics import Metrics
from eventferry.http.parameters import as_text, parsed_query, path_parameters
from eventferry.http.problems import RefusedError, name_of, problem, status_of
from eventferry.operation_log import told_elsewhere

log = logging.getLogger("eventferry.http")

CLIENT_GONE = 499
"""The status of a request whose client went away, in logs and metrics: nobody is answered with it."""

HEALTH_SECONDS = 3.0
"""In which a healthy store answers."""

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]
"""What Starlette and FastAPI take as the function of a route."""


class NoQuery(msgspec.Struct, forbid_unknown_fields=True):
    """No parameters."""


Q = TypeVar("Q", bound=msgspec.Struct)


@dataclass(slots=True)
class Service:
    """A store with what is around it: shared by the handlers of one service.

    Attributes:
        store: whose service it is.
        limits: what it takes.
        metrics: what it counts.
        exchange_dir: where the routes of reSolve's client read and write files; None: they are off.
        has_tokens: whether who calls must have a token.
        imports: how many are running.
        looking: the look at the store that is under way, or was last.
    """

    store: EventStore
    limits: Limits = field(default_factory=Limits)
    metrics: Metrics = field(default_factory=Metrics)
    exchange_dir: Path | None = None
    has_tokens: bool = False
    imports: int = 0
    looking: asyncio.Task[bool] | None = None

    async def is_there(self) -> bool:
        """Whether the store is there. All who ask at a time share one look at it: checks of a database that is silent
        do not pile up.

        Raises:
            StoreUnreachableError: it does not answer in `HEALTH_SECONDS`.
        """
        look = self.looking
        if look is None or look.done():
            look = self.looking = asyncio.create_task(self._look())
            # Where all who asked have gone, nobody else hears of its error.
            look.add_done_callback(lambda task: task.cancelled() or task.exception())
        # The look itself ends later than its time: its connection is given up first.
        done, _ = await asyncio.wait([look], timeout=HEALTH_SECONDS)
        with suppress(TimeoutError):
            if done:
                return look.result()
        raise StoreUnreachableError(f"the store does not answer within {HEALTH_SECONDS:g} seconds")

    async def _look(self) -> bool:
        async with asyncio.timeout(HEALTH_SECONDS):
            return await self.store.exists()

    @contextmanager
    def importing(self) -> Iterator[None]:
        """A place among the imports that may run at once. Raises RefusedError where none is free."""
        if self.imports >= self.limits.max_imports:
            raise RefusedError(
                429,
                "too-many-imports",
                f"{self.imports} imports are running, and no more may at once",
                {"Retry-After": "5"},
            )
        self.imports += 1
        self.metrics.open_imports.inc()
        try:
            yield
        finally:
            self.imports -= 1
            self.metrics.open_imports.dec()


@dataclass(frozen=True, slots=True)
class Call(Generic[Q]):
    """One request to one handler.

    Attributes:
        request: as it came.
        path: the parameters in its path, as the bytes that they stand for.
        query: its other parameters, checked.
        service: whose handler it is.
        operation: the handler's name, for metrics and logs.
    """

    request: Request
    path: dict[str, bytes]
    query: Q
    service: Service
    operation: str

    @property
    def store(self) -> EventStore:
        """The store that is asked."""
        return self.service.store

    def path_text(self, name: str) -> str:
        """A parameter in the path that is text. Raises UsageError where it is none."""
        return as_text(self.path[name], f"the parameter {name!r}")

    def blocks(self) -> AsyncGenerator[bytes, None]:
        """The body as blocks of UTF-8."""
        return request_blocks(self.request, self.service.limits)

    async def text(self) -> bytes:
        """The whole body as UTF-8."""
        return await request_text(self.request, self.service.limits)

    def came_in(self, events: int) -> None:
        """Count events that are in the store now."""
        self.service.metrics.events.labels(self.operation, "in").inc(events)
        _tell(logging.INFO, self.operation, f"events={events}", {"events": events})

    def went_out(self, events: int) -> None:
        """Count events that were given out."""
        self.service.metrics.events.labels(self.operation, "out").inc(events)


@dataclass(frozen=True, slots=True)
class Handler(Generic[Q]):
    """An operation over HTTP. Called with a store it gives an endpoint.

    Attributes:
        operation: its name, for metrics and logs.
        query: the parameters that it takes.
        answer: does it.
        is_import: whether it counts among the imports that may run at once.
        is_private: whether what it handles must not stand in a log, not even in an error's words.
        refusal: how it tells an error.
    """

    operation: str
    query: type[Q]
    answer: Callable[[Call[Q]], Awaitable[Response]]
    is_import: bool = False
    is_private: bool = False
    refusal: Callable[[Exception], Response] = problem

    def __call__(
        self,
        store: EventStore,
        *,
        limits: Limits | None = None,
        metrics: Metrics | None = None,
        exchange_dir: Path | None = None,
    ) -> Endpoint:
        """The endpoint of a store, for the routes of an application: `Route(path, handler(store))`."""
        return self.bound(Service(store, limits or Limits(), metrics or Metrics(), exchange_dir))

    def bound(self, service: Service) -> Endpoint:
        """The endpoint that shares a service's limits and metrics with others."""

        async def endpoint(request: Request) -> Response:
            try:
                with told_elsewhere():  # in this log
                    return await self._answered(request, service)
            except ClientGoneError:
                service.metrics.refused.labels(self.operation, "client-gone").inc()
                return _Silence()
            except Exception as error:
                service.metrics.refused.labels(self.operation, name_of(error)).inc()
                self._tell_refusal(error)
                return self.refusal(error)

        endpoint.__name__ = endpoint.__qualname__ = self.operation
        return endpoint

    async def _answered(self, request: Request, service: Service) -> Response:
        path = path_parameters(request.scope)
        query = parsed_query(request.scope["query_string"], self.query)
        call = Call(request, path, query, service, self.operation)
        if not self.is_import:
            return await self.answer(call)
        with service.importing():
            return await self.answer(call)

    def _tell_refusal(self, error: Exception) -> None:
        status = status_of(error)
        fields = {"problem": name_of(error), "status": status}
        if status < 500:
            # A line of input could stand in an error's words, a secret even: a log gets its kind and its place.
            place = f" line={error.line}" if isinstance(error, InputError) and error.line else ""
            _tell(logging.INFO, self.operation, f"refused={name_of(error)}{place}", fields)
        elif isinstance(error, EventferryError) and status == 503:
            _tell(logging.WARNING, self.operation, f"refused={name_of(error)}: {error}", fields)
        elif self.is_private:
            where = "".join(traceback.format_tb(error.__traceback__))
            _tell(logging.ERROR, self.operation, f"failed={type(error).__name__}\n{where}", fields)
        else:
            _tell(logging.ERROR, self.operation, f"failed={type(error).__name__}", fields, error)


def _tell(
    level: int, operation: str, what: str, fields: dict[str, Any], error: Exception | None = None
) -> None:
    """A line in the log of operations, with the trace that it belongs to."""
    trace = tracing.fields(tracing.current_trace())
    words = " ".join((f"operation={operation}", *(f"{key}={value}" for key, value in trace.items()), what))
    log.log(level, "%s", words, exc_info=error, extra={"operation": operation, **trace, **fields})


class _Silence(Response):
    """The answer to a client that has gone: nothing."""

    def __init__(self) -> None:
        super().__init__(status_code=CLIENT_GONE)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send nothing."""


class JsonResponse(Response):
    """A value as JSON, its numbers as they are."""

    media_type = "application/json"

    def __init__(self, value: Any, status: int = 200) -> None:
        super().__init__(_ENCODER.encode(value), status, {"Cache-Control": "no-store"})


_ENCODER = msgspec.json.Encoder(decimal_format="number")
