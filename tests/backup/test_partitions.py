"""Partitions of a backup: slices for many readers; one after another they are what it exports, byte for byte."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from eventferry import (
    MANUAL,
    EventStore,
    Repository,
    RepositoryDamagedError,
    RepositoryPartition,
    UsageError,
    open_store,
)
from eventferry import back_up as back_up_again
from eventferry.backup.storage import FolderStorage
from eventferry.sync import Repository as BlockingRepository
from tests.support import import_lines, line, make_event
from tests.support.small_backups import back_up


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "repository"


async def runs(place: Path, *counts: int, per_part: int = 3) -> EventStore:
    """A store that was backed up when it had so many events, each time in parts of three more."""
    store = open_store(str(place.parent / "a.db"))
    await store.init()
    have = 0
    for count in counts:
        await import_lines(store, [make_event(i) for i in range(have, count)], maintenance_mode=MANUAL)
        await back_up(store, FolderStorage(place), per_part=per_part)
        have = count
    return store


async def read(repository: Repository, parts: Sequence[RepositoryPartition], **only: Any) -> list[bytes]:
    return [b"".join([block async for block in repository.read_partition(part, **only)]) for part in parts]


async def whole(repository: Repository, **options: Any) -> bytes:
    return b"".join([block async for block in repository.export_events(**options)])


@pytest.mark.parametrize("n", [1, 2, 5, 100])
async def test_together_they_are_the_backup(place: Path, n: int) -> None:
    async with await runs(place, 30):
        repository = Repository(place)
        parts = await repository.partitions(n)
        assert [part.number for part in parts] == list(range(1, min(n, 10) + 1))
        pieces = await read(repository, [pickle.loads(pickle.dumps(part)) for part in parts])
        assert b"".join(pieces) == await whole(repository)
        assert max(map(len, pieces)) <= 2 * min(map(len, pieces))
        [first, *_] = parts
        assert msgspec.json.decode(msgspec.json.encode(first), type=RepositoryPartition) == first


async def test_they_are_the_state_at_the_end_of_a_run_also_when_its_parts_were_joined_with_later_ones(
    place: Path,
) -> None:
    async with await runs(place, 10, 20):
        repository = Repository(place)
        before = await whole(repository, manifest=1)
        assert b"".join(await read(repository, await repository.partitions(3, manifest=1))) == before
        await repository.prune(compact=True)
        await repository.prune(compact=True)
        assert b"".join(await read(repository, await repository.partitions(3, manifest=1))) == before
        assert before.count(b"\n") == 10


async def test_what_was_erased_does_not_come(place: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text('[[rule]]\nredact = ["/number"]\n')
    async with await runs(place, 30) as store:
        await store.erase(rules, event_types=["TYPE_1"])
        await back_up_again(store, place)
        repository = Repository(place)
        pieces = await read(repository, await repository.partitions(4))
        assert b"".join(pieces) == await whole(repository)
        assert b"".join(pieces).count(b'{"number":null}') == 10
        kept = await read(repository, await repository.partitions(4, without_erasures=True))
        assert b"".join(kept) == await whole(repository, without_erasures=True)


async def test_they_can_be_filtered(place: Path) -> None:
    async with await runs(place, 30):
        repository = Repository(place)
        parts = await repository.partitions(4)
        pieces = await read(repository, parts, event_types=["TYPE_1"], start_time=make_event(10)["timestamp"])
        assert b"".join(pieces) == b"".join(line(make_event(i)) for i in range(10, 30) if i % 3 == 1)


async def test_a_damaged_part_is_named_by_its_partition_alone(place: Path) -> None:
    async with await runs(place, 30):
        repository = Repository(place)
        parts = await repository.partitions(3)
        file = place / parts[1].chain / parts[1].parts[0].file
        file.write_bytes(file.read_bytes()[:-1])
        await read(repository, [parts[0], parts[2]])
        with pytest.raises(RepositoryDamagedError, match=parts[1].parts[0].file):
            await read(repository, [parts[1]])


async def test_only_a_partition_is_read(place: Path) -> None:
    with pytest.raises(UsageError, match="a result of partitions"):
        Repository(place).read_partition("1")  # type: ignore[arg-type]


async def test_without_await_they_are_the_same(place: Path) -> None:
    async with await runs(place, 30):
        repository = BlockingRepository(place)
        pieces = [b"".join(repository.read_partition(part)) for part in repository.partitions(3)]
        assert b"".join(pieces) == await whole(Repository(place))
