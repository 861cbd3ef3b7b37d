"""Secrets: the keys of what events encrypt, kept apart from the events."""

from __future__ import annotations

import asyncio
import json
import traceback
from collections.abc import AsyncIterator
from typing import Any

import pytest

from eventferry import (
    AUTO,
    Event,
    EventferryError,
    EventStore,
    GatheredSecrets,
    InputError,
    Secret,
    SecretConflictError,
    SecretExistsError,
    SecretsPage,
    SecretsReport,
    StoreClosedError,
    StoreFrozenError,
    UsageError,
    open_store,
    pipeline,
)
from tests.support import NewUrl, Opened, events_of, exported, import_lines, make_lines

KEY = "kEy-0fGr3atWorth"


async def secrets_of(store: EventStore, **options: Any) -> list[Secret]:
    return (await store.load_secrets(limit=10_000, include_deleted=True, **options)).secrets


async def exported_secrets(store: EventStore, **options: Any) -> bytes:
    return b"".join([block async for block in store.export_secrets(**options)])


async def import_secrets(store: EventStore, *blocks: bytes) -> SecretsReport:
    async with store.import_secrets() as sink:
        for block in blocks:
            await sink.write(block)
        return await sink.close()


def secret_line(idx: int, secret_id: str, secret: str | None) -> bytes:
    text = json.dumps({"secret": secret, "id": secret_id, "idx": idx}, ensure_ascii=False)
    return f"{text}\n".replace('", "', '","').replace('": ', '":').replace(', "', ',"').encode()


async def refused(store: EventStore, kind: type[EventferryError], *blocks: bytes) -> str:
    """Everything that the error of an import says, the traceback too."""
    before = await secrets_of(store)
    with pytest.raises(kind) as caught:
        await import_secrets(store, *blocks)
    assert await secrets_of(store) == before
    error = caught.value
    return "".join([*traceback.format_exception(error), repr(error), str(error), str(vars(error))])


# one by one


async def test_a_secret_is_there_until_it_is_deleted(opened: Opened) -> None:
    async with opened() as store:
        assert await store.get_secret("id") is None
        await store.set_secret("id", KEY)
        assert await store.get_secret("id") == KEY
        assert await store.delete_secret("id") is True
        assert await store.get_secret("id") is None
        assert await store.delete_secret("id") is False
        assert await store.delete_secret("never") is False


async def test_any_text_is_kept_as_it_is(opened: Opened) -> None:
    texts = ("", " ", "é😀\u2028", "'\"\\%_", "x" * 5000, "null", "1", "1.0", "1e3")
    async with opened() as store:
        for number, text in enumerate(texts):
            await store.set_secret(f"id-{number}", text)
            assert await store.get_secret(f"id-{number}") == text
        assert await secrets_of(store) == [Secret(text, f"id-{i}", i) for i, text in enumerate(texts)]


async def test_ids_are_told_apart_byte_by_byte(opened: Opened) -> None:
    ids = ["a", "A", "á", "a ", " a", "ａ", "1", "1.0", "01", "%", "_"]
    async with opened() as store:
        for secret_id in ids:
            assert await store.get_secret(secret_id) is None
            await store.set_secret(secret_id, f"of {secret_id}")
        for secret_id in ids:
            assert await store.get_secret(secret_id) == f"of {secret_id}"
        assert await store.delete_secret("a") is True
        assert await store.get_secret("A") == "of A"


async def test_an_id_is_used_once(opened: Opened) -> None:
    async with opened() as store:
        await store.set_secret("id", KEY)
        for _ in range(2):
            with pytest.raises(SecretExistsError, match="'id'"):
                await store.set_secret("id", "other")
            with pytest.raises(SecretExistsError):
                await store.set_secret("id", KEY)
        assert await store.get_secret("id") == KEY
        await store.delete_secret("id")
        with pytest.raises(SecretExistsError, match="deleted"):
            await store.set_secret("id", KEY)
        assert await secrets_of(store) == [Secret(None, "id", 0)]


