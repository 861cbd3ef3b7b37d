"""What runs on Node. The real reSolve packages, with the databases that eventferry and they share: what a test says
here must hold on every one of them. And other products, whose stores are read."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.interop.both import write_by_resolve
from tests.support.interop.resolve import ResolvePackages, install
from tests.support.interop.stores import DATABASES, Stores


@pytest.fixture(scope="session")
def node() -> None:
    missing = [program for program in ("node", "npm") if shutil.which(program) is None]
    if missing:
        pytest.skip(f"the real packages need {' and '.join(missing)}, not found here")


@pytest.fixture(scope="session")
def resolve(node: None) -> ResolvePackages:
    return ResolvePackages(install())


@pytest.fixture(scope="session", params=DATABASES)
def database(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def originals(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    """Places for stores that are written once and copied for each test."""
    with Stores(database, tmp_path_factory.mktemp("originals")) as stores:
        yield stores


@pytest.fixture(scope="session")
def original(resolve: ResolvePackages, originals: Stores) -> str:
    """A store in which the real adapter did all that it can do."""
    place = originals.new_original()
    asyncio.run(write_by_resolve(resolve, place))
    return place


@pytest.fixture
def stores(database: str, tmp_path: Path) -> Iterator[Stores]:
    """Places of a database."""
    with Stores(database, tmp_path) as places:
        yield places


@pytest.fixture
def written(stores: Stores, original: str) -> str:
    """A copy of what the real adapter wrote."""
    return stores.copy(original)
