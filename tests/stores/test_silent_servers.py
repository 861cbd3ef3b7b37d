"""A server that falls silent, as by a lost network: connections stay, and nothing comes any more."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from eventferry import EventStore, StoreUnreachableError, open_store
from tests.support import exported, import_lines, make_lines
from tests.support.places import Places

pytestmark = pytest.mark.slow

SERVERS = ("postgresql", "mariadb")
BOUND = 20
"""Seconds, far more than a silent server is waited for: the tests may be slow, but not for ever."""


_SO_ATTACH_FILTER = 26  # Linux; the socket module does not have it

LOSING = {
    "postgresql": "tcp_user_timeout=1000&keepalives_idle=1&connect_timeout=2",
    "mariadb": "keepalive=1&connect_timeout=2",
}
"""Options by which a lost connection is noticed within seconds."""


class Relay:
    """Between a store and its server, until it is silent: then it takes connections, and passes nothing on."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._silent = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ends: list[asyncio.StreamWriter] = []
        self.port = 0

    def fall_silent(self) -> None:
        self._silent.set()
        for task in self._tasks:
            task.cancel()

    def lose(self) -> None:
        """From now on, what the store sends is lost on its way: nothing acknowledges it, as if a cable were cut."""
        self._silent.set()
        drop_all = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF: keep 0 bytes
        program = struct.pack("HL", 1, ctypes.addressof(drop_all))
        for end in self._ends[::2]:
            end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._silent.is_set():
            return
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        self._ends += (writer, far_writer)
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            self._tasks.add(asyncio.create_task(self._pump(source, sink)))

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        sink.close()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Relay]:
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
            self.port = server.sockets[0].getsockname()[1]
            yield self
            self.fall_silent()
            for end in self._ends:  # now the server hears of it, and lets go of what it has locked
                end.transport.abort()
            await asyncio.sleep(0.1)


@asynccontextmanager
async def behind_a_relay(
    database: str, folder: Path, options: str = ""
) -> AsyncIterator[tuple[EventStore, Relay]]:
    """A store of 300 events behind a relay."""
    with Places(database, folder) as places:
        url = places.new_url()
        async with open_store(url) as store:
            await store.init()
            await import_lines(store, make_lines(300))
        address = urlsplit(url)
        async with Relay(address.hostname or "", address.port or 0).running() as relay:
            through = url.replace(f":{address.port}/", f":{relay.port}/")
            if options:
                through += f"{'&' if '?' in through else '?'}{options}"
            store = open_store(through)
            await store.describe()
            yield store, relay
            async with asyncio.timeout(BOUND):
                await store.close()


CALLS: dict[str, Callable[[EventStore], Awaitable[Any]]] = {
    "describe": lambda store: store.describe(),
    "export": exported,
    "save": lambda store: store.save_event({"type": "T", "aggregateId": "x", "aggregateVersion": 1}),
    "incremental import": lambda store: store.incremental_import(
        [{"type": "T", "aggregateId": "x", "timestamp": 1}]
    ),
}


@pytest.mark.parametrize("database", SERVERS)
async def test_calls_whose_time_is_over_end_although_the_server_is_silent(
    database: str, tmp_path: Path
) -> None:
    async def ends(name: str) -> None:
        async with behind_a_relay(database, tmp_path) as (store, relay):
            relay.fall_silent()
            start = time.monotonic()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await CALLS[name](store)
            assert time.monotonic() - start < BOUND, name

    async with asyncio.TaskGroup() as at_once:  # each waits for its own server, for seconds
        for name in CALLS:
            at_once.create_task(ends(name), name=name)


@pytest.mark.parametrize("database", SERVERS)
async def test_an_import_that_is_given_up_ends_although_the_server_is_silent(
    database: str, tmp_path: Path
) -> None:
    async with behind_a_relay(database, tmp_path) as (store, relay):

        async def run() -> None:
            async with store.import_events() as stream:
                await stream.write(make_lines(3000))
                relay.fall_silent()
                await stream.write(make_lines(30_000)[len(make_lines(3000)) :])

        task = asyncio.create_task(run())
        await relay._silent.wait()
        await asyncio.sleep(0.5)
        task.cancel()
        _, left = await asyncio.wait([task], timeout=3 * BOUND)
        assert not left


async def test_a_server_that_answers_nothing_is_unreachable_when_its_time_is_over(tmp_path: Path) -> None:
    with Places("mariadb", tmp_path) as places:
        url = places.new_url()
        async with open_store(url) as store:
            await store.init()
        address = urlsplit(url)
        async with Relay(address.hostname or "", address.port or 0).running() as relay:
            through = url.replace(f":{address.port}/", f":{relay.port}/")
            async with asyncio.timeout(BOUND), open_store(f"{through}?read_timeout=1") as store:
                await store.describe()
                relay.fall_silent()
                with pytest.raises(StoreUnreachableError):
                    await store.describe()
            async with asyncio.timeout(BOUND), open_store(f"{through}?connect_timeout=1") as store:
                with pytest.raises(StoreUnreachableError):
                    await store.describe()


@pytest.mark.skipif(sys.platform != "linux", reason="packets are dropped by Linux' socket filter")
@pytest.mark.parametrize("is_waiting", [False, True])
@pytest.mark.parametrize("database", SERVERS)
async def test_a_network_that_is_lost_ends_a_call_that_nobody_cancels(
    database: str, is_waiting: bool, tmp_path: Path
) -> None:
    async with behind_a_relay(database, tmp_path, LOSING[database]) as (store, relay):
        if is_waiting:  # for the answer to what was acknowledged
            relay.fall_silent()
            call = asyncio.create_task(store.describe())
            await asyncio.sleep(0.5)
            relay.lose()
        else:
            relay.lose()
            call = asyncio.create_task(store.describe())
        async with asyncio.timeout(2 * BOUND):
            with pytest.raises(StoreUnreachableError):
                await call
