"""A restored backup, as a store's readers meet it: the last events are gone, and nothing else tells."""

from __future__ import annotations

from eventferry import EventStore, open_store
from eventferry import cursor as vector
from tests.support import raw


async def heads_of(store: EventStore) -> list[int]:
    """The next counters: what a backup that is taken now holds."""
    return vector.decode((await store.describe(calculate_cursor=True)).cursor)


def restore(url: str, backup: list[int]) -> None:
    """Make a store what it was when these were its heads. It keeps its identity, as a restored store does."""
    statements = []
    for thread, head in enumerate(backup):
        statements.append(f'DELETE FROM "events" WHERE "threadId" = {thread} AND "threadCounter" >= {head}')
        if not url.startswith("sqlite"):
            statements.append(
                f'UPDATE "events-threads" SET "threadCounter" = {head} WHERE "threadId" = {thread}'
            )
    raw.run(url, *statements)


async def save_more(url: str, count: int, name: str) -> None:
    """Save so many events of one aggregate."""
    async with open_store(url) as store:
        for number in range(count):
            await store.save_event(
                {"type": "SAVED", "aggregateId": name, "aggregateVersion": number + 1, "payload": number}
            )
