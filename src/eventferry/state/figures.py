"""The figures that `describe` gives."""

from __future__ import annotations

from dataclasses import dataclass

from eventferry.database import Reading


@dataclass(frozen=True, slots=True)
class Counts:
    """How many events and secrets there are, and when the last event was."""

    event_count: int
    secret_count: int
    set_secret_count: int
    deleted_secret_count: int
    last_event_timestamp: int


async def counts(reading: Reading, *, estimated: bool) -> Counts:
    """Count what the store holds; the events may be estimated instead, where the database can."""
    dialect = reading.dialect
    events = dialect.table(dialect.tables.events)
    count = (dialect.estimate if estimated else None) or f"(SELECT count(*) FROM {events})"
    [row] = await reading.ask(
        f"""SELECT {count}, count(*), count(secret), count(*) - count(secret),
          coalesce((SELECT max({dialect.column("timestamp")}) FROM {events}), 0)
        FROM {dialect.table(dialect.tables.secrets)}"""
    )
    return Counts(*row)


async def latest_timestamp(reading: Reading) -> int | None:
    """The highest timestamp in the store; None where it holds no event."""
    dialect = reading.dialect
    [(latest,)] = await reading.ask(
        f"SELECT max({dialect.column('timestamp')}) FROM {dialect.table(dialect.tables.events)}"
    )
    return None if latest is None else int(latest)
