"""A backup adds to the chain of its store what is new, whatever became of the runs before it or beside it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pyrage
import pytest

from eventferry import (
    BackupDivergedError,
    BackupReport,
    RepositoryDamagedError,
    StoreClosedError,
    StoreNotFoundError,
    UnsafeStorageError,
    UsageError,
    back_up,
    open_store,
    sync,
)
from eventferry.backup import format, run
from eventferry.backup.chain import chains
from eventferry.backup.storage import open_storage
from eventferry.reading import exporting
from eventferry.reading.bookmarks import decode
from tests.support import LONG_AGO, back_and_forth, exported, import_lines, line, make_event, make_lines
from tests.support.cli import COMMAND, environment
from tests.support.repositories import Watched, chain_in, damages_in, lines_in, lines_of, names_in
from tests.support.sqlite import make_resolve_store

SMALL = 20_000
"""Bytes of a part where a test makes many of few events."""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store.db"


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(format, "PART_BYTES", SMALL)
    monkeypatch.setattr(exporting, "PAGE_EVENTS", 50)
    monkeypatch.setattr(exporting, "PAGE_BYTES", 5_000)


async def filled(url: str, events: int) -> None:
    """A new store with so many of `make_event`."""
    async with open_store(url) as store:
        await store.init()
        await import_lines(store, make_lines(events))


async def backed_up(url: str, repository: str, **options: object) -> BackupReport:
    async with open_store(url) as store:
        return await back_up(store, repository, **options)  # type: ignore[arg-type]


async def save(url: str, count: int, since: int) -> None:
    async with open_store(url) as store:
        for i in range(since, since + count):
            await store.save_event({"type": "SAVED", "aggregateId": f"saved-{i}", "aggregateVersion": 1})


async def lines_at(url: str) -> bytes:
    async with open_store(url) as store:
        return await exported(store)


async def test_the_parts_are_the_export(url: str, repository: str, small_parts: None) -> None:
    await filled(url, 3000)
    report = await backed_up(url, repository)
    assert await lines_in(repository) == make_lines(3000)
    assert (report.manifest, report.events, report.total_events, report.reused_parts) == (1, 3000, 3000, 0)
    assert report.plain_bytes == len(make_lines(3000))
    assert report.parts > 10
    assert await damages_in(repository) == []
    async with open_store(url) as store:
        assert report.bookmark == await store.bookmark()


async def test_each_part_says_what_is_in_it(url: str, repository: str, small_parts: None) -> None:
    await filled(url, 3000)
    await backed_up(url, repository)
    chain = await chain_in(repository)
    assert chain.newest is not None
    counted = 0
    for part in await chain.parts(chain.newest):
        lines = await lines_of(open_storage(repository), chain.name, part)
        assert part.events == lines.count(b"\n")
        assert part.first_time == LONG_AGO + counted
        counted += part.events
        assert part.last_time == LONG_AGO + counted - 1
        assert part.plain.bytes == len(lines)
        assert part.plain.sha256 == format.sha256(lines)
        assert part.end is not None
        assert sum(decode(part.end).unread) == counted


async def test_an_empty_store_has_a_manifest_without_parts(url: str, repository: str) -> None:
    async with open_store(url) as store:
        await store.init()
    report = await backed_up(url, repository)
    assert (report.manifest, report.parts, report.total_events) == (1, 0, 0)
    assert await damages_in(repository) == []
    await save(url, 3, 0)
    assert (await backed_up(url, repository)).events == 3
    assert await lines_in(repository) == await lines_at(url)


async def test_a_run_that_finds_nothing_new_says_so_in_a_manifest(url: str, repository: str) -> None:
    await filled(url, 10)
    await backed_up(url, repository)
    report = await backed_up(url, repository)
    assert (report.manifest, report.events, report.parts, report.total_events) == (2, 0, 0, 10)


async def test_later_runs_add_what_is_new(url: str, repository: str) -> None:
    await filled(url, 100)
    states: list[bytes] = []
    for number in range(20):
        assert (await backed_up(url, repository)).manifest == number + 1
        states.append(await lines_at(url))
        await save(url, 3, 3 * number)
    for number, lines in enumerate(states, 1):
        assert await lines_in(repository, number) == lines
    assert await damages_in(repository) == []


@pytest.mark.slow
async def test_a_run_costs_what_is_new(url: str, repository: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many events as are new, and not as many as there are, decide what it reads and writes."""
    watched: list[Watched] = []

    def opened(*arguments: object, **options: object) -> Watched:
        watched.append(Watched(open_storage(*arguments, **options)))  # type: ignore[arg-type]
        return watched[-1]

    monkeypatch.setattr(run, "open_storage", opened)
    await filled(url, 60_000)
    await backed_up(url, repository)
    async with open_store(url) as store:
        await store.incremental_import([make_event(60_000 + i) for i in range(1000)])
    await backed_up(url, repository)
    first, second = watched
    assert first.written > 300_000
    assert second.written < 15_000
    assert second.read < 5_000
    assert second.calls["put_new"] == 4  # the marker, a part, its descriptor, a manifest
    assert second.calls.total() <= 10


