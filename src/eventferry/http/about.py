"""Handlers about the service itself: health, metrics, its description."""

from __future__ import annotations

from starlette.responses import Response

from eventferry import StoreNotFoundError
from eventferry.http import metrics
from eventferry.http.handling import Call, Handler, JsonResponse, NoQuery


async def _healthz(call: Call[NoQuery]) -> Response:
    if not await call.service.is_there():
        raise StoreNotFoundError("there is no store")
    return JsonResponse({"status": "ok"})


async def _metrics(call: Call[NoQuery]) -> Response:
    return Response(
        call.service.metrics.text(), headers={"Content-Type": metrics.MEDIA_TYPE, "Cache-Control": "no-store"}
    )


async def _openapi(call: Call[NoQuery]) -> Response:
    from eventferry.http.openapi import description  # made of the table of routes, which this is in

    service = call.service
    return JsonResponse(
        description(
            call.request.scope.get("root_path", ""),
            with_tokens=service.has_tokens,
            with_exchange=service.exchange_dir is not None,
        )
    )


async def _docs(call: Call[NoQuery]) -> Response:
    from eventferry.http.openapi import page

    return Response(
        page(with_tokens=call.service.has_tokens, with_exchange=call.service.exchange_dir is not None),
        media_type="text/html",
        # Nothing is loaded from anywhere, and nothing runs: a token is in the hands of whoever reads this.
        headers={
            "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
            "X-Content-Type-Options": "nosniff",
        },
    )


healthz_handler = Handler("healthz", NoQuery, _healthz)
metrics_handler = Handler("metrics", NoQuery, _metrics)
openapi_handler = Handler("openapi", NoQuery, _openapi)
docs_handler = Handler("docs", NoQuery, _docs)
