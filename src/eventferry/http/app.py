"""The ASGI application: the table of routes, each behind its guards."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute
from starlette.types import Receive, Scope, Send

from eventferry import EventStore, Mask, Repository, UsageError
from eventferry.http.appends import KEY_HEADER
from eventferry.http.events import BOOKMARK_HEADER, CURSOR_HEADER
from eventferry.http.following import LAST_ID
from eventferry.http.guards import Guards, Rate, Sources
from eventferry.http.handling import Service
from eventferry.http.limits import Limits
from eventferry.http.metrics import Metrics
from eventferry.http.problems import RefusedError, problem
from eventferry.http.route import Handler
from eventferry.http.routes import ROUTES
from eventferry.http.tokens import TokenFile, Tokens
from eventferry.http.watch import Watch, record_of

if TYPE_CHECKING:
    from eventferry.console.app import Console


def create_app(
    store: EventStore,
    *,
    tokens: Tokens | str | os.PathLike[str] | None = None,
    insecure: bool = False,
    exchange_dir: str | os.PathLike[str] | None = None,
    limits: Limits | None = None,
    rate: str | None = None,
    allowed_hosts: Collection[str] = (),
    allowed_origins: Collection[str] = (),
    console: bool = False,
    repositories: Sequence[Repository] = (),
    sources: Sequence[EventStore] = (),
    mask: Mask | None = None,
) -> Starlette:
    """The service of a store as an ASGI application, to be served or mounted in another one.

    The application does not close the store; that remains the caller's task.

    Args:
        store: the store.
        tokens: the token file, or its path; clients must present a token.
        insecure: must be True to run without tokens: then everybody who can connect may do everything, by the routes;
            the pages of the console only read.
        exchange_dir: the directory where reSolve's own client may name files; without it, its routes are off.
        limits: limits on bodies, concurrent imports and waiting times.
        rate: limit of requests per token (without tokens, per address), such as `100/minute`.
        allowed_hosts: host names of the service, besides the loopback names.
        allowed_origins: web sites whose pages may call the service, such as `https://admin.example`.
        console: serve pages for people too, at `/console`; see docs/console.md.
        repositories: backups that the console shows.
        sources: stores that are synced into this one: the console shows how far behind it is. They are not closed.
        mask: what of payloads the console does not show; None: secrets.

    Raises:
        UsageError: neither `tokens` nor `insecure` is given, or the directory or rate is not valid.
        EventferryError: the token file cannot be used.
    """
    if (tokens is None) != insecure:
        raise UsageError(
            "give tokens, or insecure=True if everybody who can connect may do everything; one of the two"
        )
    known = TokenFile(tokens) if isinstance(tokens, str | os.PathLike) else tokens
    if known is not None:
        known.tokens()  # fail now, not at the first request
    folder = None if exchange_dir is None else Path(exchange_dir).resolve()
    if folder is not None and not folder.is_dir():
        raise UsageError(f"the exchange directory {folder} does not exist")
    service = Service(
        store, limits or Limits(), Metrics(), folder, has_tokens=known is not None, has_console=console
    )
    guards = Guards(Sources.of(allowed_hosts, allowed_origins), known, Rate(rate) if rate else None)
    pages = None
    if console:
        from eventferry.console.app import Console  # it loads a template engine, which nobody else needs

        pages = Console(service, guards, repositories, sources, mask or Mask())
    app = Starlette(
        routes=[*_places(service, guards, pages), *([] if pages is None else pages.routes())],
        middleware=_middleware(service.metrics, allowed_origins),
        exception_handlers={HTTPException: _not_routed},
    )
    app.state.leaving = service.leaving
    app.router.redirect_slashes = False  # a request with a body should not be redirected
    return app


def _middleware(metrics: Metrics, allowed_origins: Collection[str]) -> list[Middleware]:
    watch = Middleware(Watch, metrics=metrics)
    if not allowed_origins:
        return [watch]
    headers = ["Authorization", "Content-Type", "Content-Encoding", KEY_HEADER, LAST_ID, "traceparent"]
    sharing = Middleware(
        CORSMiddleware,
        allow_origins=list(allowed_origins),
        allow_methods=sorted({route.method for route in ROUTES}),
        allow_headers=headers,
        expose_headers=[CURSOR_HEADER, BOOKMARK_HEADER, "Retry-After", "traceparent"],
    )
    return [watch, sharing]


def _places(service: Service, guards: Guards, pages: Console | None) -> list[StarletteRoute]:
    """The paths of the service. Litestar appends a slash to the path of a mounted application."""
    places: list[StarletteRoute] = []
    for path in dict.fromkeys(route.path for route in ROUTES):
        routes = _Path([route for route in ROUTES if route.path == path], service, guards, pages)
        places += [StarletteRoute(path, routes), StarletteRoute(f"{path}/", routes)]
    return places


async def _not_routed(request: Request, error: Exception) -> Response:
    """An error of the router, as a problem."""
    if not isinstance(error, HTTPException):
        raise error
    return problem(RefusedError(error.status_code, "not-found", error.detail, error.headers))


class _Path:
    """All routes of one path, one per method, as an ASGI application."""

    def __init__(
        self, routes: Sequence[Handler[Any]], service: Service, guards: Guards, console: Console | None
    ) -> None:
        self._routes = {route.method: route for route in routes}
        self._endpoints = {route.method: route.bound(service) for route in routes}
        self._metrics = service.metrics
        self._guards = guards
        self._console = console
        if (read := self._routes.get("GET")) is not None and not read.changes:
            self._routes["HEAD"], self._endpoints["HEAD"] = read, self._endpoints["GET"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        method = scope["method"]
        route = self._routes.get(method)
        if route is None:
            record_of(scope).route = next(iter(self._routes.values())).path
            response = self._without_route(method)
        else:
            response = await self._answer(route, Request(scope, receive, send))
        await response(scope, receive, send)

    async def _answer(self, route: Handler[Any], request: Request) -> Response:
        scope = request.scope
        record_of(scope).route, record_of(scope).operation = route.path, route.operation
        try:
            await self._guards.check(scope, route.scopes, changes=route.changes, basic=route.is_plain)
        except RefusedError as error:
            if error.status == 401 and self._console is not None and self._console.is_for_person(request):
                return self._console.sign_in(request)
            return route.refusal(error, self._metrics)
        return await self._endpoints[scope["method"]](request)

    def _without_route(self, method: str) -> Response:
        allow = {"Allow": ", ".join(sorted({*self._routes, "OPTIONS"}))}
        if method == "OPTIONS":
            return Response(status_code=204, headers=allow)
        return problem(
            RefusedError(405, "method-not-allowed", f"this route does not support {method[:20]}", allow)
        )
