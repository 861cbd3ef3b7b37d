"""Stores in schemas of their own on the PostgreSQL server of this test run."""

from __future__ import annotations

import functools
import os
import random
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import NewUrl, Opened, open_new
from tests.support.places import Places
from tests.support.postgresql import Own
from tests.support.servers import FOLDER, new_server


@pytest.fixture
def new_url(tmp_path: Path) -> Iterator[NewUrl]:
    """A factory of URLs, each of a fresh schema that is not made yet."""
    with Places("postgresql", tmp_path) as places:
        yield places.new_url


@pytest.fixture
def opened(new_url: NewUrl) -> Opened:
    """A factory: `async with opened() as store` is a fresh, initialised store."""
    return functools.partial(open_new, new_url)


@pytest.fixture(scope="module")
def server() -> Iterator[Own]:
    """A server that this file may kill."""
    folder = Path(os.environ[FOLDER]) / f"own-{secrets.token_hex(6)}"
    own = Own(new_server("postgresql", folder))
    yield own
    own.end()


@pytest.fixture
def chance() -> random.Random:
    """Randomness that a failing test prints the seed of; EVENTFERRY_SEED gives it again."""
    seed = int(os.environ.get("EVENTFERRY_SEED") or random.SystemRandom().randrange(2**32))
    print(f"EVENTFERRY_SEED={seed}")
    return random.Random(seed)
