"""Filters of a query that the store applies itself: of types, of aggregates and of times."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from pyspark.sql.datasource import (
    EqualTo,
    Filter,
    GreaterThan,
    GreaterThanOrEqual,
    In,
    IsNotNull,
    LessThan,
    LessThanOrEqual,
    Not,
    StringStartsWith,
)

from eventferry.clock import EPOCH

_MICROSECOND = timedelta(microseconds=1)
_COLUMNS = {"type": "event_types", "aggregateId": "aggregate_ids"}


class PushedFilters:
    """The filters that the store applies; all of them must hold."""

    def __init__(self) -> None:
        self._only: dict[str, Any] = {}

    @property
    def only(self) -> dict[str, Any]:
        """They as arguments of `read_partition`."""
        start, finish = self._only.get("start_time"), self._only.get("finish_time")
        if start is not None and finish is not None and start > finish:
            return {"event_types": []}  # no event is of no type
        return self._only

    def take(self, given: Filter) -> bool:
        """Apply one more; returns whether the store can do so, exactly as Spark would."""
        column = _column(given)
        if isinstance(given, IsNotNull):
            return column is not None  # no column of an event is ever null
        if column == "timestamp":
            return self._take_time(given)
        if isinstance(given, Not):
            return column == "type" and self._exclude(given.child)
        if isinstance(given, StringStartsWith):
            return column == "aggregateId" and self._take_prefix(given.value)
        if column not in _COLUMNS:
            return False
        names = _names(given)
        if names is None:
            return False
        self._narrow(_COLUMNS[column], names)
        return True

    def _narrow(self, argument: str, names: Iterable[str]) -> None:
        before = self._only.get(argument)
        kept = [name for name in names if before is None or name in before]
        if (
            argument == "aggregate_ids"
            and (prefixes := self._only.pop("aggregate_prefixes", None)) is not None
        ):
            # Of the two together the store would give the events of both.
            kept = [name for name in kept if name.startswith(prefixes[0])]
        self._only[argument] = kept

    def _take_prefix(self, prefix: str) -> bool:
        if not prefix:
            return True  # every text begins so
        if "aggregate_prefixes" in self._only:
            return False
        if "aggregate_ids" in self._only:
            self._only["aggregate_ids"] = [
                name for name in self._only["aggregate_ids"] if name.startswith(prefix)
            ]
        else:
            self._only["aggregate_prefixes"] = [prefix]
        return True

    def _exclude(self, given: Filter) -> bool:
        names = _names(given)
        if names is None:
            return False
        self._only.setdefault("exclude_types", []).extend(names)
        return True

    def _take_time(self, given: Filter) -> bool:
        """Timestamps are whole milliseconds, and what they are compared with may lie between two of them."""
        value = getattr(given, "value", None)
        if not isinstance(value, datetime) or value.tzinfo is None:
            return False
        floor, rest = divmod((value - EPOCH) // _MICROSECOND, 1000)
        ceiling = floor + (rest > 0)
        match given:
            case GreaterThanOrEqual():
                self._from(ceiling)
            case GreaterThan():
                self._from(floor + 1)
            case LessThanOrEqual():
                self._to(floor)
            case LessThan():
                self._to(ceiling - 1)
            case EqualTo():
                self._from(ceiling)
                self._to(floor)
            case _:
                return False
        return True

    def _from(self, time: int) -> None:
        self._only["start_time"] = max(time, self._only.get("start_time", time))

    def _to(self, time: int) -> None:
        self._only["finish_time"] = min(time, self._only.get("finish_time", time))


def _column(given: Filter) -> str | None:
    """The column that a filter is about; None where it is a part of one."""
    inner = given.child if isinstance(given, Not) else given
    path: tuple[str, ...] = getattr(inner, "attribute", ())
    return path[0] if len(path) == 1 else None


def _names(given: Filter) -> list[str] | None:
    """The names that a column is compared with; None where it is something else."""
    values = given.value if isinstance(given, In) else (given.value,) if isinstance(given, EqualTo) else ()
    return list(values) if values and all(isinstance(value, str) for value in values) else None
