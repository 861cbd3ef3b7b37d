"""Serves an application with uvicorn, and shuts down gracefully.

At the first signal, new requests are refused, and running ones may finish: an export with its last event, an import
with its swap. Those that take too long are cut: an export inside an event, so that nobody takes it for complete; an
import without a trace. A second signal cuts them at once.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import re
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import ceil
from types import FrameType
from typing import Any

import h11
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import HANDLED_SIGNALS

from eventferry.errors import EventferryError
from eventferry.http.streams import CutError

log = logging.getLogger("eventferry.http")

DEFAULT_GRACE = 20.0
"""Seconds that requests may run after the first signal: less than Kubernetes (30) and systemd (90) allow."""

_KEEP_ALIVE = 30
_UNDO_SECONDS = 5.0
"""Seconds for cut requests to undo their work. Together with the grace, still less than Kubernetes allows."""

_ENDS = (*HANDLED_SIGNALS, signal.SIGHUP)
"""Signals that end the service; a terminal that is closed sends SIGHUP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """The settings of a server, as the options of `eventferry serve`."""

    host: str = "127.0.0.1"
    port: int = 8080
    tls_cert: str | None = None
    tls_key: str | None = None
    timeout: float = 60.0
    grace: float = DEFAULT_GRACE
    trusted_proxies: tuple[str, ...] = ()


def is_loopback(host: str) -> bool:
    """Whether a service on this address can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(serving: Serving) -> socket.socket:
    """Create the listening socket. Raises EventferryError if that is not possible."""
    try:
        family, *_, address = socket.getaddrinfo(
            serving.host, serving.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                # The operating system, too, gives up on a client that receives nothing.
                listener.setsockopt(
                    socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(serving.timeout * 1000)
                )
            listener.bind(address)
            listener.set_inheritable(False)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise EventferryError(
            f"cannot listen on {serving.host} port {serving.port}: {error.strerror or error}"
        ) from None
    return listener


def url_of(listener: socket.socket, serving: Serving) -> str:
    """The URL of a service."""
    scheme = "http" if serving.tls_cert is None else "https"
    host = f"[{serving.host}]" if ":" in serving.host else serving.host
    return f"{scheme}://{host}:{listener.getsockname()[1]}"


async def serve(app: Starlette, serving: Serving, listener: socket.socket) -> None:
    """Serve until a signal, and return when all requests have ended. The process must end after that, and is ended if
    it does not.

    Raises:
        EventferryError: the certificate or its key cannot be used.
    """
    config = uvicorn.Config(
        app,
        http=partial(_Connection, patience=serving.timeout),  # type: ignore[arg-type]
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(serving.trusted_proxies),
        forwarded_allow_ips=list(serving.trusted_proxies),
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=ceil(serving.grace),
        ssl_certfile=serving.tls_cert,
        ssl_keyfile=serving.tls_key,
    )
    try:
        config.load()
    except (ssl.SSLError, OSError) as error:
        raise EventferryError(f"the certificate or its key cannot be used: {error}") from None
    server = _Server(config, app.state.leaving)
    await server.serve(sockets=[listener])
    _end_process_in(_UNDO_SECONDS)
    # Cut requests are still undoing their work in the store, which must not be closed before.
    left = [task for task in server.server_state.tasks if not task.done()]
    if left:
        for task in left:
            task.cancel()
        await asyncio.wait(left)


def _end_process_in(seconds: float) -> None:
    """End the process after a while: if something still waits then, it waits for an unresponsive database."""

    def end() -> None:
        log.error("cut requests could not undo their work within %g seconds; it counts as absent", seconds)
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


_ABSOLUTE = re.compile(rb"https?://([^/?#]*)([^#]*)", re.IGNORECASE)


class _Requests(h11.Connection):
    """Reads requests from a connection, and normalizes the absolute form (`GET http://host/path`), which clients of
    proxies send: its host replaces the Host header (RFC 9112, 3.2.2).
    """

    def next_event(self) -> Any:
        """The next event, as in h11."""
        event = super().next_event()
        if not isinstance(event, h11.Request) or not (found := _ABSOLUTE.fullmatch(event.target)):
            return event
        host, path = found.groups()
        return h11.Request(
            method=event.method,
            headers=[(b"Host", host), *(pair for pair in event.headers if pair[0] != b"host")],
            target=path if path.startswith(b"/") else b"/" + path,
            http_version=event.http_version,
        )


class _Connection(H11Protocol):
    """A connection that may be without a request only for a while.

    uvicorn waits forever for the head of a request that does not arrive or arrives byte by byte, and keeps reading the
    body of a refused request. It also answers invalid HTTP with a 400 in the middle of another answer.

    Args:
        patience: seconds from connecting, or from the first byte after an answer, to the complete head of a request.
    """

    def __init__(self, *arguments: Any, patience: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.conn = _Requests(h11.SERVER)
        self._patience = patience
        self._due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._due = self.loop.call_later(self._patience, transport.close)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        is_idle = self.cycle is None or self.cycle.response_complete
        if not is_idle and self._due is not None:
            self._due.cancel()
            self._due = None
        elif is_idle and self._due is None:
            self._due = self.loop.call_later(self._patience, self.transport.close)

    def send_400_response(self, msg: str) -> None:
        """Answer invalid HTTP, unless another answer has begun, and stop reading."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # the running handler stops: its request will never be complete
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._due is not None:
            self._due.cancel()
        super().connection_lost(exc)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, leaving: asyncio.Event) -> None:
        super().__init__(config)
        self._leaving = leaving

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for running requests, but not for those that wait for events."""
        self._leaving.set()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGINT, SIGTERM and SIGHUP while serving, except those that were ignored when the process started:
        nohup and a shell's `&` do that. They are not raised again at the end."""
        before = {number: signal.getsignal(number) for number in _ENDS}
        handled = [number for number, handler in before.items() if handler != signal.SIG_IGN]
        for number in handled:
            signal.signal(number, self.handle_exit)
        try:
            yield
        finally:
            for number in handled:
                signal.signal(number, before[number])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal ends the service gracefully, the second one at once."""
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True


class _Expected(logging.Filter):
    """Suppresses uvicorn's messages about answers that were cut on purpose, which the service has logged already."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log a record."""
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, CutError | asyncio.CancelledError)


def log_to_stderr(level: int, formatter: logging.Formatter) -> None:
    """Send the logs of the service to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    handler.addFilter(_Expected())
    warnings = max(level, logging.WARNING)
    for name, threshold in (("eventferry.http", level), ("uvicorn.error", warnings), ("asyncio", warnings)):
        logger = logging.getLogger(name)
        logger.setLevel(threshold)
        logger.addHandler(handler)
        logger.propagate = False
