"""Handlers about the service itself: health, metrics and descriptions."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.responses import Response

from eventferry import StoreNotFoundError
from eventferry.http import metrics
from eventferry.http.handling import Call, Handler, JsonResponse, NoQuery
from eventferry.http.openapi import description, page
from eventferry.http.route import Route


async def _healthz(call: Call[NoQuery]) -> Response:
    if not await call.service.is_there():
        raise StoreNotFoundError("there is no store")
    return JsonResponse({"status": "ok"})


async def _metrics(call: Call[NoQuery]) -> Response:
    return Response(
        call.service.metrics.text(), headers={"Content-Type": metrics.MEDIA_TYPE, "Cache-Control": "no-store"}
    )


async def openapi(call: Call[NoQuery], routes: Sequence[Route]) -> Response:
    """Answer with the OpenAPI description of the routes."""
    root_path = call.request.scope.get("root_path", "")
    return JsonResponse(description(_present(call, routes), root_path, with_tokens=call.service.has_tokens))


async def docs(call: Call[NoQuery], routes: Sequence[Route]) -> Response:
    """Answer with the description of the routes as a page."""
    return Response(
        page(_present(call, routes), with_tokens=call.service.has_tokens),
        media_type="text/html",
        # The page loads nothing and runs nothing: its readers may hold a token.
        headers={
            "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
            "X-Content-Type-Options": "nosniff",
        },
    )


def _present(call: Call[NoQuery], routes: Sequence[Route]) -> list[Route]:
    """The routes of this service: those of reSolve's client may be off."""
    return [route for route in routes if call.service.exchange_dir is not None or not route.is_plain]


healthz_handler = Handler("healthz", NoQuery, _healthz)
metrics_handler = Handler("metrics", NoQuery, _metrics)