async def test_of_many_who_set_one_id_at_once_one_succeeds(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as first, open_store(url) as second:
        await first.init()
        results = await asyncio.gather(
            *(store.set_secret("id", f"{place}") for place, store in enumerate([first, second] * 5)),
            return_exceptions=True,
        )
        assert results.count(None) == 1
        assert sum(isinstance(result, SecretExistsError) for result in results) == 9
        assert await first.get_secret("id") == f"{results.index(None)}"
        assert (await first.describe()).event_count == 1


async def test_setting_and_deleting_store_an_event_that_names_the_id_and_not_the_secret(
    opened: Opened,
) -> None:
    async with opened() as store:
        await store.set_secret("id", KEY)
        await store.set_secret("other", f"{KEY}2")
        await store.delete_secret("id")
        events = (await store.load_events(limit=10, cursor=None)).events
        told = [(event.type, event.payload, event.aggregate_version) for event in events]
        assert sorted(told, key=str) == sorted(
            [
                ("RESOLVE_SET_SECRET", {"id": "id"}, 1),
                ("RESOLVE_SET_SECRET", {"id": "other"}, 1),
                ("RESOLVE_DELETE_SECRET", {"id": "id"}, 1),
            ],
            key=str,
        )
        assert len({event.aggregate_id for event in events}) == 3
        assert KEY.encode() not in await exported(store)


async def test_what_is_refused_or_absent_stores_no_event(opened: Opened) -> None:
    async with opened() as store:
        await store.set_secret("id", KEY)
        before = await exported(store)
        with pytest.raises(SecretExistsError):
            await store.set_secret("id", "other")
        await store.delete_secret("never")
        for wrong in ("a\0", "\ud800", "x" * 5000):
            with pytest.raises(InputError):
                await store.set_secret(wrong, KEY)
        assert await exported(store) == before
        assert len(await secrets_of(store)) == 1


@pytest.mark.once
@pytest.mark.parametrize("wrong", ["a\0b", "\ud800", 5, None, b"bytes"], ids=repr)
async def test_what_is_no_text_is_refused_by_field(opened: Opened, wrong: Any) -> None:
    async with opened() as store:
        with pytest.raises(InputError) as caught:
            await store.set_secret(wrong, KEY)
        assert caught.value.field == "id"
        with pytest.raises(InputError) as caught:
            await store.set_secret("id", wrong)
        assert caught.value.field == "secret"
        assert await secrets_of(store) == []
        assert await exported(store) == b""


async def test_a_frozen_store_gives_its_secrets_and_takes_no_change(opened: Opened) -> None:
    async with opened() as store:
        await store.set_secret("id", KEY)
        await store.freeze()
        before = await exported(store)
        with pytest.raises(StoreFrozenError):
            await store.set_secret("other", KEY)
        with pytest.raises(StoreFrozenError):
            await store.delete_secret("id")
        with pytest.raises(StoreFrozenError):
            await import_secrets(store, secret_line(5, "five", KEY))
        assert await store.get_secret("id") == KEY
        assert await exported(store) == before
        assert await exported_secrets(store) == secret_line(0, "id", KEY)
        await store.unfreeze()
        assert await store.delete_secret("id") is True


async def test_describe_counts_secrets(opened: Opened) -> None:
    async with opened() as store:
        for number in range(5):
            await store.set_secret(f"{number}", KEY)
        await store.delete_secret("1")
        await store.delete_secret("3")
        counts = await store.describe()
        assert (counts.secret_count, counts.set_secret_count, counts.deleted_secret_count) == (5, 3, 2)
        assert counts.event_count == 7


async def test_an_import_of_events_leaves_the_secrets(opened: Opened) -> None:
    async with opened() as store:
        await store.set_secret("id", KEY)
        await import_lines(store, make_lines(10), maintenance_mode=AUTO)
        assert await store.get_secret("id") == KEY


# pages


async def test_pages_go_by_idx_and_say_where_to_go_on(opened: Opened) -> None:
    async with opened() as store:
        assert await store.load_secrets(limit=3) == SecretsPage([], None)
        for number in range(8):
            await store.set_secret(f"id {number}", f"{number}")
        for deleted in (2, 3, 7):
            await store.delete_secret(f"id {deleted}")
        found: list[int] = []
        idx: int | None = None
        pages = 0
        while (page := await store.load_secrets(limit=2, idx=idx)).secrets:
            assert page.idx == page.secrets[-1].idx + 1
            found += [secret.idx for secret in page.secrets]
            idx = page.idx
            pages += 1
        assert page == SecretsPage([], None)
        assert found == [0, 1, 4, 5, 6]
        assert pages == 3
        assert [secret.idx for secret in await secrets_of(store)] == list(range(8))
        assert [secret.idx for secret in await secrets_of(store, idx=3)] == [3, 4, 5, 6, 7]


async def test_a_page_can_skip_and_choose_by_id(opened: Opened) -> None:
    async with opened() as store:
        for number in range(6):
            await store.set_secret(f"{number}", "x")
        await store.delete_secret("4")
        assert [s.idx for s in (await store.load_secrets(limit=2, skip=3)).secrets] == [3, 5]
        assert [s.idx for s in (await store.load_secrets(limit=2, idx=1, skip=1)).secrets] == [2, 3]
        chosen = await store.load_secrets(limit=9, ids=["5", "4", "1", "never"])
        assert [s.id for s in chosen.secrets] == ["1", "5"]
        with_deleted = await store.load_secrets(limit=9, ids=["5", "4", "1"], include_deleted=True)
        assert [(s.id, s.secret) for s in with_deleted.secrets] == [("1", "x"), ("4", None), ("5", "x")]
        assert await store.load_secrets(limit=9, ids=[]) == SecretsPage([], None)
        assert await store.load_secrets(limit=9, skip=99) == SecretsPage([], None)


@pytest.mark.once
@pytest.mark.parametrize(
    "wrong", [{"limit": -1}, {"limit": 1.5}, {"limit": 1, "idx": -1}, {"limit": 1, "skip": "x"}], ids=repr
)
async def test_wrong_numbers_are_refused(opened: Opened, wrong: dict[str, Any]) -> None:
    async with opened() as store:
        with pytest.raises(UsageError):
            await store.load_secrets(**wrong)


@pytest.mark.once
async def test_gathering_tells_the_secrets_that_events_set_and_those_that_they_deleted(
    opened: Opened,
) -> None:
    async with opened() as store:
        for name in ("kept", "deleted", "unnamed"):
            await store.set_secret(name, f"of {name}")
        events = (await store.load_events(limit=10, cursor=None)).events
        await store.delete_secret("deleted")
        every = (await store.load_events(limit=10, cursor=None)).events
        told = [event for event in every if event.payload["id"] != "unnamed"]
        other = Event(type="OTHER", aggregate_id="a", payload={"id": "unnamed"})
        gathered = await store.gather_secrets_from_events([other, *told])
        assert gathered.deleted_secrets == ["deleted"]
        assert sorted(gathered.existing_secrets, key=lambda secret: secret.idx) == [
            Secret("of kept", "kept", 0),
            Secret(None, "deleted", 1),
        ]
        lines = [json.loads(text) for text in (await exported(store)).splitlines()]
        assert len((await store.gather_secrets_from_events(lines)).existing_secrets) == 3
        assert (await store.gather_secrets_from_events(events)).deleted_secrets == []
        assert await store.gather_secrets_from_events([]) == GatheredSecrets([], [])


@pytest.mark.once
async def test_gathering_is_not_put_off_by_events_of_secrets_that_are_not_there(opened: Opened) -> None:
    async with opened() as store:
        events = [
            {"type": "RESOLVE_SET_SECRET", "payload": {"id": "elsewhere"}},
            {"type": "RESOLVE_DELETE_SECRET", "payload": {"id": "elsewhere"}},
        ]
        assert await store.gather_secrets_from_events(events) == GatheredSecrets([], ["elsewhere"])


@pytest.mark.once
@pytest.mark.parametrize("payload", [None, {}, {"id": 5}, {"id": None}, "id", []], ids=repr)
@pytest.mark.parametrize("event_type", ["RESOLVE_SET_SECRET", "RESOLVE_DELETE_SECRET"])
async def test_an_event_about_secrets_that_names_none_is_refused_by_field(
    opened: Opened, event_type: str, payload: Any
) -> None:
    async with opened() as store:
        for event in (
            {"type": event_type, "payload": payload},
            Event(type=event_type, aggregate_id="a", payload=payload),
        ):
            with pytest.raises(InputError) as caught:
                await store.gather_secrets_from_events([event])
            assert caught.value.field == "payload"


# export


async def test_an_export_writes_lines_in_order_of_idx(opened: Opened) -> None:
    async with opened() as store:
        assert await exported_secrets(store) == b""
        await store.set_secret("b", "é😀")
        await store.set_secret("a", 'quotes "')
        assert await exported_secrets(store) == (
            '{"secret":"é😀","id":"b","idx":0}\n{"secret":"quotes \\"","id":"a","idx":1}\n'.encode()
        )


@pytest.mark.once
async def test_an_export_has_tombstones_only_if_asked_for(opened: Opened) -> None:
    async with opened() as store:
        for name in "abc":
            await store.set_secret(name, f"of {name}")
        await store.delete_secret("b")
        living = secret_line(0, "a", "of a") + secret_line(2, "c", "of c")
        assert await exported_secrets(store) == living
        assert await exported_secrets(store, idx=1) == secret_line(2, "c", "of c")
        assert await exported_secrets(store, tombstones=True) == (
            secret_line(0, "a", "of a") + secret_line(1, "b", None) + secret_line(2, "c", "of c")
        )
        assert await exported_secrets(store, idx=3, tombstones=True) == b""


@pytest.mark.once
async def test_an_export_longer_than_a_page_is_whole_and_one_that_dies_ends_inside_a_line(
    opened: Opened,
) -> None:
    lines = b"".join(secret_line(idx, f"id {idx}", "x" * 50) for idx in range(1234))
    async with opened() as store:
        await import_secrets(store, lines)
        assert await exported_secrets(store) == lines
        blocks = [block async for block in store.export_secrets()]
        assert len(blocks) > 2
        for count in range(1, len(blocks)):
            assert not b"".join(blocks[:count]).endswith(b"}\n")
            with pytest.raises(json.JSONDecodeError):
                json.loads(b"".join(blocks[:count]).splitlines()[-1])


# import


@pytest.mark.once
async def test_what_was_exported_is_imported_through_a_pipeline(opened: Opened) -> None:
    async with opened() as source, opened() as target:
        for number in range(30):
            await source.set_secret(f"id {number}", f"{number}")
        await source.delete_secret("id 7")
        report = await pipeline(source.export_secrets(tombstones=True), target.import_secrets())
        assert report == SecretsReport(imported=30)
        assert await secrets_of(target) == await secrets_of(source)
        again = await pipeline(source.export_secrets(tombstones=True), target.import_secrets())
        assert again == SecretsReport(skipped_existing=30)
        assert await secrets_of(target) == await secrets_of(source)


async def test_an_import_stores_no_events(opened: Opened) -> None:
    async with opened() as store:
        await import_secrets(store, secret_line(0, "a", "x"), secret_line(1, "b", None))
        assert (await store.describe()).event_count == 0


@pytest.mark.once
async def test_blocks_may_be_cut_anywhere(opened: Opened) -> None:
    lines = b"".join(secret_line(idx, f"id é{idx}", "é😀") for idx in range(5))
    for size in (1, 2, 3, 50):
        async with opened() as store:
            pieces = [lines[start : start + size] for start in range(0, len(lines), size)]
            assert await import_secrets(store, *pieces) == SecretsReport(imported=5)
            assert await exported_secrets(store) == lines
    async with opened() as store:
        assert await import_secrets(store, b"\xef\xbb\xbf\r\n", lines.replace(b"\n", b"\r\n")[:-2]) == (
            SecretsReport(imported=5)
        )
        assert await exported_secrets(store) == lines


async def test_equal_rows_are_skipped_whatever_their_idx(opened: Opened) -> None:
    async with opened() as store:
        await import_secrets(store, secret_line(3, "a", "x"))
        assert await import_secrets(store, secret_line(3, "a", "x")) == SecretsReport(skipped_existing=1)
        assert await import_secrets(store, secret_line(9, "a", "x")) == SecretsReport(skipped_existing=1)
        assert await secrets_of(store) == [Secret("x", "a", 3)]


async def test_another_secret_for_an_id_is_a_conflict_and_changes_nothing(opened: Opened) -> None:
    async with opened() as store:
        await store.set_secret("taken", KEY)
        lines = [secret_line(1, "new", "x"), secret_line(2, "taken", f"{KEY}2"), secret_line(3, "more", "x")]
        text = await refused(store, SecretConflictError, *lines)
        assert "'taken'" in text
        assert KEY not in text


@pytest.mark.once
async def test_an_input_that_contradicts_itself_is_a_conflict(opened: Opened) -> None:
    async with opened() as store:
        await refused(store, SecretConflictError, secret_line(0, "a", "x"), secret_line(1, "a", "y"))
        report = await import_secrets(store, secret_line(0, "a", "x"), secret_line(1, "a", "x"))
        assert report == SecretsReport(imported=1, skipped_existing=1)


async def test_a_secret_whose_idx_is_taken_gets_the_next_free_one(opened: Opened) -> None:
    async with opened() as store:
        await store.set_secret("a", "x")
        await store.set_secret("b", "y")
        report = await import_secrets(
            store, secret_line(0, "c", "z"), secret_line(7, "d", "z"), secret_line(7, "e", None)
        )
        assert report == SecretsReport(imported=3)
        found = await secrets_of(store)
        assert {secret.id: secret.idx for secret in found} == {"a": 0, "b": 1, "c": 2, "d": 7, "e": 8}
        await store.set_secret("f", "z")
        assert (await secrets_of(store))[-1] == Secret("z", "f", 9)


async def test_a_deleted_secret_never_comes_back_and_is_counted(opened: Opened) -> None:
    async with opened() as store:
        await store.set_secret("a", KEY)
        await store.delete_secret("a")
        for living in (KEY, "another"):
            report = await import_secrets(store, secret_line(0, "a", living), secret_line(5, "b", "x"))
            assert report.skipped_deleted == 1
            assert await store.get_secret("a") is None
        assert await secrets_of(store) == [Secret(None, "a", 0), Secret("x", "b", 5)]


async def test_a_tombstone_deletes_the_living_secret_of_the_target_and_is_counted(opened: Opened) -> None:
    async with opened() as store:
        await store.set_secret("a", KEY)
        await store.set_secret("b", "x")
        report = await import_secrets(store, secret_line(0, "a", None), secret_line(9, "new", None))
        assert report == SecretsReport(imported=1, deleted=1)
        assert await secrets_of(store) == [Secret(None, "a", 0), Secret("x", "b", 1), Secret(None, "new", 9)]
        with pytest.raises(SecretExistsError):
            await store.set_secret("new", "x")


async def test_a_conflict_undoes_the_deletions_of_the_same_import(opened: Opened) -> None:
    async with opened() as store:
        await store.set_secret("a", KEY)
        await store.set_secret("b", "x")
        await refused(store, SecretConflictError, secret_line(0, "a", None), secret_line(1, "b", "y"))
        assert await store.get_secret("a") == KEY


async def test_a_conflict_far_down_is_told_by_its_line_and_undoes_what_came_before(opened: Opened) -> None:
    async with opened() as store:
        await store.set_secret("taken", KEY)
        lines = [secret_line(i + 1, f"s{i}", "x") for i in range(1_200)]
        text = await refused(store, SecretConflictError, *lines, secret_line(9_999, "taken", "other"))
        assert "line 1201" in text


async def test_many_are_imported_by_few_statements_and_their_numbers_are_those_of_one_after_another(
    opened: Opened,
) -> None:
    """Each by itself, of 20,000 the last took as long as 20,000 rows take to read."""
    count = 9_000
    async with opened() as store:
        await store.set_secret("first", "x")
        lines = [secret_line(i, f"s{i}", "x" if i % 3 else None) for i in range(count)]
        async with asyncio.timeout(45):
            report = await import_secrets(store, *lines)
            again = await import_secrets(store, *lines)
        assert report == SecretsReport(imported=count)
        assert again == SecretsReport(skipped_existing=count)
        # The first number is taken, so each gets the next, which is that of the one behind it.
        assert {secret.id: secret.idx for secret in await secrets_of(store)} == {"first": 0} | {
            f"s{i}": i + 1 for i in range(count)
        }


@pytest.mark.once
async def test_an_import_of_nothing_reports_zeros(opened: Opened) -> None:
    async with opened() as store:
        assert await import_secrets(store) == SecretsReport()
        assert await import_secrets(store, b"", b"\n\r\n") == SecretsReport()


async def test_an_import_that_fails_on_the_way_stores_nothing(opened: Opened) -> None:
    async def dies() -> AsyncIterator[bytes]:
        yield secret_line(0, "a", "x")
        raise ConnectionResetError("gone")

    async with opened() as store:
        with pytest.raises(ConnectionResetError):
            await pipeline(dies(), store.import_secrets())
        assert await secrets_of(store) == []


@pytest.mark.once
async def test_an_import_that_is_over_takes_no_more(opened: Opened) -> None:
    async with opened() as store:
        sink = store.import_secrets()
        await sink.write(secret_line(0, "a", "x"))
        report = await sink.close()
        assert await sink.close() == report == SecretsReport(imported=1)
        with pytest.raises(StoreClosedError):
            await sink.write(secret_line(1, "b", "x"))


BROKEN = [
    (f'{{"secret":"{KEY}","id":"a"}}\n', "idx"),
    (f'{{"secret":"{KEY}","idx":1}}\n', "id"),
    (f'{{"secret":"{KEY}","id":5,"idx":1}}\n', "id"),
    (f'{{"secret":["{KEY}"],"id":"a","idx":1}}\n', "secret"),
    (f'{{"secret":"{KEY}","id":"a","idx":"1"}}\n', "idx"),
    (f'{{"secret":"{KEY}","id":"a","idx":-1}}\n', "idx"),
    (f'{{"secret":"{KEY}","id":"a","idx":1.5}}\n', "idx"),
    (f'{{"secret":"{KEY}","id":"a","idx":1,"colour":1}}\n', "colour"),
    (f'{{"secret":"{KEY}","id":"a","idx":1', None),
    (f'{{"secret":"{KEY}', None),
    (f'{{"secret":{KEY},"id":"a","idx":1}}\n', None),
    (f'{{"secret":"{KEY}\\ud800","id":"a","idx":1}}\n', None),
    (f'{{"secret":"{KEY}\\x","id":"a","idx":1}}\n', None),
    (f'"{KEY}"\n', None),
    (f"{KEY}\n", None),
    (f'["{KEY}"]\n', None),
]


@pytest.mark.once
@pytest.mark.parametrize(("broken", "named"), BROKEN)
async def test_a_line_that_is_no_secret_is_refused_by_its_place_and_without_quoting_it(
    opened: Opened, broken: str, named: str | None
) -> None:
    async with opened() as store:
        with pytest.raises(InputError) as caught:
            await import_secrets(store, secret_line(0, "first", "x"), broken.encode())
        assert caught.value.line == 2
        assert caught.value.byte_offset == len(secret_line(0, "first", "x"))
        if named is not None:
            assert named in str(caught.value)
        text = await refused(store, InputError, secret_line(0, "first", "x"), broken.encode())
        assert KEY not in text
        assert await secrets_of(store) == []


@pytest.mark.once
async def test_bytes_that_are_no_text_are_refused_without_quoting_the_secret(opened: Opened) -> None:
    async with opened() as store:
        broken = b'{"secret":"%s\xff","id":"a","idx":1}\n' % KEY.encode()
        assert KEY not in await refused(store, InputError, secret_line(0, "first", "x"), broken)


# never shown


@pytest.mark.once
async def test_no_representation_shows_a_secret(opened: Opened) -> None:
    async with opened() as store:
        await store.set_secret("id", KEY)
        page = await store.load_secrets(limit=1)
        assert page.secrets[0].secret == KEY
        events = events_of(await exported(store))
        shown = [page, page.secrets[0], await store.gather_secrets_from_events(events), store]
        for value in shown:
            for text in (repr(value), str(value), f"{value}", f"{[value]}"):
                assert KEY not in text


@pytest.mark.once
async def test_no_refusal_of_a_secret_shows_it(opened: Opened) -> None:
    async with opened() as store:
        await store.set_secret("id", KEY)
        wrong: list[Any] = [f"{KEY}\ud800", f"{KEY}\0", KEY.encode(), [KEY]]
        attempts: list[tuple[Any, Any]] = [("id", KEY), ("id", f"{KEY}2"), *(("new", text) for text in wrong)]
        for secret_id, secret in attempts:
            with pytest.raises(EventferryError) as caught:
                await store.set_secret(secret_id, secret)
            # From the error on: above it stands the source of this test's own frame, which knows the key.
            assert KEY not in f"{caught.value!r} {vars(caught.value)}"
        await store.freeze()
        with pytest.raises(StoreFrozenError) as frozen:
            await store.set_secret("new", KEY)
        assert KEY not in repr(frozen.value)