@pytest.mark.slow
async def test_a_long_chain_costs_few_requests(
    url: str, repository: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(url, 5)
    for number in range(33):
        await save(url, 1, number)
        await backed_up(url, repository)
    watched = Watched(open_storage(repository))
    monkeypatch.setattr(run, "open_storage", lambda *_, **__: watched)
    await save(url, 1, 100)
    await backed_up(url, repository)
    assert watched.calls.total() <= 12
    assert watched.written < 4_000


@pytest.mark.parametrize("is_done_first", [False, True])
@pytest.mark.slow
async def test_a_run_that_ends_at_any_request_leaves_a_whole_chain(
    url: str, tmp_path: Path, small_parts: None, is_done_first: bool
) -> None:
    """The next run uses what was finished, and the chain holds every event once."""
    await filled(url, 600)
    at = 0
    while True:
        repository = str(tmp_path / f"repository-{at}")
        watched = Watched(open_storage(repository))
        watched.fails_at, watched.is_done_first = at, is_done_first
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(run, "open_storage", lambda *_, found=watched, **__: found)
                await backed_up(url, repository)
        except asyncio.CancelledError:
            finished = len(await _descriptors(repository))
        else:
            break
        report = await backed_up(url, repository)
        assert await lines_in(repository) == make_lines(600)
        assert await damages_in(repository) == []
        if report.manifest == 1:
            assert report.reused_parts == finished
        at += 1
    assert at > 10


async def _descriptors(repository: str) -> list[str]:
    found = [each.name for each in await open_storage(repository).listed("")]
    return [each for each in found if "/parts/" in each and each.endswith(".json")]


@pytest.mark.slow
async def test_a_run_that_is_cancelled_anywhere_leaves_a_whole_chain(
    url: str, repository: str, small_parts: None
) -> None:
    await filled(url, 2000)
    for delay in range(12):
        async with open_store(url) as store:
            task = asyncio.create_task(back_up(store, repository))
            await asyncio.sleep(0.01 * delay)
            task.cancel()
            await asyncio.wait([task])
        assert len(asyncio.all_tasks()) == 1
    await backed_up(url, repository)
    assert await lines_in(repository) == make_lines(2000)
    assert await damages_in(repository) == []


@pytest.mark.slow
async def test_closing_the_store_ends_a_run(url: str, tmp_path: Path, small_parts: None) -> None:
    await filled(url, 20_000)
    async with open_store(url) as store:
        task = asyncio.create_task(back_up(store, tmp_path / "repository"))
        while not (tmp_path / "repository").is_dir():
            await asyncio.sleep(0.001)
        await store.close()
        with pytest.raises(StoreClosedError):
            await task
    assert len(asyncio.all_tasks()) == 1
    await backed_up(url, str(tmp_path / "repository"))
    assert await lines_in(str(tmp_path / "repository")) == make_lines(20_000)


def killed_after(url: str, repository: str, seconds: float) -> None:
    """Begin a backup as a process of its own, and kill it."""
    with subprocess.Popen(
        [*COMMAND, "backup", url, repository],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
    ) as child:
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("kills", [8, pytest.param(100, marks=pytest.mark.storm)])
async def test_what_was_killed_at_any_time_is_gone_on_with(url: str, repository: str, kills: int) -> None:
    await filled(url, 150_000)
    chance = random.Random(kills)
    for number in range(kills):
        await asyncio.to_thread(killed_after, url, repository, 0.2 + 1.5 * chance.random())
        if number % 3 == 2:
            await save(url, 5, 5 * number)
    report = await backed_up(url, repository)
    assert await lines_in(repository) == await lines_at(url)
    assert await damages_in(repository) == []
    assert report.total_events == (await lines_at(url)).count(b"\n")


# two at once


async def at_once(url: str, repository: str, count: int = 2) -> list[BackupReport]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(backed_up(url, repository)) for _ in range(count)]
    return [task.result() for task in tasks]


