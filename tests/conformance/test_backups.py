"""A backup of a store on every database is its export, and goes on where the last one ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from eventferry import BackupDivergedError, back_up, open_store
from eventferry.backup import format
from eventferry.reading import exporting
from tests.support import NewUrl, back_and_forth, exported, import_lines, make_event, make_lines
from tests.support.repositories import chain_in, damages_in, lines_in
from tests.support.restoring import heads_of, restore, save_more
from tests.support.servers import PASSWORD


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(format, "PART_BYTES", 20_000)
    monkeypatch.setattr(exporting, "PAGE_EVENTS", 100)
    monkeypatch.setattr(exporting, "PAGE_BYTES", 5_000)


async def test_the_parts_are_the_export(new_url: NewUrl, tmp_path: Path) -> None:
    async with open_store(new_url()) as store:
        await store.init()
        await import_lines(store, make_lines(1500))
        report = await back_up(store, tmp_path / "repository")
        assert report.parts > 3
        assert await lines_in(str(tmp_path / "repository")) == await exported(store)
        assert report.bookmark == await store.bookmark()


@pytest.mark.once
async def test_several_connections_give_the_same_events(new_url: NewUrl, tmp_path: Path) -> None:
    async with open_store(new_url()) as store:
        await store.init()
        await import_lines(store, make_lines(1500))
        await back_up(store, tmp_path / "repository", jobs=3)
        assert await lines_in(str(tmp_path / "repository")) == await exported(store)


@pytest.mark.once
async def test_later_runs_add_what_was_saved_meanwhile(new_url: NewUrl, tmp_path: Path) -> None:
    repository = str(tmp_path / "repository")
    async with open_store(new_url()) as store:
        await store.init()
        for number in range(5):
            for version in range(7):
                await store.save_event(
                    {"type": "SAVED", "aggregateId": f"saved-{number}", "aggregateVersion": version + 1}
                )
            report = await back_up(store, repository)
            assert (report.manifest, report.events, report.total_events) == (number + 1, 7, 7 * number + 7)
        there = await exported(store)
    assert sorted((await lines_in(repository)).splitlines()) == sorted(there.splitlines())
    assert await damages_in(repository) == []


async def test_timestamps_that_go_backwards_lose_no_event(new_url: NewUrl, tmp_path: Path) -> None:
    repository = str(tmp_path / "repository")
    async with open_store(new_url()) as store:
        await store.init()
        await import_lines(store, back_and_forth(300, gaps=True))
        await back_up(store, repository)
        await store.incremental_import([make_event(i) for i in range(300, 500)], older="accept")
        await back_up(store, repository)
        there = await exported(store)
    assert sorted((await lines_in(repository)).splitlines()) == sorted(there.splitlines())
    assert await damages_in(repository) == []


@pytest.mark.once
async def test_a_store_that_was_restored_is_refused(new_url: NewUrl, tmp_path: Path) -> None:
    url, repository = new_url(), tmp_path / "repository"
    async with open_store(url) as store:
        await store.init()
        await import_lines(store, make_lines(50))
        before = await heads_of(store)
        await store.incremental_import([make_event(i) for i in range(50, 60)])
        await back_up(store, repository)
    restore(url, before)
    for attempt in range(2):  # as it was restored, and when it has grown apart
        async with open_store(url) as store:
            with pytest.raises(BackupDivergedError, match="holds 60 events"):
                await back_up(store, repository)
        await save_more(url, 30, f"another-{attempt}")


@pytest.mark.once
async def test_ids_of_deleted_secrets_are_noted(new_url: NewUrl, tmp_path: Path) -> None:
    repository = str(tmp_path / "repository")
    async with open_store(new_url()) as store:
        await store.init()
        for name in ("a", "b", "c"):
            await store.set_secret(name, f"secret of {name}")
        await back_up(store, repository, secrets=True)
        await store.delete_secret("b")
        report = await back_up(store, repository, secrets=True)
    assert report.secrets == 3
    assert [one.deleted_secrets for one in await (await chain_in(repository)).erasures()] == [["b"]]
    objects = [path.read_bytes() for path in Path(repository).rglob("*.zst")]
    assert not any(b"secret of b" in each for each in objects)


@pytest.mark.once
async def test_a_password_is_in_no_object(new_url: NewUrl, tmp_path: Path) -> None:
    async with open_store(new_url()) as store:
        await store.init()
        await import_lines(store, make_lines(5))
        await back_up(store, tmp_path / "repository")
    found = [path.read_text() for path in tmp_path.rglob("*.json")]
    assert len(found) == 3
    assert not any(PASSWORD in each for each in found)


async def test_a_chain_goes_on_after_an_erasure_which_is_noted_beside_it(
    new_url: NewUrl, tmp_path: Path
) -> None:
    """Also where the erasure has changed the last events of the backup before it."""
    repository = str(tmp_path / "repository")
    rules = tmp_path / "erase.toml"
    rules.write_text('[[rule]]\nredact = ["/number"]\n')
    async with open_store(new_url()) as store:
        await store.init()
        await import_lines(store, make_lines(300))
        assert (await back_up(store, repository)).erasures is None
        await store.erase(rules, aggregate_prefixes=["aggregate-"])
        assert (await back_up(store, repository)).erasures == 1
        await store.save_event({"type": "SAVED", "aggregateId": "new", "aggregateVersion": 1})
        report = await back_up(store, repository)
        assert (report.events, report.total_events, report.erasures) == (1, 301, 1)
        erased = (await store.erased()).erasures
    [one] = await (await chain_in(repository)).erasures()
    assert [(each.at, each.what) for each in one.erasures] == [(each.at, each.what) for each in erased]
    assert await damages_in(repository) == []
