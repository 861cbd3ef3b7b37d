"""What sorts behind a place, many stretches by one question: each begins where the one before it ended."""

from __future__ import annotations

from eventferry import EventStore
from eventferry.database import FIRST, ReadScope, Stretch
from eventferry.reading.pages import tidied
from tests.support import Opened, exported, import_lines, make_event

COUNT = 5
MAX_BYTES = 48 * 1024


async def read_on(store: EventStore, limit: int = 2**31) -> tuple[list[list[Stretch]], bytes]:
    """The answers, and the lines in all of them."""
    answers: list[list[Stretch]] = []
    text = b""
    bound = FIRST
    async with store._database.reading() as reading:
        while limit and not (answers and answers[-1][-1].is_end):
            found: list[Stretch] = []
            await reading.read_on(bound, ReadScope(), limit, MAX_BYTES, COUNT, found.append)
            text += b"".join([await tidied(stretch) for stretch in found])
            bound = found[-1].behind if found[-1].threads else bound
            limit -= sum(len(stretch.threads) for stretch in found)
            answers.append(found)
    return answers, text


async def filled(store: EventStore, sizes: list[int]) -> None:
    await import_lines(store, [make_event(i, payload="x" * size) for i, size in enumerate(sizes)])


async def test_the_stretches_of_one_question_come_one_behind_the_other(opened: Opened) -> None:
    async with opened() as store:
        await filled(store, [900] * 700)
        answers, text = await read_on(store)
        assert text == await exported(store)
        assert [stretch.is_end for found in answers for stretch in found][:-1].count(True) == 0
        assert max(len(found) for found in answers) in (COUNT - 1, COUNT)
        assert all(stretch.number == len(stretch.threads) for found in answers for stretch in found)


async def test_events_much_larger_than_those_before_them_come_in_their_place_too(opened: Opened) -> None:
    async with opened() as store:
        large = {40: 600_000, 41: 600_000, 200: 700_000, 699: 800_000}
        await filled(store, [large.get(place, 900) for place in range(700)])
        _, text = await read_on(store)
        assert text == await exported(store)


async def test_no_more_events_come_than_are_asked_for(opened: Opened) -> None:
    async with opened() as store:
        await filled(store, [900] * 300)
        for limit in (1, 60, 299):
            _, text = await read_on(store, limit)
            assert text == b"".join((await exported(store)).splitlines(keepends=True)[:limit])


async def test_the_end_of_the_store_is_told_where_nothing_is_left_too(opened: Opened) -> None:
    async with opened() as store:
        [[nothing]], _ = await read_on(store)
        assert nothing.is_end
        assert not nothing.threads
        await filled(store, [900])
        answers, _ = await read_on(store)
        assert [len(stretch.threads) for found in answers for stretch in found if stretch.threads] == [1]
