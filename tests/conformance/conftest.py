"""The conformance suite runs once per database: what a test here says must hold on every one."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventferry.databases.sqlite import library
from tests.support import NewUrl, Opened, open_new
from tests.support.places import DATABASES, Places
from tests.support.servers import ON

NEWER = "newer-sqlite"
"""SQLite by the library that the command and the service use."""

REPEATED = {*DATABASES, NEWER} - {"sqlite"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What a run leaves to `pytest -m scale`; pyproject.toml says what the marks mean. A run on one newer server, which
    is there to see whether that version is good, leaves nothing out."""
    for item in items:
        if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
            continue
        database = item.callspec.params.get("new_url")
        is_repetition = database in REPEATED and item.get_closest_marker("once") and not ON
        is_seldom = database == NEWER and not item.get_closest_marker("both_libraries")
        if is_repetition or is_seldom:
            item.add_marker(pytest.mark.scale)


@pytest.fixture(params=DATABASES if ON else (*DATABASES, NEWER))
def new_url(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[NewUrl]:
    """A factory of URLs, each of a fresh store that is not made yet."""
    database = request.param
    if database == NEWER:
        import apsw  # missing, it is an error here  # noqa: F401

        # No file that it opens is ever opened by Python's library in this process.
        monkeypatch.setattr(library, "_connect", library._connect)
        library.use_newer()
        database = "sqlite"
    with Places(database, tmp_path) as places:
        yield places.new_url


@pytest.fixture
def opened(new_url: NewUrl) -> Opened:
    """A factory: `async with opened() as store` is a fresh, initialised store."""
    return functools.partial(open_new, new_url)
