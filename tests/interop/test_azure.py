"""A repository in Azure's storage is as good as one in a folder."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator

import pytest

from eventferry import RepositoryError
from eventferry.backup.storage import open_storage, probe
from tests.support import line, make_event, make_lines
from tests.support.azurite import ACCOUNT, KEY, azurite, make_container
from tests.support.cli import Ferry, new_ferry

pytestmark = [pytest.mark.interop, pytest.mark.slow]

ferry = pytest.fixture(new_ferry)


@pytest.fixture(scope="module")
def azure(node: None) -> Iterator[str]:
    with azurite() as url:
        yield url


@pytest.fixture
def repository(azure: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", azure)
    container = f"test-{secrets.token_hex(6)}"
    make_container(azure, container)
    return f"az://{container}/some/repository"


async def test_of_many_at_once_one_creates_the_object(repository: str) -> None:
    opened = [open_storage(repository) for _ in range(8)]
    for _ in range(2):
        await probe(opened[0])
    contents = [bytes([number]) * 100_000 for number in range(8)]
    created = await asyncio.gather(
        *(each.put_new("a/b", content) for each, content in zip(opened, contents, strict=True))
    )
    assert created.count(True) == 1
    assert await opened[0].get("a/b") == contents[created.index(True)]
    assert [(each.name, each.bytes) for each in await opened[0].listed("a")] == [("a/b", 100_000)]
    assert await opened[0].folders() == ["a"]
    for _ in range(2):
        await opened[0].delete("a/b")
    assert await opened[0].get("a/b") is None


def test_a_store_comes_back_from_azure(ferry: Ferry, repository: str) -> None:
    (ferry.directory / "lines").write_bytes(make_lines(600))
    ferry.done("import", "lines", "a.db")
    ferry.done("backup", "a.db", repository)
    (ferry.directory / "more").write_bytes(line(make_event(600, threadId=0, threadCounter=300)))
    ferry.done("incremental-import", "more", "a.db")
    ferry.done("backup", "a.db", repository)
    ferry.done("backup", "check", repository, "--read-data", "all")
    ferry.done("restore", repository, "b.db")
    assert "equal: 601 events" in ferry.done("verify", "a.db", "b.db").err
    assert "601" in ferry.done("backup", "drill", repository).err


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [("AZURE_STORAGE_ACCOUNT_KEY", "YW5vdGhlciBrZXk=", "403"), ("AZURE_STORAGE_ACCOUNT_NAME", "nobody", "4")],
)
async def test_what_azure_refuses_is_told_without_the_key(
    repository: str, monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(RepositoryError, match=told) as refused:
        await probe(open_storage(repository))
    assert value not in str(refused.value) or name.endswith("NAME")
    assert KEY not in str(refused.value)
