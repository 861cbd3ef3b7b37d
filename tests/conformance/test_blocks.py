"""Any events, cut into blocks anywhere, go export → import → export unchanged."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventferry import EventStore, open_store, pipeline
from eventferry.comparing.canonical import canonical
from tests.support import KEYS, NewUrl, examples, exported, line, make_event

# U+0000 is left out: not every database can hold it.
letters = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
numbers = st.one_of(
    st.integers().map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.decimals(-(10**20), 10**20, places=12).map(str).filter(lambda text: "E" not in text),
    st.sampled_from(["1.0", "-0", "1e5", "1E+5", "10e-1", "0.0e0", "12345678901234567890", "0.10"]),
)


def _string(text: str, is_ascii: bool) -> str:
    return json.dumps(text, ensure_ascii=is_ascii)


strings = st.builds(_string, letters, st.booleans())


def _array(items: list[str], space: str) -> str:
    return f"[{space}" + f"{space},{space}".join(items) + f"{space}]"


def _object(members: dict[str, str], space: str) -> str:
    return (
        "{"
        + space
        + f",{space}".join(f"{key}{space}:{value}" for key, value in members.items())
        + space
        + "}"
    )


spaces = st.sampled_from(["", "", " ", "\t", "\r"])
payloads = st.recursive(
    numbers | strings | st.sampled_from(["true", "false", "null"]),
    lambda inner: (
        st.builds(_array, st.lists(inner, max_size=4), spaces)
        | st.builds(
            _object,
            st.dictionaries(letters, inner, max_size=4).map(
                lambda d: {json.dumps(k): v for k, v in d.items()}
            ),
            spaces,
        )
    ),
    max_leaves=10,
)


@st.composite
def event_lines(draw: st.DrawFn) -> list[bytes]:
    """Lines with any position, any time, any name and any payload, however it is spelled."""
    positions = draw(
        st.lists(
            st.tuples(st.integers(0, 255), st.integers(0, 3) | st.integers(0, 2**47)),
            min_size=1,
            max_size=12,
            unique=True,
        )
    )
    lines = []
    for version, (thread, counter) in enumerate(positions, start=1):
        values = (
            str(counter),
            str(thread),
            draw(strings),
            str(draw(st.integers(0, 5) | st.integers(0, 2**50))),
            draw(strings),
            str(version),
            draw(payloads),
        )
        text = ",".join(f'"{key}":{value}' for key, value in zip(KEYS, values, strict=True))
        lines.append(f"{{{text}}}\n".encode())
    return lines


def cut(whole: bytes, chance: random.Random) -> list[bytes]:
    """The bytes in blocks, cut anywhere, in the middle of a character too; a few are empty."""
    count = min(120, len(whole))
    ends = sorted(chance.randint(0, len(whole)) for _ in range(count - 1))
    return [whole[start:end] for start, end in zip([0, *ends], [*ends, len(whole)], strict=True)]


def contents(lines: bytes) -> list[tuple[Any, ...]]:
    """What lines say, in no order; payloads as values, for not every database keeps their spelling."""
    found = []
    for text in lines.split(b"\n")[:-1]:
        head, _, payload = text.partition(b',"payload":')
        found.append((tuple(json.loads(head + b"}").items()), canonical(payload[:-1])))
    return sorted(found)


async def through(a: EventStore, b: EventStore, lines: list[bytes], chance: random.Random) -> int:
    """The lines through both stores; how many blocks went in."""
    came = cut(b"".join(lines), chance)
    report = await pipeline(came, a.import_events())
    assert report.imported == len(lines)
    first = await exported(a)
    assert contents(first) == contents(b"".join(lines))
    went = cut(first, chance)
    await pipeline(went, b.import_events())
    assert await exported(b) == first
    return len(came) + len(went)


@pytest.mark.slow
@pytest.mark.once
def test_thousands_of_random_blocks_go_through_unchanged(new_url: NewUrl) -> None:
    blocks = 0
    with asyncio.Runner() as runner:
        stores = [open_store(new_url()), open_store(new_url())]
        for store in stores:
            runner.run(store.init())

        @settings(max_examples=examples(50), deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(event_lines(), st.integers(0, 2**32))
        def go_through(lines: list[bytes], seed: int) -> None:
            nonlocal blocks
            blocks += runner.run(through(stores[0], stores[1], lines, random.Random(seed)))

        try:
            go_through()
        finally:
            for store in stores:
                runner.run(store.close())
    assert blocks >= 2_000


@pytest.mark.slow
@pytest.mark.once
def test_any_two_blocks_that_a_byte_order_mark_or_a_line_is_cut_into_give_the_same(new_url: NewUrl) -> None:
    whole = line(make_event(0, type="é", aggregateId="🛳", payload="日"))
    source = b"\xef\xbb\xbf" + whole.rstrip() + b"\r\n\n"

    async def every_cut() -> None:
        async with open_store(new_url()) as store:
            await store.init()
            for place in range(len(source) + 1):
                await pipeline([source[:place], source[place:]], store.import_events())
                assert await exported(store) == whole

    asyncio.run(every_cut())
