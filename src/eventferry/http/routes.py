"""The table of routes, and the routes about the service itself: health, metrics and descriptions.

The routes of the application, their guards, the OpenAPI description and the documentation page are all made from it.
"""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.responses import Response

from eventferry import StoreNotFoundError
from eventferry.http import appends, events, exchange, following, imports, openapi, parts, secrets
from eventferry.http.handling import Call, Query
from eventferry.http.metrics import MEDIA_TYPE as METRICS
from eventferry.http.route import HTML, Handler, answers, route


class HealthAnswer(msgspec.Struct):
    """The health of the service."""

    status: str


@route("GET", "/healthz")
@answers("The store answers.", HealthAnswer)
async def healthz_handler(call: Call[Query]) -> HealthAnswer:
    """Check that the store answers."""
    if not await call.service.is_there():
        raise StoreNotFoundError("there is no store")
    return HealthAnswer("ok")


@route("GET", "/metrics", "read")
@answers("The metrics.", media_type=METRICS)
async def metrics_handler(call: Call[Query]) -> Response:
    """Get metrics for Prometheus."""
    await call.service.note_syncs()
    return Response(
        call.service.metrics.text(), headers={"Content-Type": METRICS, "Cache-Control": "no-store"}
    )


@route("GET", "/openapi.json")
@answers("OpenAPI 3.1.", dict)
async def openapi_handler(call: Call[Query]) -> dict[str, Any]:
    """Get this description."""
    root_path = call.request.scope.get("root_path", "")
    return openapi.description(_present(call), root_path, with_tokens=call.service.has_tokens)


@route("GET", "/docs")
@answers("A page.", media_type=HTML)
async def docs_handler(call: Call[Query]) -> Response:
    """Get this description for people."""
    return Response(
        openapi.page(
            _present(call), with_tokens=call.service.has_tokens, with_console=call.service.has_console
        ),
        media_type="text/html",
        # The page loads nothing and runs nothing: its readers may hold a token.
        headers={
            "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
            "X-Content-Type-Options": "nosniff",
        },
    )


def _present(call: Call[Query]) -> list[Handler[Any]]:
    """The routes of this service: those of reSolve's client may be off."""
    return [each for each in ROUTES if call.service.exchange_dir is not None or not each.is_plain]


ROUTES: tuple[Handler[Any], ...] = (
    events.describe_handler,
    events.events_handler,
    events.bookmark_handler,
    events.save_handler,
    appends.append_handler,
    appends.aggregate_handler,
    events.export_handler,
    following.follow_handler,
    imports.import_handler,
    imports.import_progress_handler,
    imports.incremental_import_handler,
    imports.begin_handler,
    imports.part_handler,
    imports.commit_handler,
    imports.rollback_handler,
    parts.begin_import_handler,
    parts.push_import_handler,
    parts.commit_import_handler,
    parts.rollback_import_handler,
    events.freeze_handler,
    events.unfreeze_handler,
    secrets.secrets_handler,
    secrets.import_secrets_handler,
    healthz_handler,
    metrics_handler,
    openapi_handler,
    docs_handler,
    exchange.exchange_export_handler,
    exchange.exchange_import_handler,
    exchange.exchange_incremental_import_handler,
    exchange.exchange_freeze_handler,
    exchange.exchange_unfreeze_handler,
)
