"""The console as part of a service: its table of pages, and what they share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from eventferry import EventStore, Mask, Repository
from eventferry.console import (
    checks,
    downloads,
    events,
    following,
    operations,
    overview,
    searching,
    signing_in,
)
from eventferry.console.assets import asset_page
from eventferry.console.counts import Counts
from eventferry.console.examining import Examinations
from eventferry.console.page import ROOT, ConsolePage, View, place, refusal
from eventferry.console.rendering import HEADERS, Rendering
from eventferry.console.sessions import Sessions, Visitor
from eventferry.http.guards import Guards
from eventferry.http.handling import Service
from eventferry.http.problems import RefusedError
from eventferry.http.watch import record_of

PAGES: tuple[ConsolePage[Any], ...] = (
    overview.overview_page,
    overview.chart_page,
    overview.types_page,
    overview.aggregates_page,
    events.events_page,
    events.event_page,
    events.aggregate_page,
    searching.search_page,
    searching.trace_page,
    downloads.download_page,
    following.follow_page,
    following.follow_rows_page,
    operations.operations_page,
    operations.ask_freeze_page,
    operations.freeze_page,
    operations.ask_unfreeze_page,
    operations.unfreeze_page,
    operations.ask_rollback_page,
    operations.rollback_page,
    checks.checks_page,
    checks.ask_examine_page,
    checks.examine_page,
    checks.cancel_examination_page,
    signing_in.sign_in_page,
    signing_in.enter_page,
    signing_in.sign_out_page,
    asset_page,
)


class Console:
    """The pages of a service.

    Args:
        service: whose store is shown.
        guards: of the service.
        repositories: backups that are shown.
        sources: of syncs into the store, which are asked how far behind these are.
        mask: what of payloads is not shown.
    """

    def __init__(
        self,
        service: Service,
        guards: Guards,
        repositories: Sequence[Repository],
        sources: Sequence[EventStore],
        mask: Mask,
    ) -> None:
        self.service = service
        self.guards = guards
        self.repositories = repositories
        self.sources = sources
        self.mask = mask
        self.sessions = Sessions(guards)
        self.examinations = Examinations(service.leaving)
        self.counts = Counts()
        self._rendering = Rendering()

    def routes(self) -> list[Route]:
        """The routes of the pages, and one for what is none."""
        places = [
            Route(form, _Path([page for page in PAGES if page.path == path], self))
            for path in dict.fromkeys(page.path for page in PAGES)
            for form in (ROOT + path, f"{ROOT}{path}/")
        ]
        return [Route("/", _Root()), *places, Route(ROOT + "/{rest:path}", _Path([], self))]

    def is_for_person(self, request: Request) -> bool:
        """Whether a person with a browser is to read the answer to a request, and not a program."""
        return "text/html" in request.headers.get("accept", "")

    def sign_in(self, request: Request) -> Response:
        """Send the browser to the form for signing in."""
        return RedirectResponse(place(request, "/sign-in"), 303)

    def markup(self, request: Request, visitor: Visitor | None, view: View) -> str:
        """A page, or a part of one, as markup."""
        return self._rendering.text(request, visitor, self.sessions.form_key(visitor), view)

    def rendered(self, request: Request, visitor: Visitor | None, view: View) -> Response:
        """A page as a response to a request."""
        return Response(self.markup(request, visitor, view), view.status, HEADERS, media_type="text/html")


class _Root:
    """The root of the host: a person who knows no more of a service than its host is led to the console."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        await RedirectResponse(place(Request(scope), ""), 303)(scope, receive, send)


class _Path:
    """All pages of one path, one per method, as an ASGI application."""

    def __init__(self, pages: Sequence[ConsolePage[Any]], console: Console) -> None:
        self._console = console
        self._answers = {page.method: partial(page.answer, console) for page in pages}
        if "GET" in self._answers:
            self._answers["HEAD"] = self._answers["GET"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        request = Request(scope, receive, send)
        answer = self._answers.get(scope["method"], self._refused)
        response = await answer(request)
        await response(scope, receive, send)

    async def _refused(self, request: Request) -> Response:
        record_of(request.scope).route = ROOT
        try:
            self._console.guards.check_source(request.scope, changes=False)
            visitor = self._console.sessions.visitor(request)
        except RefusedError as error:
            return refusal(self._console, request, None, error)
        wrong = (
            RefusedError(405, "method-not-allowed", "this page cannot be asked for in this way")
            if self._answers
            else RefusedError(404, "not-found", "there is no such page")
        )
        return refusal(self._console, request, visitor, wrong)
