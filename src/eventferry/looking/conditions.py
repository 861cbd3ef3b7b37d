"""A filter as a condition of a small statement."""

from __future__ import annotations

from eventferry.database import Filter
from eventferry.databases.dialect import Condition, Dialect
from eventferry.state.small_tables import all_of


def matching(dialect: Dialect, only: Filter) -> Condition:
    """That an event is one that the filter lets pass."""
    if only.is_empty:
        return Condition("1 = 0")
    parts: list[Condition] = []
    if only.event_types is not None:
        parts.append(dialect.among("type", only.event_types))
    if only.exclude_types:
        excluded = dialect.among("type", only.exclude_types)
        parts.append(Condition(f"NOT ({excluded.text})", excluded.values))
    if only.aggregate_ids is not None or only.aggregate_prefixes is not None:
        named = [dialect.among("aggregateId", only.aggregate_ids)] if only.aggregate_ids else []
        named += [_begins(dialect, prefix) for prefix in only.aggregate_prefixes or ()]
        values = tuple(value for each in named for value in each.values)
        parts.append(Condition(f"({' OR '.join(each.text for each in named)})", values))
    time = dialect.column("timestamp")
    if only.start_time is not None:
        parts.append(Condition(f"{time} >= %s", (only.start_time,)))
    if only.finish_time is not None:
        parts.append(Condition(f"{time} <= %s", (only.finish_time,)))
    return all_of(*parts)


def _begins(dialect: Dialect, prefix: str) -> Condition:
    return (
        Condition("1 = 0")
        if dialect.refuse_text(prefix) is not None
        else dialect.begins("aggregateId", prefix)
    )
