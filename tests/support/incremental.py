"""What the tests of incremental imports share."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from decimal import Decimal
from fractions import Fraction
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from eventferry import (
    Description,
    Event,
    EventStore,
)
from tests.support import (
    LONG_AGO,
    events_of,
    examples,
    exported,
    make_event,
)

PER_EXAMPLE = settings(
    max_examples=examples(8), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def make_new(i: int, **changes: Any) -> dict[str, Any]:
    """The ith event of `make_event` as it is before it has a position or a version."""
    event = make_event(i)
    return {key: event[key] for key in ("type", "timestamp", "aggregateId", "payload")} | changes


def at(timestamp: int, number: int, aggregate: str = "a") -> dict[str, Any]:
    return {"type": "T", "timestamp": timestamp, "aggregateId": aggregate, "payload": number}


def raw(payload: str, aggregate: str = "a", timestamp: int = LONG_AGO) -> bytes:
    """A line with a payload spelled as it is given."""
    return (
        b'{"type":"T","timestamp":%d,"aggregateId":' % timestamp
        + json.dumps(aggregate).encode()
        + b',"payload":'
        + payload.encode()
        + b"}\n"
    )


async def blocks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def contents(store: EventStore) -> list[Event]:
    return events_of(await exported(store))


async def payloads(store: EventStore) -> list[Any]:
    return [event.payload for event in await contents(store)]


async def state(store: EventStore) -> tuple[bytes, Description]:
    return await exported(store), await store.describe(calculate_cursor=True)


def check_no_gaps(events: Iterable[Event]) -> None:
    threads: dict[int, set[int]] = defaultdict(set)
    versions: dict[str, list[int]] = defaultdict(list)
    for event in events:
        assert event.thread_counter not in threads[event.thread_id]
        threads[event.thread_id].add(event.thread_counter)
        versions[event.aggregate_id].append(event.aggregate_version)
    for counters in threads.values():
        assert counters == set(range(len(counters)))
    for found in versions.values():
        assert sorted(found) == list(range(1, len(found) + 1))


def meaning(text: str) -> Any:
    """The reference: a JSON text as something that Python compares as JSON values are compared."""

    def tagged(value: Any) -> Any:
        if isinstance(value, dict):
            return "object", frozenset((key, tagged(member)) for key, member in value.items())
        if isinstance(value, list):
            return "array", tuple(map(tagged, value))
        return type(value).__name__, value

    def number(text: str) -> Fraction:
        return Fraction(Decimal(text))

    return tagged(json.loads(text, parse_int=number, parse_float=number))


def spelled(value: Any, chance: random.Random) -> str:
    """One of many spellings of a JSON value; numbers are (mantissa, exponent)."""
    space = chance.choice(["", "", "", " ", "\t"])
    if isinstance(value, tuple):
        mantissa, exponent = value
        shift = chance.randrange(3) if mantissa else 0
        if exponent == 0 and chance.random() < 0.6:
            return f"{mantissa}" + chance.choice(["", "", ".0", ".00", "e0", "E+0"])
        return f"{mantissa}{'0' * shift}{chance.choice('eE')}{exponent - shift}"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=chance.random() < 0.5)
    if isinstance(value, list):
        return f"[{space}{f'{space},'.join(spelled(member, chance) for member in value)}{space}]"
    if isinstance(value, dict):
        members = list(value.items())
        chance.shuffle(members)
        inside = f",{space}".join(
            f"{spelled(key, chance)}{space}:{spelled(member, chance)}" for key, member in members
        )
        return f"{{{space}{inside}}}"
    return json.dumps(value)


JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
    | st.tuples(st.integers(-(10**25), 10**25) | st.integers(-3, 3), st.integers(-5, 5) | st.just(0))
    | st.tuples(st.integers(-3, 3), st.sampled_from([-400, 400])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


async def payload_texts(store: EventStore) -> list[str]:
    return [
        text.decode().partition(',"payload":')[2][:-1] for text in (await exported(store)).split(b"\n")[:-1]
    ]
