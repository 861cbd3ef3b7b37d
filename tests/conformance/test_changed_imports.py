"""What is changed on its way into a store: dense places, resumes, refusals, on every database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from eventferry import (
    ChangeError,
    Changes,
    Event,
    EventStore,
    ImportReport,
    InputError,
    ResumeError,
    check,
    pipeline,
)
from eventferry.importing.replace import Replacement
from eventferry.lines.limits import MAX_ID_LENGTH
from tests.support import (
    Opened,
    as_dict,
    events_of,
    exported,
    import_lines,
    line,
    make_event,
    make_lines,
)

LINES = make_lines(600)


def renames(kind: str, name: str, tmp_path: Path) -> Path:
    """A file with a rule that renames a type."""
    path = tmp_path / f"{kind}-{name}.toml"
    path.write_text(f'[[rule]]\ntype = "{kind}"\nrename = "{name}"\n')
    return path


async def changed(source: bytes, changes: Changes) -> bytes:
    async def blocks() -> AsyncIterator[bytes]:
        yield source

    return b"".join([block async for block in changes(blocks())])


async def test_a_copy_that_is_filtered_and_renamed_is_sound_and_without_a_gap(
    opened: Opened, tmp_path: Path
) -> None:
    changes = Changes(
        rules=renames("TYPE_1", "OTHER", tmp_path),
        exclude_types=["TYPE_0"],
        aggregate_prefixes=["aggregate-1", "aggregate-2"],
    )
    async with opened() as a, opened() as b:
        await import_lines(a, LINES)
        report = await pipeline(a.export_events(), changes, b.import_events())
        wanted = [i for i in range(600) if i % 10 in (1, 2) and i % 3 != 0]
        assert report.imported == changes.report.written == len(wanted)
        events = events_of(await exported(b))
        assert [event.payload["number"] for event in events] == wanted
        assert {event.type for event in events} == {"OTHER", "TYPE_2"}
        assert [event.thread_counter for event in events] == list(range(len(wanted)))
        found = await check(b)
        assert (found.sound, found.missing_counters, found.missing_versions) == (True, 0, 0)
        await b.save_event(
            {"type": "T", "aggregateId": "aggregate-1", "aggregateVersion": 41}
        )  # and goes on behind it


# resumes


@pytest.fixture
def small_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Replacement, "batch_bytes", 4_000)


async def interrupt(store: EventStore, source: bytes, changes: Changes) -> int:
    """An import that breaks off behind some of its commits; how many events are committed."""
    sink = store.import_events()

    async def broken() -> AsyncIterator[bytes]:
        for at in range(0, len(source), 1_000):
            yield source[at : at + 1_000]
        while not sink.saved_events_count:
            await asyncio.sleep(0.01)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await pipeline(broken(), changes, sink)
    return sink.saved_events_count


async def resume(store: EventStore, changes: Changes) -> None:
    async def source() -> AsyncIterator[bytes]:
        for at in range(0, len(LINES), 7_777):
            yield LINES[at : at + 7_777]

    await pipeline(source(), changes, store.import_events(resume=True))


@pytest.mark.once
async def test_a_changed_import_that_is_resumed_is_as_one_that_was_not_interrupted(
    opened: Opened, tmp_path: Path, small_commits: None
) -> None:
    options: dict[str, Any] = {"rules": renames("TYPE_1", "OTHER", tmp_path), "exclude_types": ["TYPE_0"]}
    async with opened() as store:
        assert 0 < await interrupt(store, LINES[: len(LINES) // 2], Changes(**options)) < 300
        changes = Changes(**options)
        await resume(store, changes)
        assert await exported(store) == await changed(LINES, Changes(**options))
        assert (changes.report.read, changes.report.written) == (600, 400)  # of the whole source


@pytest.mark.parametrize("other", [{}, {"exclude_types": ["TYPE_0"]}, {"keep_positions": True}], ids=str)
@pytest.mark.once
async def test_a_resume_with_other_changes_is_refused_by_name(
    opened: Opened, tmp_path: Path, small_commits: None, other: dict[str, Any]
) -> None:
    rules = renames("TYPE_1", "OTHER", tmp_path)
    async with opened() as store:
        await import_lines(store, make_lines(5))
        await interrupt(store, LINES[: len(LINES) // 2], Changes(rules=rules))
        with pytest.raises(ResumeError, match="changed in another way"):
            await resume(store, Changes(**other))
        assert await exported(store) == make_lines(5)
        await resume(store, Changes(rules=rules))  # its stage is still there
        assert await exported(store) == await changed(LINES, Changes(rules=rules))


@pytest.mark.once
async def test_a_resume_with_changes_that_differ_only_further_on_is_as_a_whole_import_with_them(
    opened: Opened, small_commits: None
) -> None:
    def late(event: Event) -> Event:
        return event if event.payload["number"] < 500 else msgspec.structs.replace(event, type="LATE")

    async with opened() as store:
        await interrupt(store, LINES[: len(LINES) // 2], Changes())
        await resume(store, Changes(function=late))
        assert await exported(store) == await changed(LINES, Changes(function=late))


# refusals


@pytest.mark.once
async def test_what_a_function_cannot_change_leaves_the_store_as_it_was(opened: Opened) -> None:
    def refuse(event: Event) -> Event:
        if event.payload["number"] == 599:
            raise ValueError("not this one")
        return event

    async with opened() as store:
        await import_lines(store, make_lines(5))
        with pytest.raises(ChangeError, match="not this one"):
            await import_changed(store, LINES, Changes(function=refuse))
        assert await exported(store) == make_lines(5)


async def import_changed(store: EventStore, source: bytes, changes: Changes) -> None:
    async def blocks() -> AsyncIterator[bytes]:
        yield source

    await pipeline(blocks(), changes, store.import_events())


@pytest.mark.parametrize("behind", [0, 20])
async def test_what_a_store_refuses_at_its_end_is_told_by_the_line(opened: Opened, behind: int) -> None:
    lines = [line(make_event(0)), b"\n", line(make_event(1)), line(make_event(0, aggregateId="other"))]
    lines += [line(make_event(i, payload="x" * 64 * 1024)) for i in range(2, 2 + behind)]
    async with opened() as store:
        with pytest.raises(
            InputError, match="threadId 0 with threadCounter 0 is already in line 1"
        ) as caught:
            await import_changed(store, b"".join(lines), Changes(keep_positions=True))
        assert caught.value.field == "threadCounter"
        if not behind:
            assert (caught.value.line, caught.value.byte_offset) == (4, sum(map(len, lines[:3])))
        else:  # what it was made of is not known any more
            assert caught.value.line is None
            assert "in line 3 of those that the changes gave" in str(caught.value)
        assert await exported(store) == b""


# incremental imports


@pytest.mark.once
async def test_duplicates_are_those_of_what_comes_out(opened: Opened, tmp_path: Path) -> None:
    changes = Changes(rules=renames("TYPE_1", "OTHER", tmp_path), exclude_types=["TYPE_0"])
    batch = [make_event(i) for i in range(30)]
    async with opened() as store:
        assert await store.incremental_import(batch, changes=changes) == ImportReport(20, 0, 0)
        assert await store.incremental_import(batch, changes=changes) == ImportReport(0, 20, 0)
        assert (changes.report.read, changes.report.left_out) == (30, 10)  # of the second one
        events = events_of(await exported(store))
        assert {event.type for event in events} == {"OTHER", "TYPE_2"}
        changed_events = [as_dict(event) for event in events]
        assert await store.incremental_import(changed_events) == ImportReport(0, 20, 0)


@pytest.mark.once
async def test_a_dry_run_of_a_changed_incremental_import_stores_nothing(opened: Opened) -> None:
    changes = Changes(event_types=["TYPE_1"])
    async with opened() as store:
        report = await store.incremental_import(map(make_event, range(30)), dry_run=True, changes=changes)
        assert report == ImportReport(10, 0, 0)
        assert changes.report.left_out == 20
        assert await exported(store) == b""


@pytest.mark.once
async def test_what_becomes_no_event_is_told_by_the_number_of_the_event_that_came(opened: Opened) -> None:
    def spoil(event: Event) -> Event:
        return event if event.payload["number"] < 1234 else msgspec.structs.replace(event, type="x" * 701)

    async with opened() as store:
        with pytest.raises(InputError, match="becomes an event that cannot be") as caught:
            await store.incremental_import(map(make_event, range(2000)), changes=Changes(function=spoil))
        assert (caught.value.line, caught.value.field) == (1235, "type")
        assert await exported(store) == b""


@pytest.mark.once
async def test_the_report_is_of_one_import_and_not_of_those_that_failed_before(opened: Opened) -> None:
    def fail(event: Event) -> Event:
        if event.payload == "wrong":
            raise ValueError(event.type)
        return event

    changes = Changes(function=fail)
    async with opened() as store:
        with pytest.raises(ChangeError, match="fail raised ValueError"):
            await store.incremental_import([make_event(0), make_event(1, payload="wrong")], changes=changes)
        await store.incremental_import(map(make_event, range(3)), changes=changes)
        assert (changes.report.read, changes.report.written) == (3, 3)


@pytest.mark.once
async def test_what_is_refused_is_told_by_the_aggregate_that_came(opened: Opened, tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text(
        '[[rule]]\naggregate_prefix = "aggregate-"\nrename_aggregate = "other-"\n'
        '[[rule]]\naggregate_from = "/number"\n'
    )
    changes = Changes(rules=tmp_path / "rules.toml")
    event = make_event(1, payload={"number": "9" * MAX_ID_LENGTH})
    async with opened() as store:
        with pytest.raises(
            InputError, match="an event of aggregate 'aggregate-1' becomes an event that cannot"
        ):
            await store.incremental_import([event], changes=changes)


async def test_a_changed_event_must_fit_the_columns_of_the_store(opened: Opened) -> None:
    def spoil(event: Event) -> Event:
        return msgspec.structs.replace(event, payload="\0")

    async with opened() as store:
        error: InputError | None = None
        try:
            await store.incremental_import([make_event(0)], changes=Changes(function=spoil))
        except InputError as refused:
            error = refused
        events = events_of(await exported(store))
        assert error is None or (error.field, error.line) == ("payload", 1)
        assert [event.payload for event in events] == ([] if error else ["\0"])
