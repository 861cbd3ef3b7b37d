"""Pages: declared where the function stands that makes them.

    @page("GET", "/event", "read")
    async def event_page(visit: Visit[EventQuery]) -> View:
        'One event.'

What pages share is done here: the visitor is known and may see the page, parameters are checked, a form is one of this
visitor, errors become pages, and everything is counted and logged as the service's routes are.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Generic, Protocol, TypeAlias, TypeVar, get_args
from urllib.parse import quote, urlencode

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from eventferry import Event, EventferryError, EventStore, Mask, Repository
from eventferry.console.counts import Counts
from eventferry.console.examining import Examinations
from eventferry.console.sessions import Sessions, Visitor
from eventferry.http.bodies import CLIENT_GONE, ClientGoneError, request_text
from eventferry.http.guards import Guards
from eventferry.http.handling import Query, Service, tell
from eventferry.http.limits import Limits
from eventferry.http.parameters import parsed_query
from eventferry.http.problems import RefusedError, message_of, name_of, status_of
from eventferry.http.tokens import Scope
from eventferry.http.watch import record_of
from eventferry.operation_log import told_elsewhere

ROOT = "/console"
"""Where the console is in the service."""

_FORM_BYTES = 64 * 1024
_FORM_TYPE = "application/x-www-form-urlencoded"

Q = TypeVar("Q", bound=msgspec.Struct)
T = TypeVar("T")


class Form(Query, kw_only=True):
    """The fields of a form. `form_key` shows that it came from a page of the same visitor."""

    form_key: str


@dataclass(frozen=True, slots=True)
class View:
    """A page that is to be rendered.

    Attributes:
        template: the name of its template.
        values: what the template shows.
        status: of the answer.
    """

    template: str
    values: Mapping[str, Any] = field(default_factory=dict)
    status: int = 200


PageAnswer: TypeAlias = View | Response


class House(Protocol):
    """What the pages of a console share (`app.Console`)."""

    service: Service
    guards: Guards
    sessions: Sessions
    repositories: Sequence[Repository]
    sources: Sequence[EventStore]
    mask: Mask
    examinations: Examinations
    counts: Counts

    def markup(self, request: Request, visitor: Visitor | None, view: View) -> str:
        """A page, or a part of one, as markup."""

    def rendered(self, request: Request, visitor: Visitor | None, view: View) -> Response:
        """A page as a response to a request."""


@dataclass(frozen=True, slots=True)
class Visit(Generic[Q]):
    """One request for one page.

    Attributes:
        request: the request.
        given: its parameters, of the query or of the form.
        visitor: who sent it; None if nobody has signed in, which only pages for everybody see.
        house: what the pages share.
        operation: the name of the page, for metrics and logs.
    """

    request: Request
    given: Q
    visitor: Visitor | None
    house: House
    operation: str

    @property
    def store(self) -> EventStore:
        """The store that is looked at."""
        return self.house.service.store

    def masked(self, events: Iterable[Event]) -> list[Event]:
        """Events as a screen may show them."""
        return list(map(self.house.mask.event, events))

    async def counted(self, count: Callable[[], Awaitable[T]]) -> T:
        """What this page counts; who asks for the same page gets the same count for some seconds."""
        return await self.house.counts.of((self.operation, msgspec.json.encode(self.given)), count)

    def to(self, path: str, /, **query: Any) -> Response:
        """Send the browser to another page."""
        return RedirectResponse(place(self.request, path, **query), HTTPStatus.SEE_OTHER)


def place(request: Request, path: str, /, **query: Any) -> str:
    """The path of a page, from the root of the host on, with these parameters. Those that are None are left out."""
    given = [
        (name, item)
        for name, value in query.items()
        for item in (value if isinstance(value, list | tuple) else [value])
        if item is not None
    ]
    found = quote(request.scope.get("root_path", "")) + ROOT + path
    return f"{found}?{urlencode(given)}" if given else found


@dataclass(frozen=True, slots=True)
class ConsolePage(Generic[Q]):
    """A page, or what a form of a page does.

    Attributes:
        method: GET, or POST for a form.
        path: in the console.
        scope: the scope that the visitor's token must have; None if everybody may see the page.
        function: makes the page.
    """

    method: str
    path: str
    scope: Scope | None
    function: Callable[[Visit[Q]], Awaitable[PageAnswer]]

    @property
    def operation(self) -> str:
        """Its name, for metrics and logs."""
        return "console-" + self.function.__name__.removesuffix("_page").replace("_", "-")

    @property
    def shape(self) -> type[Q]:
        """The type of its parameters."""
        [shape] = get_args(inspect.get_annotations(self.function, eval_str=True)["visit"])
        return shape  # type: ignore[no-any-return]

    async def answer(self, house: House, request: Request) -> Response:
        """Answer a request with the page, or with a page that tells why not."""
        record_of(request.scope).route, record_of(request.scope).operation = ROOT + self.path, self.operation
        visitor = None
        try:
            house.guards.check_source(request.scope, changes=self.method == "POST")
            visitor = house.sessions.visitor(request)
            if self.scope is not None:
                if visitor is None:
                    return _to_sign_in(request)
                await house.guards.admit(request.scope, lambda: visitor.name)
                if self.scope not in visitor.scopes:
                    how = "" if visitor.session else "; the service takes none without --tokens FILE"
                    raise RefusedError(
                        403, "scope-too-small", f"a token with the scope {self.scope} is needed{how}"
                    )
            with told_elsewhere():
                given = await self._given(house, request, visitor)
                answer = await self.function(Visit(request, given, visitor, house, self.operation))
                return answer if isinstance(answer, Response) else house.rendered(request, visitor, answer)
        except ClientGoneError:
            house.service.metrics.refused.labels(self.operation, "client-gone").inc()
            return Response(status_code=CLIENT_GONE)
        except Exception as error:
            self._tell(error)
            house.service.metrics.refused.labels(self.operation, name_of(error)).inc()
            return refusal(house, request, visitor, error)

    async def _given(self, house: House, request: Request, visitor: Visitor | None) -> Q:
        if self.method != "POST":
            return parsed_query(request.scope["query_string"], self.shape)
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM_TYPE:
            raise RefusedError(415, "unsupported-media-type", f"a form must come as {_FORM_TYPE}")
        timeout = house.service.limits.timeout
        limits = Limits(max_body_bytes=_FORM_BYTES, max_unpacked_bytes=_FORM_BYTES, timeout=timeout)
        given = parsed_query(await request_text(request, limits), self.shape)
        assert isinstance(given, Form), "what a form does takes a form"  # noqa: S101
        # The form for signing in is of nobody's session yet.
        senders = {visitor} if self.scope is not None else {visitor, None}
        if not any(house.sessions.is_form_key(given.form_key, each) for each in senders):
            raise RefusedError(
                403,
                "old-form",
                "this form is of an earlier session: open the page again, and repeat what you did",
            )
        return given

    def _tell(self, error: Exception) -> None:
        status, name = status_of(error), name_of(error)
        level = logging.INFO if status < 500 else logging.WARNING if status == 503 else logging.ERROR
        is_known = isinstance(error, EventferryError)
        # The message of an error below 500 may quote input.
        what = f"refused={name}" + (f": {error}" if is_known and status == 503 else "")
        tell(
            level,
            self.operation,
            what,
            {"problem": name, "status": status},
            None if status < 500 or is_known else error,
        )


def page(
    method: str, path: str, scope: Scope | None
) -> Callable[[Callable[[Visit[Q]], Awaitable[PageAnswer]]], ConsolePage[Q]]:
    """Decorator that makes a page of a function. The arguments are those of `ConsolePage`."""
    return lambda function: ConsolePage(method, path, scope, function)


def refusal(house: House, request: Request, visitor: Visitor | None, error: Exception) -> Response:
    """A page that tells why a request failed."""
    status = status_of(error)
    values = {"status": status, "phrase": HTTPStatus(status).phrase, "reason": message_of(error)}
    response = house.rendered(request, visitor, View("refusal.html", values, status))
    if isinstance(error, RefusedError):
        response.headers.update(
            {name: value for name, value in error.headers.items() if name == "Retry-After"}
        )
    return response


def _to_sign_in(request: Request) -> Response:
    """Send the browser to the form for signing in, and from there back. What a script asks for is no page to go to."""
    if "hx-request" in request.headers:
        return Response(status_code=401, headers={"HX-Redirect": place(request, "/sign-in")})
    back = None
    if request.method in ("GET", "HEAD"):
        with suppress(UnicodeDecodeError):
            query = request.scope["query_string"].decode("ascii")
            back = request.scope["path"].partition(ROOT)[2] + (f"?{query}" if query else "")
    return RedirectResponse(place(request, "/sign-in", back=back or None), HTTPStatus.SEE_OTHER)
