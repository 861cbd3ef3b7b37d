"""The conformance suite runs once per database: what a test here says must hold on every one."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

import pytest

from tests.support import NewUrl, Opened, open_new


@pytest.fixture(params=["sqlite"])
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> NewUrl:
    """A factory of URLs, each of a fresh store that is not made yet."""
    numbers = itertools.count()

    def sqlite() -> str:
        return f"sqlite:///{tmp_path / f'{next(numbers)}.db'}"

    return {"sqlite": sqlite}[request.param]


@pytest.fixture
def opened(new_url: NewUrl) -> Opened:
    """A factory: `async with opened() as store` is a fresh, initialised store."""
    return functools.partial(open_new, new_url)
