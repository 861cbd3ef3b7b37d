"""A chain that many processes write: whoever dies or repeats, it is whole, or it is not there."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pyrage
import pytest

from eventferry import (
    InputError,
    OrderError,
    Repository,
    RepositoryDamagedError,
    RepositoryError,
    UnsafeStorageError,
    UsageError,
    open_store,
    verify,
)
from eventferry.backup import format, pieces
from eventferry.backup.chain import Entry, chains
from eventferry.backup.pieces import ChainDraft, Piece
from eventferry.backup.storage import open_storage
from eventferry.clock import now
from tests.support import LONG_AGO, exported, import_lines, line, make_event, make_lines
from tests.support.repositories import Watched, chain_in, damages_in, lines_in, names_in

COUNT = 1200
WEEK = 8 * 24 * 3600


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(format, "PART_BYTES", 20_000)


def cut(lines: bytes, count: int) -> list[bytes]:
    """Lines in so many pieces."""
    each = lines.splitlines(keepends=True)
    return [b"".join(each[len(each) * i // count : len(each) * (i + 1) // count]) for i in range(count)]


async def blocks(lines: bytes, seed: int = 0) -> AsyncIterator[bytes]:
    """The lines in blocks of any number."""
    chance, left = random.Random(seed), lines.splitlines(keepends=True)
    while left:
        number = chance.randrange(1, 150)
        yield b"".join(left[:number])
        left = left[number:]


async def begun(repository: str, **options: Any) -> ChainDraft:
    return await pieces.begin(repository, **{"source": "spark"} | options)


async def stored(draft: ChainDraft, lines: Sequence[bytes], seed: int = 0) -> list[Piece]:
    """Each as a piece, as it goes from one process to another."""
    found = [await pieces.write_piece(draft, i, blocks(each, seed)) for i, each in enumerate(lines)]
    return [Piece.of(bytes(piece)) for piece in found]


async def written(repository: str, lines: Sequence[bytes], **options: Any) -> Entry:
    draft = await begun(repository, **options)
    return await pieces.commit(draft, await stored(draft, lines))


# what is written


async def test_a_store_restored_from_it_is_what_was_written_byte_for_byte(
    repository: str, tmp_path: Path
) -> None:
    await written(repository, cut(make_lines(COUNT), 3))
    found = Repository(repository)
    async with open_store(str(tmp_path / "a.db")) as store:
        report = await found.restore(store)
        assert report.imported == COUNT
        assert await exported(store) == make_lines(COUNT)
        assert (await verify(found.export_events(), store.export_events())).equal
        # Bookmarks of the chain are good in it.
        [newest] = await found.runs()
        assert await exported(store, since=newest.bookmark) == b""
        parts = (await chain_in(repository)).newest
        assert parts is not None
        begins = [0, *(part.events for part in parts.manifest.parts)]
        for number, part in enumerate(parts.manifest.parts):
            assert await exported(store, since=part.end) == b"".join(
                make_lines(COUNT).splitlines(keepends=True)[sum(begins[: number + 2]) :]
            )
    assert len(parts.manifest.parts) > 6
    assert (await found.drill()).equal
    checked = await found.check(1.0)
    assert (checked.problems, checked.remarks, checked.read_parts) == ([], [], len(parts.manifest.parts))
    assert await lines_in(repository) == make_lines(COUNT)
    assert await damages_in(repository) == []


async def test_a_store_whose_clocks_went_back_is_written_in_its_own_order(
    repository: str, tmp_path: Path
) -> None:
    chance = random.Random(3)
    events = [
        make_event(i, threadId=i % 5, threadCounter=2 * (i // 5), timestamp=LONG_AGO + chance.randrange(400))
        for i in range(500)
    ]
    async with open_store(str(tmp_path / "a.db")) as store, open_store(str(tmp_path / "b.db")) as other:
        await store.init()
        await import_lines(store, events)
        lines = await exported(store)
        await written(repository, cut(lines, 4))
        await Repository(repository).restore(other)
        assert await exported(other) == lines
    in_time = sorted(
        events, key=lambda event: (event["timestamp"], event["threadCounter"], event["threadId"])
    )
    with pytest.raises(OrderError, match="the event with counter"):
        await written(repository, cut(b"".join(map(line, in_time)), 4))


@pytest.mark.parametrize("lines", [[b""], [b"", make_lines(300), b"", b""]])
async def test_pieces_may_be_empty(repository: str, tmp_path: Path, lines: list[bytes]) -> None:
    entry = await written(repository, lines)
    assert entry.manifest.totals.events == b"".join(lines).count(b"\n")
    assert (await Repository(repository).check(1.0)).problems == []
    async with open_store(str(tmp_path / "a.db")) as store:
        await Repository(repository).restore(store, allow_empty=True)
        assert await exported(store) == b"".join(lines)


async def test_small_parts_are_joined(repository: str) -> None:
    await written(repository, cut(make_lines(COUNT), 40))
    found = Repository(repository)
    assert (await found.prune(compact=True)).joined_parts == 40
    assert (await found.prune()).removed_objects == 40
    assert await lines_in(repository) == make_lines(COUNT)
    checked = await found.check(1.0)
    assert (checked.problems, checked.remarks) == ([], [])


async def test_a_later_write_takes_the_place_of_one_that_was_complete_when_it_began(
    repository: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "now", lambda: now() - 2000)
    await written(repository, [make_lines(10)])
    monkeypatch.setattr(pieces, "now", lambda: now() - 1000)
    meanwhile = await begun(repository)
    monkeypatch.setattr(pieces, "now", now)
    await written(repository, [make_lines(20)])
    found = Repository(repository)
    assert (await found.status()).newest.events == 20
    await pieces.commit(meanwhile, await stored(meanwhile, [make_lines(30)]))
    with pytest.raises(UsageError, match="say which chain"):
        await found.status()
    assert (await found.status(meanwhile.chain)).newest.events == 30


# repeated, killed, given up


async def test_who_repeats_a_piece_stores_the_same_objects(repository: str) -> None:
    draft, lines = await begun(repository), cut(make_lines(COUNT), 3)
    found = await stored(draft, lines)
    names = await names_in(repository)
    assert await stored(draft, lines, seed=1) == found
    assert await names_in(repository) == names
    entry = await pieces.commit(draft, found)
    assert sorted(part.file for part in entry.manifest.parts) == names


async def test_a_piece_that_died_behind_its_first_part_is_written_again(repository: str) -> None:
    async def dying(lines: bytes) -> AsyncIterator[bytes]:
        yield lines[: lines.rfind(b"\n", 0, 30_000) + 1]
        raise ConnectionError("the worker is gone")

    draft, lines = await begun(repository), cut(make_lines(COUNT), 2)
    with pytest.raises(ConnectionError):
        await pieces.write_piece(draft, 0, dying(lines[0]))
    assert len(await names_in(repository)) == 1
    entry = await pieces.commit(draft, await stored(draft, lines))
    assert await names_in(repository, "parts/") == sorted(part.file for part in entry.manifest.parts)
    assert await lines_in(repository) == make_lines(COUNT)


async def test_what_another_attempt_has_written_otherwise_is_not_named(repository: str) -> None:
    draft, lines = await begun(repository), cut(make_lines(COUNT), 2)
    await pieces.write_piece(draft, 1, blocks(lines[1].replace(b"TYPE_1", b"TYPE_9")))
    await pieces.commit(draft, await stored(draft, lines))
    assert await lines_in(repository) == make_lines(COUNT)
    assert (await Repository(repository).check(1.0)).sound


async def test_a_commit_that_is_repeated_changes_nothing(repository: str) -> None:
    draft = await begun(repository)
    found = await stored(draft, cut(make_lines(COUNT), 3))
    entry = await pieces.commit(draft, found)
    names = await names_in(repository)
    assert await pieces.commit(draft, found) == entry
    await pieces.abandon(draft)  # too late
    assert await names_in(repository) == names


@pytest.mark.parametrize("is_done_first", [False, True])
async def test_a_commit_that_ends_at_any_request_can_be_repeated(tmp_path: Path, is_done_first: bool) -> None:
    draft = await begun(str(tmp_path / "repository"))
    found = await stored(draft, cut(make_lines(300), 2))
    for at in range(100):
        watched = Watched(draft.open())
        watched.fails_at, watched.is_done_first = at, is_done_first
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pieces, "open_storage", lambda *_, found=watched, **__: found)
            try:
                await pieces.commit(draft, found)
                break
            except asyncio.CancelledError:
                pass
        if (await chain_in(draft.place)).newest is not None:
            break
    assert at >= 2
    await pieces.commit(draft, found)
    assert await lines_in(draft.place) == make_lines(300)


async def test_a_piece_that_is_missing_or_comes_twice_is_not_left_out(repository: str) -> None:
    draft = await begun(repository)
    found = await stored(draft, cut(make_lines(COUNT), 3))
    for some in ([found[0], found[2]], [found[0], found[0], found[1], found[2]]):
        with pytest.raises(AssertionError, match="is missing or comes twice"):
            await pieces.commit(draft, some)
    assert (await chain_in(repository)).newest is None


async def test_a_part_that_is_gone_is_told_before_anything_is_committed(repository: str) -> None:
    draft = await begun(repository)
    found = await stored(draft, cut(make_lines(COUNT), 3))
    [name, *_] = await names_in(repository, "parts/")
    await draft.open().delete(f"{draft.chain}/{name}")
    with pytest.raises(
        RepositoryDamagedError, match=r"it is missing in .*All processes must see the same place"
    ):
        await pieces.commit(draft, found)
    assert (await chain_in(repository)).newest is None


async def test_pieces_out_of_order_are_refused_and_removed(repository: str) -> None:
    draft = await begun(repository)
    found = await stored(draft, list(reversed(cut(make_lines(COUNT), 3))))
    with pytest.raises(OrderError, match="where partition 1 begins, the event with counter"):
        await pieces.commit(draft, found)
    storage = open_storage(repository)
    assert [each for name in await chains(storage) for each in await storage.listed(name)] == []


@pytest.mark.parametrize("count", [1, 2])
async def test_a_position_that_comes_twice_is_refused(repository: str, count: int) -> None:
    lines = line(make_event(256)) + line(make_event(256, timestamp=LONG_AGO + 257))
    with pytest.raises(
        OrderError, match=r"partition \d.*counter 1 of thread 0 comes behind the one with counter 1"
    ):
        await written(repository, cut(lines, count))


async def test_an_archived_event_is_refused(repository: str) -> None:
    archived = line(make_event(0, payload={"$archived": "0" * 16}))
    with pytest.raises(InputError, match="is the marker of an archived event"):
        await written(repository, [archived])


async def test_what_a_write_has_left_is_removed_when_it_is_old_and_not_before(tmp_path: Path) -> None:
    repository = str(tmp_path / "repository")
    draft = await begun(repository)
    found = await stored(draft, cut(make_lines(COUNT), 3))
    left = await names_in(repository)
    with pytest.raises(RepositoryError, match=f"only what was begun and not committed: {draft.chain}"):
        await Repository(repository).check()
    await written(repository, [make_lines(10)], source="other")
    checked = await Repository(repository).check()
    assert [each.name for each in checked.remarks] == [draft.chain]
    assert (await Repository(repository).prune()).removed_objects == 0
    week = now() / 1000 - WEEK
    files = [file for file in Path(repository, draft.chain).rglob("*") if file.is_file()]
    for file in files[1:]:
        os.utime(file, (week, week))
    assert (await Repository(repository).prune()).removed_objects == 0  # it is being written
    os.utime(files[0], (week, week))
    assert (await Repository(repository).prune(dry_run=True)).removed_objects == len(left)
    report = await Repository(repository).prune()
    assert (report.removed_objects, report.removed_bytes) == (
        len(left),
        sum(placed.part.stored.bytes for piece in found for placed in piece.parts),
    )
    with pytest.raises(RepositoryDamagedError, match="it is missing"):
        await pieces.commit(draft, found)


# storages and keys


async def test_encrypted_pieces_are_read_with_the_key(repository: str, tmp_path: Path) -> None:
    identity = pyrage.x25519.Identity.generate()
    (tmp_path / "key").write_text(str(identity))
    draft, lines = (
        await begun(repository, recipients=[str(identity.to_public())]),
        cut(make_lines(COUNT), 2),
    )
    await pieces.write_piece(draft, 1, blocks(lines[1]))  # again, the bytes are others
    await pieces.commit(draft, await stored(draft, lines))
    assert await lines_in(repository, identities=[identity]) == make_lines(COUNT)
    for name in await names_in(repository, "parts/"):
        assert name.endswith(".age")
    assert (await Repository(repository, [tmp_path / "key"]).drill()).equal
    assert (await Repository(repository).check(1.0)).problems == []
    with pytest.raises(RepositoryError, match="is encrypted"):
        await Repository(repository).drill()
    with pytest.raises(UsageError, match="is encrypted, and this one would not be: give a recipient"):
        await begun(repository)
    await begun(repository, source="other")


async def test_a_storage_that_ignores_conditions_is_refused_but_for_a_single_writer(
    careless_repository: str,
) -> None:
    with pytest.raises(UnsafeStorageError):
        await begun(careless_repository)
    await written(careless_repository, cut(make_lines(300), 2), single_writer=True)
    assert await lines_in(careless_repository) == make_lines(300)


async def test_a_folder_is_found_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draft = await begun("repository")
    monkeypatch.chdir("/")
    await pieces.commit(draft, await stored(draft, [make_lines(10)]))
    assert await lines_in(str(tmp_path / "repository")) == make_lines(10)
