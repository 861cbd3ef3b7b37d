"""Whatever is changed in a repository is found, and told by the name of its object. Nothing here needs a key."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import eventferry
from eventferry import EventferryError, RepositoryError, open_store
from eventferry.backup.chain import Chain, chains
from eventferry.backup.checking import RepositoryReport, check, head_of
from eventferry.backup.packing import load_recipients
from eventferry.backup.reading import Backup
from eventferry.backup.storage import open_storage
from tests.support import examples
from tests.support.small_backups import KEY, RECIPIENT, back_up


def make(folder: Path, *, runs: int = 3, recipient: str | None = None, name: str = "a") -> Path:
    """A small repository: several runs, each with several parts."""

    async def made() -> None:
        storage = open_storage(folder)
        async with open_store(str(folder.parent / f"{name}.db")) as store:
            await store.init()
            for run in range(runs):
                for number in range(4):
                    await store.append_events(f"{name}-{number}", [{"type": "T", "payload": {"run": run}}])
                await back_up(
                    store, storage, per_part=2, recipients=load_recipients([recipient] if recipient else [])
                )

    asyncio.run(made())
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("plain") / "repository")


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("encrypted") / "repository", recipient=RECIPIENT)


def checked(repository: Path, **options: object) -> RepositoryReport:
    return asyncio.run(check(open_storage(repository), read_data=1.0, **options))  # type: ignore[arg-type]


def kept_head(repository: Path) -> str:
    async def read() -> str:
        storage = open_storage(repository)
        [name] = await chains(storage)
        return head_of(await Chain.read(storage, name))

    return asyncio.run(read())


def names(repository: Path) -> list[str]:
    """The objects of a repository."""
    return sorted(str(path.relative_to(repository)) for path in repository.rglob("*.*") if path.is_file())


class Damaged:
    """A repository that is damaged in the block, and whole again behind it."""

    def __init__(self, repository: Path, *touched: str) -> None:
        self._paths = [repository / name for name in touched]

    def __enter__(self) -> list[Path]:
        self._before = [path.read_bytes() if path.exists() else None for path in self._paths]
        return self._paths

    def __exit__(self, *_: object) -> None:
        for path, data in zip(self._paths, self._before, strict=True):
            if data is None:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(data)


def is_told(report: RepositoryReport, name: str) -> bool:
    return not report.sound and name in {problem.name for problem in report.problems}


def flip(repository: Path, name: str, bit: int) -> bool:
    """Flip a bit of an object, check, and flip it back: whether that was found, by name."""
    with Damaged(repository, name) as [path]:
        data = bytearray(path.read_bytes())
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        return is_told(checked(repository), name)


def test_a_whole_repository_is_sound(whole: Path, encrypted: Path) -> None:
    for repository in (whole, encrypted):
        report = checked(repository)
        assert report.sound, report.problems
        assert (report.manifests, report.parts, report.events, report.read_parts) == (3, 6, 12, 6)
        assert report.remarks == []


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "step"), [("whole", 97), ("encrypted", 211)])
def test_a_flipped_bit_is_found_in_every_object(kind: str, step: int, request: pytest.FixtureRequest) -> None:
    repository: Path = request.getfixturevalue(kind)
    for name in names(repository):
        size = (repository / name).stat().st_size
        # Not every bit, as with -m scale, but in turn each of the eight of a byte.
        missed = [bit for bit in range(0, size * 8, step) if not flip(repository, name, bit)]
        assert missed == [], name


@pytest.mark.scale
def test_every_single_flipped_bit_is_found(whole: Path) -> None:
    for name in names(whole):
        size = (whole / name).stat().st_size
        assert [bit for bit in range(size * 8) if not flip(whole, name, bit)] == [], name


@pytest.mark.slow
@settings(
    max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(st.data())
def test_a_truncated_or_extended_object_is_found(whole: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(names(whole)))
    with Damaged(whole, name) as [path]:
        before = path.read_bytes()
        end = data.draw(st.integers(0, len(before) - 1))
        path.write_bytes(data.draw(st.sampled_from([before[:end], before + b"\n", before + before])))
        assert is_told(checked(whole), name)


def is_needed(name: str) -> bool:
    """Which part begins where is only needed until a manifest names it."""
    return "/manifests/" in name or name.endswith((".zst", ".age")) or "/" not in name


@pytest.mark.parametrize("kind", ["whole", "encrypted"])
def test_a_missing_object_is_found(kind: str, request: pytest.FixtureRequest) -> None:
    repository: Path = request.getfixturevalue(kind)
    *_, newest = [name for name in names(repository) if "/manifests/" in name]
    for name in filter(is_needed, names(repository)):
        if name == newest:
            continue  # see test_a_repository_put_back_to_an_older_state_is_found
        with Damaged(repository, name) as [path]:
            path.unlink()
            assert is_told(checked(repository), name), name


def test_swapped_objects_are_found(whole: Path) -> None:
    for ending in ("/manifests/", ".zst", ".json"):
        some = [name for name in names(whole) if ending in name]
        for one, other in itertools.pairwise(some):
            with Damaged(whole, one, other) as [first, second]:
                data = first.read_bytes(), second.read_bytes()
                first.write_bytes(data[1])
                second.write_bytes(data[0])
                report = checked(whole)
                assert is_told(report, one), (one, other)
                assert is_told(report, other), (one, other)


def test_a_manifest_of_another_chain_is_found(whole: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "other", name="b")
    theirs = [name for name in names(other) if "/manifests/" in name]
    for name, their in zip([each for each in names(whole) if "/manifests/" in each], theirs, strict=True):
        with Damaged(whole, name) as [path]:
            path.write_bytes((other / their).read_bytes())
            assert is_told(checked(whole), name)


def test_a_repository_put_back_to_an_older_state_is_found_by_a_kept_head(tmp_path: Path) -> None:
    repository = make(tmp_path / "repository", runs=2)
    older = tmp_path / "older"
    shutil.copytree(repository, older)
    early = kept_head(repository)

    async def more() -> None:
        async with open_store(str(tmp_path / "a.db")) as store:
            await store.append_events("a-0", [{"type": "T"}])
            await back_up(store, open_storage(repository))

    asyncio.run(more())
    late = kept_head(repository)
    assert checked(repository, head=early).sound
    assert checked(repository, head=late).sound
    assert checked(older).sound  # by itself it cannot tell
    report = checked(older, head=late)
    assert [problem.name[-13:] for problem in report.problems] == ["00000003.json"]


def test_a_rewritten_past_is_found_by_a_kept_head(tmp_path: Path) -> None:
    repository = make(tmp_path / "repository", runs=2)
    head = kept_head(repository)
    [newest] = [name for name in names(repository) if name.endswith("manifests/00000002.json")]

    async def rewritten() -> None:
        (repository / newest).unlink()
        async with open_store(str(tmp_path / "a.db")) as store:
            await store.append_events("a-0", [{"type": "FORGED"}])
            await eventferry.back_up(store, repository)

    asyncio.run(rewritten())
    assert checked(repository).sound
    assert is_told(checked(repository, head=head), newest)


@settings(
    max_examples=examples(40), suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(st.data())
def test_a_damaged_repository_never_gives_other_events(whole: Path, data: st.DataObject) -> None:
    """Whatever is damaged, what is read is what was backed up, or an error by name."""
    expected = lines(whole)
    name = data.draw(st.sampled_from(names(whole)))
    with Damaged(whole, name) as [path]:
        text = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            text[data.draw(st.integers(0, len(text) - 1))] ^= data.draw(st.integers(1, 255))
        path.write_bytes(text)
        try:
            found = lines(whole)
        except EventferryError as error:
            assert name in str(error)  # noqa: PT017
        else:
            assert found == expected


def lines(repository: Path) -> bytes:
    async def read() -> bytes:
        backup = await Backup.open(open_storage(repository))
        return b"".join([block async for block in backup.lines()])

    return asyncio.run(read())


def test_a_part_that_unpacks_to_other_lines_is_found_with_a_key(encrypted: Path, tmp_path: Path) -> None:
    from eventferry.backup.packing import load_identities

    (tmp_path / "key").write_text(KEY)
    assert checked(encrypted, identities=load_identities([tmp_path / "key"])).sound


def test_a_share_of_the_parts_is_read(whole: Path) -> None:
    for share, count in ((0.0, 0), (0.05, 1), (0.5, 3), (1.0, 6)):
        assert asyncio.run(check(open_storage(whole), read_data=share)).read_parts == count


def test_a_repository_that_lost_all_its_manifests_has_no_backup(tmp_path: Path) -> None:
    repository = make(tmp_path / "repository", runs=2)
    head = kept_head(repository)
    for name in names(repository):
        if "/manifests/" in name:
            (repository / name).unlink()
    with pytest.raises(RepositoryError, match="no backup"):
        checked(repository)
    report = checked(repository, head=head)
    assert [problem.name[-13:] for problem in report.problems] == ["00000002.json"]
    assert ["no manifest" in remark.reason for remark in report.remarks] == [True]
