"""Handlers, and their routes in the service: declared where the function stands that does the work.

    @route("GET", "/describe", "read")
    @answers("What the store holds.", Description)
    async def describe_handler(call: Call[DescribeQuery]) -> Description:
        'Describe the store.'

So each can be used alone, and all of them together are the service. What they share is done here: parameters are
checked, errors answered, operations counted, logged and limited.
"""

from __future__ import annotations

import inspect
import logging
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar, get_args

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from eventferry import EventferryError, EventStore, InputError
from eventferry.http.bodies import CLIENT_GONE, ClientGoneError
from eventferry.http.handling import Call, Service, tell
from eventferry.http.limits import Limits
from eventferry.http.metrics import Metrics
from eventferry.http.parameters import parsed_query, path_parameters
from eventferry.http.problems import name_of, plain_problem, problem, status_of
from eventferry.http.tokens import Scope
from eventferry.operation_log import told_elsewhere

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
HTML = "text/html; charset=utf-8"

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]
"""A function that Starlette and FastAPI accept for a route."""

Q = TypeVar("Q", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Body:
    """The body of a request.

    Attributes:
        what: a description.
        json: its type as one JSON value; None if it must be JSON Lines.
        lines: whether it may be JSON Lines.
    """

    what: str
    json: Any = None
    lines: bool = True


@dataclass(frozen=True, slots=True)
class Answer(Generic[Q]):
    """What a handler does, and its answer to a successful request.

    Attributes:
        function: does it. It returns the value of the answer, or a whole response.
        what: a description of the answer.
        shape: the type of its JSON.
        status: of the answer; one of 204 has no body.
        media_type: of its body.
        headers: additional headers and their descriptions.
        stream: its media type as a stream, for clients that accept that; None if there is none.
    """

    function: Callable[[Call[Q]], Awaitable[Any]]
    what: str
    shape: type | None
    status: int
    media_type: str
    headers: Mapping[str, str]
    stream: str | None

    async def of(self, call: Call[Q]) -> Response:
        """The response to a call."""
        value = await self.function(call)
        if isinstance(value, Response):
            return value
        if self.status == 204:
            return Response(status_code=204)
        if self.media_type == TEXT:
            return PlainTextResponse(value)
        return JsonResponse(value, self.status)


@dataclass(frozen=True, slots=True)
class Handler(Generic[Q]):
    """An operation over HTTP. Called with a store, it returns an endpoint.

    Attributes:
        method: the HTTP method of its route in the service.
        path: the path of that route, with parameters as `{name}`.
        scopes: the scopes that a token must have; empty if no token is needed.
        answer: what it does, and the answer to a successful request.
        refusals: statuses in addition to those that every route can have.
        body: the body of the request; None if it has none.
        headers: headers of the request and their descriptions.
        is_import: whether the limit of concurrent imports applies.
        is_plain: whether it is for reSolve's client: a GET that may change something, answered in plain text.
    """

    method: str
    path: str
    scopes: Sequence[Scope]
    answer: Answer[Q]
    refusals: Sequence[int] = ()
    body: Body | None = None
    headers: Mapping[str, str] | None = None
    is_import: bool = False
    is_plain: bool = False

    @property
    def operation(self) -> str:
        """Its name, for metrics and logs."""
        return self.answer.function.__name__.removesuffix("_handler").replace("_", "-")

    @property
    def summary(self) -> str:
        """A description in one sentence."""
        return inspect.getdoc(self.answer.function) or ""

    @property
    def query(self) -> type[Q]:
        """The type of its query parameters."""
        [query] = get_args(inspect.get_annotations(self.answer.function, eval_str=True)["call"])
        return query  # type: ignore[no-any-return]

    @property
    def changes(self) -> bool:
        """Whether a request may change something, so that pages of other sites must not send it."""
        return self.method != "GET" or self.is_plain

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
        query = self.query

        async def endpoint(request: Request) -> Response:
            try:
                with told_elsewhere():  # the service logs operations itself
                    path = path_parameters(request.scope)
                    given = parsed_query(request.scope["query_string"], query)
                    call = Call(request, path, given, service, self.operation)
                    with service.importing() if self.is_import else nullcontext():
                        return await self.answer.of(call)
            except ClientGoneError:
                service.metrics.refused.labels(self.operation, "client-gone").inc()
                return _Silence()
            except Exception as error:
                self.tell_refusal(error)
                return self.refusal(error, service.metrics)

        endpoint.__name__ = endpoint.__qualname__ = self.operation
        return endpoint

    def refusal(self, error: Exception, metrics: Metrics) -> Response:
        """Count an error, and answer with it."""
        metrics.refused.labels(self.operation, name_of(error)).inc()
        return plain_problem(error) if self.is_plain else problem(error)

    def tell_refusal(self, error: Exception) -> None:
        """Log an error."""
        status = status_of(error)
        fields = {"problem": name_of(error), "status": status}
        if status < 500:
            # The message may quote input, even a secret: only the kind and the line number are logged.
            place = f" line={error.line}" if isinstance(error, InputError) and error.line else ""
            tell(logging.INFO, self.operation, f"refused={name_of(error)}{place}", fields)
        elif isinstance(error, EventferryError) and status == 503:
            tell(logging.WARNING, self.operation, f"refused={name_of(error)}: {error}", fields)
        elif "secrets" in self.scopes:  # nothing of them may appear in a log, not even in an error's message
            where = "".join(traceback.format_tb(error.__traceback__))
            tell(logging.ERROR, self.operation, f"failed={type(error).__name__}\n{where}", fields)
        else:
            tell(logging.ERROR, self.operation, f"failed={type(error).__name__}", fields, error)


def answers(
    what: str,
    shape: type | None = None,
    *,
    status: int = 200,
    media_type: str = JSON,
    headers: Mapping[str, str] | None = None,
    stream: str | None = None,
) -> Callable[[Callable[[Call[Q]], Awaitable[Any]]], Answer[Q]]:
    """Decorator that describes the answer of a function. The arguments are those of `Answer`."""
    return lambda function: Answer(function, what, shape, status, media_type, headers or {}, stream)


def route(
    method: str,
    path: str,
    *scopes: Scope,
    refuses: Sequence[int] = (),
    body: Body | None = None,
    headers: Mapping[str, str] | None = None,
    is_import: bool = False,
    is_plain: bool = False,
) -> Callable[[Answer[Q]], Handler[Q]]:
    """Decorator that makes a handler of an answer. The arguments are those of `Handler`."""
    refusals = (*refuses, *(() if body is None else _OF_A_BODY))
    return lambda answer: Handler(method, path, scopes, answer, refusals, body, headers, is_import, is_plain)


_OF_A_BODY = (408, 413, 415, 422)


class _Silence(Response):
    """The response to a client that has disconnected: nothing."""

    def __init__(self) -> None:
        super().__init__(status_code=CLIENT_GONE)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send nothing."""


class JsonResponse(Response):
    """A value as JSON, with exact numbers."""

    media_type = JSON

    def __init__(self, value: Any, status: int = 200) -> None:
        super().__init__(_ENCODER.encode(value), status, {"Cache-Control": "no-store"})


_ENCODER = msgspec.json.Encoder(decimal_format="number")
