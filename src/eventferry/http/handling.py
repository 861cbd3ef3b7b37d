"""What all handlers share: they check parameters, answer errors, and count and limit operations.

A handler is a function from a `Call` to a response. `Handler` turns it into an endpoint that frameworks can mount. So
each can be used alone, and all of them together are the service.
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
"""The status of a request whose client disconnected, in logs and metrics only."""

HEALTH_SECONDS = 3.0
"""Seconds in which a healthy store answers."""

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]
"""A function that Starlette and FastAPI accept for a route."""


class NoQuery(msgspec.Struct, forbid_unknown_fields=True):
    """No parameters."""


Q = TypeVar("Q", bound=msgspec.Struct)


@dataclass(slots=True)
class Service:
    """The state that the handlers of one service share.

    Attributes:
        store: the store.
        limits: the limits of the service.
        metrics: the metrics of the service.
        exchange_dir: where the routes of reSolve's client read and write files; None if they are off.
        has_tokens: whether clients must present a token.
        imports: number of running imports.
        looking: the current or latest health check.
    """

    store: EventStore
    limits: Limits = field(default_factory=Limits)
    metrics: Metrics = field(default_factory=Metrics)
    exchange_dir: Path | None = None
    has_tokens: bool = False
    imports: int = 0
    looking: asyncio.Task[bool] | None = None

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

    async def _look(self) -> bool:
        async with asyncio.timeout(HEALTH_SECONDS):
            return await self.store.exists()

    @contextmanager
    def importing(self) -> Iterator[None]:
        """Count a running import. Raises RefusedError if there are too many."""
        if self.imports >= self.limits.max_imports:
            raise RefusedError(
                429,
                "too-many-imports",
                f"{self.imports} imports are running, which is the limit",
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
        request: the request.
        path: the parameters in its path, unescaped.
        query: the parameters in its query, checked.
        service: the service of the handler.
        operation: the name of the handler, for metrics and logs.
    """

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
        _tell(logging.INFO, self.operation, f"events={events}", {"events": events})

    def went_out(self, events: int) -> None:
        """Count events that were sent to the client."""
        self.service.metrics.events.labels(self.operation, "out").inc(events)


@dataclass(frozen=True, slots=True)
class Handler(Generic[Q]):
    """An operation over HTTP. Called with a store, it returns an endpoint.

    Attributes:
        operation: the name of the operation, for metrics and logs.
        query: the type of its query parameters.
        answer: the function that does it.
        is_import: whether the limit of concurrent imports applies.
        is_private: whether its data must not appear in a log, not even in the message of an error.
        refusal: turns an error into a response.
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
        """An endpoint for the routes of an application: `Route(path, handler(store))`."""
        return self.bound(Service(store, limits or Limits(), metrics or Metrics(), exchange_dir))

    def bound(self, service: Service) -> Endpoint:
        """An endpoint that shares limits and metrics with the others of a service."""

        async def endpoint(request: Request) -> Response:
            try:
                with told_elsewhere():  # the service logs operations itself
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
            # The message may quote input, even a secret: only the kind and the line number are logged.
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
    """Log an operation, with its trace."""
    trace = tracing.fields(tracing.current_trace())
    words = " ".join((f"operation={operation}", *(f"{key}={value}" for key, value in trace.items()), what))
    log.log(level, "%s", words, exc_info=error, extra={"operation": operation, **trace, **fields})


class _Silence(Response):
    """The response to a client that has disconnected: nothing."""

    def __init__(self) -> None:
        super().__init__(status_code=CLIENT_GONE)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send nothing."""


class JsonResponse(Response):
    """A value as JSON, with exact numbers."""

    media_type = "application/json"

    def __init__(self, value: Any, status: int = 200) -> None:
        super().__init__(_ENCODER.encode(value), status, {"Cache-Control": "no-store"})


_ENCODER = msgspec.json.Encoder(decimal_format="number")