async def check_reports(repository: str, reports: list[BackupReport], url: str) -> None:
    """What the reports say is what the chain holds."""
    assert await damages_in(repository) == []
    lines = await lines_in(repository)
    assert sorted(lines.splitlines()) == sorted((await lines_at(url)).splitlines())
    chain = await chain_in(repository)
    for report in reports:
        entry = await chain.entry(report.manifest)
        assert entry.link.sha256 == report.digest
        assert entry.manifest.totals.events == report.total_events
    new = {report.manifest: report.events for report in reports if report.events}
    assert sum(new.values()) == lines.count(b"\n")


@pytest.mark.slow
@pytest.mark.parametrize("times", [20, pytest.param(100, marks=pytest.mark.storm)])
async def test_two_runs_at_once_make_one_chain(
    url: str, repository: str, times: int, small_parts: None
) -> None:
    await filled(url, 500)
    reports: list[BackupReport] = []
    for number in range(times):
        reports += await at_once(url, repository)
        await save(url, 1, number)
    reports += await at_once(url, repository)
    await check_reports(repository, reports, url)
    overtaken = [report for report in reports if report.overtaken]
    assert overtaken, "they never met"


@pytest.mark.slow
async def test_two_processes_at_once_make_one_chain(url: str, repository: str) -> None:
    await filled(url, 5000)
    reports: list[BackupReport] = []
    for number in range(3):
        children = [
            subprocess.Popen(
                [*COMMAND, "backup", url, repository, "--json"], stdout=subprocess.PIPE, env=environment()
            )
            for _ in range(3)
        ]
        for child in children:
            out, _ = await asyncio.to_thread(child.communicate)
            assert child.returncode == 0
            reports.append(msgspec.json.decode(out, type=BackupReport))
        await save(url, 5, 5 * number)
    reports += await at_once(url, repository)
    await check_reports(repository, reports, url)


@pytest.mark.slow
async def test_whoever_comes_second_uses_the_parts_of_the_first(
    url: str, tmp_path: Path, small_parts: None
) -> None:
    await filled(url, 3000)
    repository = str(tmp_path / "repository")
    reports = await at_once(url, repository, 4)
    await check_reports(repository, reports, url)
    assert len([each for each in await names_in(repository, "parts/") if each.endswith(".zst")]) == len(
        await _descriptors(repository)
    )


@pytest.mark.slow
async def test_saves_during_runs_are_in_the_chain_once(url: str, repository: str, small_parts: None) -> None:
    await filled(url, 600)
    reports: list[BackupReport] = []
    for number in range(6):
        saving = asyncio.create_task(save(url, 20, 20 * number))
        reports += await at_once(url, repository, 3)
        await saving
    reports += await at_once(url, repository, 1)
    await check_reports(repository, reports, url)


# other histories


async def test_timestamps_that_go_backwards_lose_no_event(
    url: str, repository: str, small_parts: None
) -> None:
    events = back_and_forth(400)
    async with open_store(url) as store:
        await store.init()
        await import_lines(store, events[:150])
    await backed_up(url, repository)
    async with open_store(url) as store:
        await store.incremental_import(events[150:], older="accept")
    await backed_up(url, repository)
    lines, there = await lines_in(repository), await lines_at(url)
    assert sorted(lines.splitlines()) == sorted(there.splitlines())
    assert await damages_in(repository) == []


