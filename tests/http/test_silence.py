"""A database that falls silent, as behind a lost network: the service answers for itself, and ends when told to."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from eventferry import open_store
from tests.support import import_lines, make_lines
from tests.support.places import Places
from tests.support.service import serving

pytestmark = pytest.mark.slow

RELAY = """
import asyncio, sys
async def pump(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
async def relay(reader, writer):
    there, out = await asyncio.open_connection(sys.argv[1], int(sys.argv[2]))
    await asyncio.gather(pump(reader, out), pump(there, writer), return_exceptions=True)
async def main():
    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


class Network:
    """What lies between a service and its database."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self._process = process
        self.url = url

    def silence(self) -> None:
        """Let nothing through any more: connections stay, and nothing comes."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)


@contextmanager
def network_to(url: str) -> Iterator[Network]:
    address = urlsplit(url)
    with subprocess.Popen(
        [sys.executable, "-c", RELAY, address.hostname or "", str(address.port)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        try:
            yield Network(process, url.replace(f":{address.port}/", f":{port}/"))
        finally:
            process.kill()


@pytest.fixture(params=["postgresql", "mariadb"])
def network(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Network]:
    async def made(url: str) -> None:
        async with open_store(url) as store:
            await store.init()
            await import_lines(store, make_lines(20_000))

    with Places(request.param, tmp_path) as places:
        url = places.new_url()
        asyncio.run(made(url))
        with network_to(url) as network:
            yield network


def test_the_health_of_a_service_is_told_while_its_database_is_silent(
    network: Network, tmp_path: Path
) -> None:
    with serving(network.url, tmp_path) as server, server.client() as client:
        assert client.get("/healthz").status_code == 200
        network.silence()
        answers: list[httpx.Response] = []
        checks = [threading.Thread(target=lambda: answers.append(client.get("/healthz"))) for _ in range(5)]
        for check in checks:
            check.start()
        for check in checks:
            check.join(30)
        assert [answer.status_code for answer in answers] == [503] * 5
        assert client.get("/docs").status_code == 200
        network.go_on()
        deadline = time.monotonic() + 60
        while client.get("/healthz").status_code != 200:
            assert time.monotonic() < deadline
        assert client.get("/describe").json()["eventCount"] == 20_000


@pytest.mark.parametrize("doing", ["nothing", "a check", "a description", "an export", "an import"])
def test_a_service_ends_in_its_time_whatever_its_database_does(
    network: Network, tmp_path: Path, doing: str
) -> None:
    with serving(network.url, tmp_path, "--grace", "1") as server:
        url = server.url
        asked = threading.Event()

        def body() -> Iterator[bytes]:
            lines = make_lines(20_000)
            yield lines[: len(lines) // 2]
            network.silence()
            asked.set()
            yield lines[len(lines) // 2 :]

        def ask() -> None:
            try:
                if doing == "an import":
                    httpx.post(f"{url}/import?replace=true", content=body(), timeout=60)
                elif doing == "an export":
                    with httpx.stream("GET", f"{url}/export", timeout=60) as response:
                        for block in response.iter_raw(1000):
                            network.silence()
                            asked.set()
                            assert block
                else:
                    network.silence()
                    asked.set()
                    httpx.get(f"{url}/{'healthz' if doing == 'a check' else 'describe'}", timeout=60)
            except httpx.TransportError:
                pass

        assert httpx.get(f"{url}/describe", timeout=60).status_code == 200
        if doing == "nothing":
            network.silence()
        else:
            thread = threading.Thread(target=ask)
            thread.start()
            assert asked.wait(60)
            time.sleep(0.5)
        server.signal()
        begin = time.monotonic()
        server.ended(30)
        assert time.monotonic() - begin < 15
        if doing != "nothing":
            thread.join(60)
