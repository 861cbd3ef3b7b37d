"""Imports that are interrupted, and what else several of their test modules do to a store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from eventferry import EventStore, pipeline
from tests.support import line, make_event, make_lines

OLD = make_lines(300)
NEW = b"".join(
    line(make_event(i, type="NEW", aggregateId=f"new-{i % 7}", aggregateVersion=i + 1)) for i in range(200)
)
MEGABYTE = 1024 * 1024


def big_lines(n: int) -> bytes:
    """Events of a megabyte each: a few of them fill several commits."""
    return b"".join(
        line(make_event(i, aggregateId=f"big-{i}", payload={"text": f"{i} " + "x" * MEGABYTE}))
        for i in range(n)
    )


BIG = big_lines(20)


async def in_blocks(source: bytes, size: int = MEGABYTE) -> AsyncIterator[bytes]:
    for start in range(0, len(source), size):
        yield source[start : start + size]


async def broken_off(source: bytes) -> AsyncIterator[bytes]:
    """A source whose connection is lost at three quarters."""
    async for block in in_blocks(source[: len(source) * 3 // 4]):
        yield block
    raise ConnectionResetError("the line went dead")


async def interrupt(store: EventStore, source: bytes, **options: Any) -> None:
    """Begin an import that is interrupted after some of it was committed to the stage."""
    with pytest.raises(ConnectionResetError):
        await pipeline(broken_off(source), store.import_events(**options))


async def is_frozen(store: EventStore) -> bool:
    return (await store.describe()).is_frozen


async def save(store: EventStore) -> None:
    await store.save_event({"type": "SAVED", "aggregateId": "somebody", "aggregateVersion": 1})