@pytest.mark.slow
async def test_an_event_larger_than_a_part_is_a_part(
    url: str, repository: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(format, "PART_BYTES", 1_000)
    large = [make_event(i, payload="x" * (3_000_000 if i % 3 == 1 else 10)) for i in range(9)]
    async with open_store(url) as store:
        await store.init()
        await import_lines(store, large)
    await backed_up(url, repository)
    assert await lines_in(repository) == b"".join(map(line, large))
    assert await damages_in(repository) == []


async def test_a_replaced_store_begins_a_chain_of_its_own(url: str, repository: str) -> None:
    await filled(url, 20)
    first = await backed_up(url, repository)
    async with open_store(url) as store:
        await import_lines(store, make_lines(7))
    second = await backed_up(url, repository)
    assert first.chain != second.chain
    assert (second.manifest, second.total_events) == (1, 7)
    assert await lines_in(repository, name=first.chain) == make_lines(20)
    assert await lines_in(repository, name=second.chain) == make_lines(7)


async def test_stores_have_chains_of_their_own_in_one_repository(url: str, tmp_path: Path) -> None:
    other = f"sqlite:///{tmp_path}/other.db"
    repository = str(tmp_path / "repository")
    for place in (url, other, url):
        if not os.path.exists(place.removeprefix("sqlite:///")):
            await filled(place, 5)
        await backed_up(place, repository)
    assert len(await chains(open_storage(repository))) == 2


async def restored(url: str, copy: Path) -> None:
    path = Path(url.removeprefix("sqlite:///"))
    for end in ("-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
    shutil.copy(copy, path)


@pytest.mark.parametrize("saved", [0, 3, 5, 50])
async def test_a_store_that_was_restored_and_grew_apart_is_refused(
    url: str, tmp_path: Path, saved: int
) -> None:
    repository = str(tmp_path / "repository")
    await filled(url, 20)
    copy = tmp_path / "copy.db"
    shutil.copy(url.removeprefix("sqlite:///"), copy)
    await save(url, 5, 0)
    await backed_up(url, repository)
    before = await names_in(repository)
    await restored(url, copy)
    await save(url, saved, 100)
    with pytest.raises(BackupDivergedError, match="which holds 25 events: it was restored to an older state"):
        await backed_up(url, repository)
    assert await names_in(repository) == before


@contextlib.asynccontextmanager
async def stopped_before_the_manifest() -> AsyncIterator[None]:
    """What runs inside stores its parts and no manifest."""

    async def stop(*_: object) -> None:
        raise asyncio.CancelledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "note_erasures", stop)
        with pytest.raises(asyncio.CancelledError):
            yield


async def test_parts_of_a_history_that_is_gone_are_not_used(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run was killed before its manifest, and then the store was restored."""
    repository = str(tmp_path / "repository")
    await filled(url, 20)
    await backed_up(url, repository)
    copy = tmp_path / "copy.db"
    shutil.copy(url.removeprefix("sqlite:///"), copy)
    await save(url, 5, 0)
    async with stopped_before_the_manifest():
        await backed_up(url, repository)
    await restored(url, copy)
    await save(url, 9, 100)
    report = await backed_up(url, repository)
    assert (report.events, report.reused_parts) == (9, 0)
    assert await lines_in(repository) == await lines_at(url)


@pytest.mark.parametrize("spoil", ["descriptor", "part", "nothing"])
async def test_what_a_killed_run_left_damaged_is_not_used(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: str
) -> None:
    repository = tmp_path / "repository"
    await filled(url, 20)
    async with stopped_before_the_manifest():
        await backed_up(url, str(repository))
    [descriptor] = repository.glob("*/parts/*.json")
    [part] = repository.glob("*/parts/*.zst")
    if spoil == "descriptor":
        descriptor.write_bytes(descriptor.read_bytes()[:-5])
    elif spoil == "part":
        part.unlink()
    report = await backed_up(url, str(repository))
    assert report.reused_parts == (spoil == "nothing")
    assert await lines_in(str(repository)) == make_lines(20)


async def test_a_damaged_newest_manifest_ends_a_run(url: str, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    await filled(url, 20)
    await backed_up(url, str(repository))
    [manifest] = repository.glob("*/manifests/*.json")
    manifest.write_bytes(manifest.read_bytes().replace(b"20", b"21", 1))
    with pytest.raises(RepositoryDamagedError, match=r"manifests/00000001\.json"):
        await backed_up(url, str(repository))


async def test_a_store_that_resolve_made_has_a_chain_without_identity(tmp_path: Path) -> None:
    repository = str(tmp_path / "repository")
    make_resolve_store(tmp_path / "a.db", 30)
    make_resolve_store(tmp_path / "b.db", 31)
    report = await backed_up(f"sqlite:///{tmp_path}/a.db", repository)
    assert (report.chain, report.events) == ("0" * 16, 30)
    await save(f"sqlite:///{tmp_path}/a.db", 4, 0)
    assert (await backed_up(f"sqlite:///{tmp_path}/a.db", repository)).events == 4
    assert await lines_in(repository) == await lines_at(f"sqlite:///{tmp_path}/a.db")
    with pytest.raises(BackupDivergedError):
        await backed_up(f"sqlite:///{tmp_path}/b.db", repository)


# storages


async def test_on_a_storage_that_ignores_conditions_a_run_is_refused(
    url: str, careless_repository: str
) -> None:
    await filled(url, 20)
    with pytest.raises(UnsafeStorageError, match="--single-writer"):
        await backed_up(url, careless_repository)


async def test_a_single_writer_may_use_a_storage_that_ignores_conditions(
    url: str, careless_repository: str
) -> None:
    await filled(url, 20)
    for _ in range(3):
        await backed_up(url, careless_repository, single_writer=True)
        await save(url, 2, random.randrange(10**9))
    assert await damages_in(careless_repository) == []
    assert (await lines_in(careless_repository)).count(b"\n") == 24


async def test_a_missing_store_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        await backed_up(f"sqlite:///{tmp_path}/none.db", str(tmp_path / "repository"))


def test_without_await_it_is_the_same(url: str, tmp_path: Path) -> None:
    asyncio.run(filled(url, 20))
    with sync.open_store(url) as store:
        report = sync.back_up(store, tmp_path / "repository")
    assert report.events == 20


async def test_a_frozen_store_is_backed_up(url: str, tmp_path: Path) -> None:
    await filled(url, 20)
    async with open_store(url) as store:
        await store.freeze()
        assert (await back_up(store, tmp_path / "repository")).events == 20


# encryption


@pytest.fixture(scope="module")
def identity() -> pyrage.x25519.Identity:
    return pyrage.x25519.Identity.generate()


async def test_an_encrypted_chain_is_read_with_the_key(
    url: str, repository: str, identity: pyrage.x25519.Identity, small_parts: None
) -> None:
    await filled(url, 1000)
    recipient = str(identity.to_public())
    await backed_up(url, repository, recipients=[recipient])
    await save(url, 5, 0)
    await backed_up(url, repository, recipients=[recipient])
    assert await lines_in(repository, identities=[identity]) == await lines_at(url)
    storage = open_storage(repository)
    for name in await names_in(repository):
        data = await storage.get(f"{(await chain_in(repository)).name}/{name}")
        assert b"aggregate-" not in (data or b"")
        assert name.endswith((".json", ".age"))
    assert await damages_in(repository) == []


async def test_an_encrypted_chain_is_not_gone_on_with_in_the_open(
    url: str, tmp_path: Path, identity: pyrage.x25519.Identity
) -> None:
    repository = str(tmp_path / "repository")
    await filled(url, 20)
    await backed_up(url, repository, recipients=[str(identity.to_public())])
    with pytest.raises(UsageError, match="is encrypted, and what is new would not be"):
        await backed_up(url, repository)


async def test_a_part_for_other_recipients_is_not_used(
    url: str, tmp_path: Path, identity: pyrage.x25519.Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run in the open was killed, and the next one encrypts."""
    repository = str(tmp_path / "repository")
    await filled(url, 20)
    async with stopped_before_the_manifest():
        await backed_up(url, repository)
    report = await backed_up(url, repository, recipients=[str(identity.to_public())])
    assert report.reused_parts == 0
    chain = await chain_in(repository)
    assert chain.newest is not None
    assert [part.is_encrypted for part in await chain.parts(chain.newest)] == [True]


# secrets


async def with_secrets(url: str, count: int) -> None:
    async with open_store(url) as store:
        await store.init()
        for number in range(count):
            await store.set_secret(f"id-{number}", f"secret-{number}")


async def secrets_in(repository: str) -> bytes:
    chain = await chain_in(repository)
    assert chain.newest is not None
    secrets = chain.newest.manifest.secrets
    if secrets is None:
        return b""
    storage = open_storage(repository)
    return b"".join([await lines_of(storage, chain.name, part) for part in secrets.parts])


async def test_secrets_are_left_out_unless_they_are_asked_for(url: str, repository: str) -> None:
    await with_secrets(url, 3)
    report = await backed_up(url, repository)
    assert report.secrets is None
    assert await names_in(repository, "secrets/") == []
    report = await backed_up(url, repository, secrets=True)
    assert report.secrets == 3
    async with open_store(url) as store:
        lines = b"".join([block async for block in store.export_secrets(tombstones=True)])
    assert await secrets_in(repository) == lines
    assert lines.count(b"\n") == 3


async def test_many_secrets_are_several_parts(
    url: str, repository: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_store(url) as store:
        await store.init()
        async with store.import_secrets() as sink:
            for number in range(5000):
                await sink.write(b'{"secret":"secret-%d","id":"id-%d","idx":%d}\n' % (number, number, number))
    monkeypatch.setattr(format, "PART_BYTES", 30_000)
    assert (await backed_up(url, repository, secrets=True)).secrets == 5000
    assert len(await names_in(repository, "secrets/")) > 1
    async with open_store(url) as store:
        lines = b"".join([block async for block in store.export_secrets(tombstones=True)])
    assert await secrets_in(repository) == lines


async def test_secrets_stay_with_runs_that_do_not_ask_for_them(url: str, repository: str) -> None:
    await with_secrets(url, 3)
    await backed_up(url, repository, secrets=True)
    before = await secrets_in(repository)
    await backed_up(url, repository)
    assert await secrets_in(repository) == before
    chain = await chain_in(repository)
    assert chain.newest is not None
    assert chain.newest.manifest.secrets is not None
    assert chain.newest.manifest.secrets.manifest == 1


async def test_a_deleted_secret_is_nowhere_in_the_repository(url: str, repository: str) -> None:
    await with_secrets(url, 3)
    await backed_up(url, repository, secrets=True)
    async with open_store(url) as store:
        await store.delete_secret("id-1")
    await backed_up(url, repository, secrets=True)
    assert len(await names_in(repository, "secrets/")) == 1
    lines = await secrets_in(repository)
    assert b"secret-1" not in lines
    assert b"secret-2" in lines


async def test_secrets_that_a_killed_run_left_are_removed(
    url: str, repository: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await with_secrets(url, 3)
    async with stopped_before_the_manifest():
        await backed_up(url, repository, secrets=True)
    await backed_up(url, repository, secrets=True)
    assert len(await names_in(repository, "secrets/")) == 1


@pytest.mark.slow
async def test_two_runs_with_secrets_at_once_keep_those_of_the_newest_manifest(
    url: str, repository: str
) -> None:
    await with_secrets(url, 3)
    for number in range(5):
        await asyncio.gather(*(backed_up(url, repository, secrets=True) for _ in range(3)))
        async with open_store(url) as store:
            await store.set_secret(f"more-{number}", "x")
    assert (await secrets_in(repository)).count(b"\n") == 7


async def test_ids_of_deleted_secrets_are_noted_beside_the_chain(url: str, repository: str) -> None:
    await with_secrets(url, 5)
    assert (await backed_up(url, repository)).erasures is None
    for number in (1, 3):
        async with open_store(url) as store:
            await store.delete_secret(f"id-{number}")
        await backed_up(url, repository)
    report = await backed_up(url, repository)
    assert report.erasures == 2
    lists = await (await chain_in(repository)).erasures()
    assert [one.deleted_secrets for one in lists] == [["id-1"], ["id-3"]]
    assert await damages_in(repository) == []


@pytest.mark.slow
async def test_two_runs_at_once_note_an_erasure_once(url: str, repository: str) -> None:
    await with_secrets(url, 5)
    for number in range(5):
        async with open_store(url) as store:
            await store.delete_secret(f"id-{number}")
        await asyncio.gather(*(backed_up(url, repository) for _ in range(3)))
    lists = await (await chain_in(repository)).erasures()
    assert [one.deleted_secrets for one in lists] == [[f"id-{number}"] for number in range(5)]
