"""A MariaDB server: the one that all tests share, or one of a test's own that it may kill."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mysql import Database, made_on
from tests.support.places import Places
from tests.support.servers import FOLDER, Server, new_server


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """A fresh database, empty."""
    with Places("mariadb", tmp_path) as places:
        yield made_on(places.new_url())


@pytest.fixture(scope="module")
def own_server() -> Iterator[Server]:
    """A server that a test may kill and start again, and whose settings it may change."""
    # Beside the shared ones, where the server's user may go, and whose keeper ends it in any case.
    server = new_server("mariadb", Path(os.environ[FOLDER]) / f"mariadb-{secrets.token_hex(4)}")
    yield server
    server.kill()
