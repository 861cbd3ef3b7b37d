"""The conformance suite runs once per database: what a test here says must hold on every one."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.places import DATABASES, Places
from tests.support import NewUrl, Opened, open_new


@pytest.fixture(params=DATABASES)
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NewUrl]:
    """A factory of URLs, each of a fresh store that is not made yet."""
    with Places(request.param, tmp_path) as places:
        yield places.new_url


@pytest.fixture
def opened(new_url: NewUrl) -> Opened:
    """A factory: `async with opened() as store` is a fresh, initialised store."""
    return functools.partial(open_new, new_url)
