"""The figures that `describe` gives."""

from __future__ import annotations

from collections.abc import Sequence

from eventferry import cursor as vector
from eventferry.database import Database, Reading, Stage
from eventferry.results import Description, OpenImportDescription
from eventferry.state import owners


async def describe(database: Database, *, with_cursor: bool, estimated: bool) -> Description:
    """What the store holds. The number of events may be estimated, where the database can."""
    async with database.reading() as reading:
        dialect = reading.dialect
        events = dialect.table(dialect.tables.events)
        count = (dialect.estimate if estimated else None) or f"(SELECT count(*) FROM {events})"
        [(event_count, secret_count, set_secret_count, last_event_timestamp)] = await reading.ask(
            f"""SELECT {count}, count(*), count(secret),
              coalesce((SELECT max({dialect.column("timestamp")}) FROM {events} WHERE {dialect.is_time}), 0)
            FROM {dialect.table(dialect.tables.secrets)}"""
        )
        marker = await reading.freeze()
        left = await reading.stages("open")
        in_parts = await reading.stages("parts")
        cursor = vector.encode(await reading.heads()) if with_cursor else None
    marker = await owners.living(database, marker)
    return Description(
        event_count=event_count,
        secret_count=secret_count,
        set_secret_count=set_secret_count,
        deleted_secret_count=secret_count - set_secret_count,
        last_event_timestamp=last_event_timestamp,
        is_frozen=marker is not None,
        resource_names=database.traits.resource_names,
        frozen_by=None if marker is None else "user" if marker.owner is None else "operation",
        frozen_since=None if marker is None else marker.since,
        open_import=_told(left),
        parts_import=_told(in_parts),
        cursor=cursor,
    )


def _told(stages: Sequence[Stage]) -> OpenImportDescription | None:
    return OpenImportDescription(stages[0].id, stages[0].since) if stages else None


async def latest_timestamp(reading: Reading) -> int | None:
    """The highest timestamp in the store; None where it holds no event."""
    dialect = reading.dialect
    [(latest,)] = await reading.ask(
        f"SELECT max({dialect.column('timestamp')}) FROM {dialect.table(dialect.tables.events)} "
        f"WHERE {dialect.is_time}"
    )
    return None if latest is None else int(latest)
