"""A Galera cluster of three nodes, and a store on it as each node shows it."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import pytest

from eventferry import EventStore, open_store
from tests.support.galera import Cluster
from tests.support.servers import FOLDER, make_folder

OpenedOnAll: TypeAlias = Callable[..., AbstractAsyncContextManager[list[EventStore]]]
"""Gives an initialised store at a fresh place, opened on each node."""


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    cluster = Cluster(make_folder(Path(os.environ[FOLDER]) / f"galera-{secrets.token_hex(4)}"))
    cluster.start()
    yield cluster
    cluster.kill()


@pytest.fixture
def opened_on_all(cluster: Cluster) -> OpenedOnAll:
    @asynccontextmanager
    async def opened(query: str = "") -> AsyncIterator[list[EventStore]]:
        async with AsyncExitStack() as stack:
            urls = cluster.new_urls(query)
            stores = [await stack.enter_async_context(open_store(url)) for url in urls]
            await stores[0].init()
            yield stores

    return opened
