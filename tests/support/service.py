"""The service as the tests call it: in this process where that is faithful, else as a server of its own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx

from eventferry import EventStore, open_store
from eventferry.http import create_app
from tests.support import import_lines, line, make_event
from tests.support.cli import COMMAND, environment, hear_signals

URL = "http://127.0.0.1"
START_SECONDS = 30


@asynccontextmanager
async def opened(folder: Path, events: int | bytes = 0, **options: Any) -> AsyncIterator[EventStore]:
    """A store with so many of `make_event`, or with these lines."""
    async with open_store(f"sqlite:///{folder}/store.db", **options) as store:
        if not await store.exists():
            await store.init()
        lines = events if isinstance(events, bytes) else lines_of(events)
        if lines:
            await import_lines(store, lines)
        yield store


@asynccontextmanager
async def client_of(store: EventStore, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a store's application, in this process; without tokens, unless they are given, and asking for
    nothing packed."""
    app = create_app(store, **({"insecure": "tokens" not in options} | options))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(
        transport=transport, base_url=URL, timeout=60, headers={"Accept-Encoding": "identity"}
    ) as client:
        yield client


@asynccontextmanager
async def service(
    folder: Path, events: int | bytes = 0, **options: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, EventStore]]:
    """A store and a client of its application."""
    async with opened(folder, events) as store, client_of(store, **options) as client:
        yield client, store


class Server:
    """`eventferry serve` as a process of its own.

    Attributes:
        url: where it is.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log
        self.url = ""

    @property
    def log(self) -> str:
        """What it has said so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def wait_until_it_serves(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not (found := re.search(r"serving .* on (https?://\S+) ", self.log)):
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)
        self.url = found[1]
        with httpx.Client(verify=False) as client:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    client.get(f"{self.url}/healthz")
                    return
                assert time.monotonic() < deadline, self.log
                time.sleep(0.02)

    def client(self, **options: Any) -> httpx.Client:
        """A client of it; what it gets is not packed, unless it asks for that."""
        headers = {"Accept-Encoding": "identity"} | dict(options.pop("headers", {}))
        return httpx.Client(base_url=self.url, timeout=60, headers=headers, **options)

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def ended(self, patience: float = 60) -> int:
        """Its exit status, when it has ended."""
        return self.process.wait(patience)

    def peak_memory(self) -> int:
        """The most memory, in bytes, that it has had so far."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", text)
        assert found is not None
        return int(found[1]) * 1024


@contextmanager
def serving(
    store: str,
    folder: Path,
    *words: str,
    env: Mapping[str, str] | None = None,
    prepare: Callable[[], None] = hear_signals,
) -> Iterator[Server]:
    """A server of a store on a free port; it does not outlive the test. `prepare` runs in its process at the start."""
    log = folder / f"serve-{time.monotonic_ns()}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*COMMAND, "serve", store, "--port", "0", *words],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=environment() if env is None else dict(env),
            preexec_fn=prepare,
        )
        server = Server(process, log)
        try:
            server.wait_until_it_serves()
            yield server
        finally:
            process.kill()
            process.wait()


def lines_of(events: int | Iterable[Mapping[str, Any]]) -> bytes:
    """Lines of so many of `make_event`, or of these."""
    return b"".join(map(line, map(make_event, range(events)) if isinstance(events, int) else events))


def problem_of(response: httpx.Response) -> dict[str, Any]:
    """The problem that an answer tells; it must be one, and agree with its status."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    told: dict[str, Any] = json.loads(response.content)
    assert told["status"] == response.status_code
    assert told["type"].startswith("urn:eventferry:")
    assert told["title"]
    assert told["detail"]
    return told


def new_event(number: int, **changes: Any) -> dict[str, Any]:
    """An event without a position, later than all of `make_event`."""
    return {
        "type": "ADDED",
        "timestamp": 1_700_000_000_000 + number,
        "aggregateId": f"added-{number % 7}",
        "payload": {"number": number},
    } | changes


def environ(**changes: str) -> dict[str, str]:
    """The environment of a process, with changes."""
    return dict(os.environ) | changes
