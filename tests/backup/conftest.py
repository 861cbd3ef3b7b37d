"""Repositories for the tests: in a folder, and in an S3 that they start."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.object_storage import ENVIRONMENT, careless, make_bucket, moto


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The URL of an S3 that honours conditions."""
    with moto() as url:
        yield url


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a fresh bucket in it, which the environment leads to."""
    for name, value in (ENVIRONMENT | {"AWS_ENDPOINT_URL": s3}).items():
        monkeypatch.setenv(name, value)
    name = f"test-{secrets.token_hex(6)}"
    make_bucket(s3, name)
    return name


@pytest.fixture(params=["folder", "s3"])
def storage_place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place for a repository, where there is none yet, in each kind of storage."""
    return _place_in(request, tmp_path)


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.slow)])
def repository(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Likewise, for what is built on a storage and knows nothing of its kind."""
    return _place_in(request, tmp_path)


def _place_in(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "repository")
    return f"s3://{request.getfixturevalue('bucket')}/some/repository"


@pytest.fixture
def careless_repository(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A place in an object storage that ignores conditions."""
    with careless() as url:
        for name, value in (ENVIRONMENT | {"AWS_ENDPOINT_URL": url}).items():
            monkeypatch.setenv(name, value)
        yield "s3://bucket/repository"
