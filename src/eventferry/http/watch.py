"""Logs, counts and traces every request. The access log contains no query, token or body."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eventferry.http import tracing
from eventferry.http.bodies import CLIENT_GONE
from eventferry.http.metrics import Metrics
from eventferry.http.problems import RefusedError, problem

log = logging.getLogger("eventferry.http.access")

_RECORD = "eventferry.record"


@dataclass(slots=True)
class RequestRecord:
    """What becomes known about a request while it is answered.

    Attributes:
        route: the path template of its route; empty if there is none.
        user: the name of its token.
        cut: whether the answer is incomplete: it was cut, or the client disconnected before it.
    """

    route: str = ""
    operation: str = ""
    user: str = ""
    status: int = CLIENT_GONE
    cut: bool = True
    bytes_in: int = 0
    bytes_out: int = 0


def record_of(scope: Scope) -> RequestRecord:
    """The record of a request."""
    return cast(RequestRecord, scope.setdefault(_RECORD, RequestRecord()))


class Watch:
    """The outermost middleware of a service."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and log it when it has ended."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = scope[_RECORD] = RequestRecord()
        headers = Headers(scope=scope)
        trace = tracing.enter(headers.get(tracing.HEADER), headers.get(tracing.STATE_HEADER))
        start = time.perf_counter()

        async def counted_receive() -> Message:
            message = await receive()
            record.bytes_in += len(message.get("body", b""))
            return message

        async def counted_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                MutableHeaders(scope=message)[tracing.HEADER] = trace.parent
            await send(message)
            record.bytes_out += len(message.get("body", b""))
            record.cut = message["type"] != "http.response.body" or message.get("more_body", False)

        app = self._app
        if (refusal := _unclear_length(scope, headers)) is not None:
            app = problem(refusal)
        try:
            await app(scope, counted_receive, counted_send)
        finally:
            self._tell(scope, record, trace, time.perf_counter() - start)

    def _tell(self, scope: Scope, record: RequestRecord, trace: tracing.Trace, seconds: float) -> None:
        metrics = self._metrics
        # Requests for unknown routes or methods must not create new time series.
        method = scope["method"] if record.operation else ""
        metrics.requests.labels(method, record.route, record.status).inc()
        if record.operation:
            metrics.bytes.labels(record.operation, "in").inc(record.bytes_in)
            metrics.bytes.labels(record.operation, "out").inc(record.bytes_out)
            metrics.seconds.labels(record.operation).observe(seconds)
        client = scope.get("client") or ("",)
        fields: dict[str, Any] = {
            "method": scope["method"],
            # As received: it contains no line feed with which a log line could be forged.
            "path": (scope.get("raw_path") or quote(scope["path"]).encode()).decode(
                "ascii", "backslashreplace"
            ),
            "route": record.route,
            "operation": record.operation,
            "status": record.status,
            "cut": record.cut,
            "seconds": round(seconds, 6),
            "bytes_in": record.bytes_in,
            "bytes_out": record.bytes_out,
            "client": client[0],
            "user": record.user,
            **tracing.fields(trace),
        }
        log.info(" ".join(f"{name}={_word(value)}" for name, value in fields.items()), extra=fields)


def _unclear_length(scope: Scope, headers: Headers) -> RefusedError | None:
    """The error if the length of a request is ambiguous: a proxy might see one request where this service sees two."""
    coded, lengths = headers.getlist("transfer-encoding"), set(headers.getlist("content-length"))
    if coded and lengths:
        detail = "a request must not have both Content-Length and Transfer-Encoding"
    elif coded and scope.get("http_version") == "1.0":
        detail = "a request of HTTP/1.0 must not have Transfer-Encoding"
    elif len(lengths) > 1:
        detail = "a request must have only one Content-Length"
    else:
        return None
    return RefusedError(400, "unclear-length", detail, {"Connection": "close"})


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value).replace(" ", "%20") or "-"
