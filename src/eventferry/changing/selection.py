"""Which events are meant, judged event by event: what a filter says of an export, said of a line as it came."""

from __future__ import annotations

from typing import Unpack

import msgspec

from eventferry.database import Filter
from eventferry.reading.arguments import Filters, filter_of


class Selection(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which events are meant, with the meaning of the filters of an export; `Selection.of` makes one of arguments.

    Attributes:
        event_types: one of these types; None is any, and an empty set is none.
        exclude_types: but none of these types, whatever else is said.
        aggregate_ids: one of these aggregates, or one that begins with one of `aggregate_prefixes`. Both None is any.
        aggregate_prefixes: likewise, byte by byte.
        start_time: at or after this timestamp, in ms since 1970.
        finish_time: at or before this timestamp.
    """

    event_types: frozenset[str] | None = None
    exclude_types: frozenset[str] = frozenset()
    aggregate_ids: frozenset[str] | None = None
    aggregate_prefixes: tuple[str, ...] | None = None
    start_time: int | None = None
    finish_time: int | None = None

    @classmethod
    def of(cls, **filters: Unpack[Filters]) -> Selection:
        """Checks the arguments of a call. Raises UsageError with the name of the one that is wrong."""
        return cls.of_filter(filter_of(**filters))

    @classmethod
    def of_filter(cls, only: Filter) -> Selection:
        """The same of what a database is asked."""
        prefixes = only.aggregate_prefixes
        return cls(
            event_types=None if only.event_types is None else frozenset(only.event_types),
            exclude_types=frozenset(only.exclude_types),
            aggregate_ids=None if only.aggregate_ids is None else frozenset(only.aggregate_ids),
            aggregate_prefixes=prefixes if prefixes is None else tuple(sorted(set(prefixes))),
            start_time=only.start_time,
            finish_time=only.finish_time,
        )

    @property
    def is_all(self) -> bool:
        """Whether every event is meant."""
        return self == _ALL

    def takes(self, type: str, aggregate_id: str, timestamp: int) -> bool:
        """Whether an event with these is meant."""
        if self.event_types is not None and type not in self.event_types:
            return False
        if type in self.exclude_types:
            return False
        if self.start_time is not None and timestamp < self.start_time:
            return False
        if self.finish_time is not None and timestamp > self.finish_time:
            return False
        if self.aggregate_ids is None and self.aggregate_prefixes is None:
            return True
        return aggregate_id in (self.aggregate_ids or ()) or aggregate_id.startswith(
            self.aggregate_prefixes or ()
        )


_ALL = Selection()
