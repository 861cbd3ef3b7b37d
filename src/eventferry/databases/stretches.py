"""What the databases do alike to read the order: conditions, numbers, stretches, pages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Any

import msgspec

from eventferry.database import Filter, HistoryRequest, Key, OrderedEvent, ReadScope, Stretch

WALK = 4096
"""How many events that a filter leaves out one statement walks over at most, so that a reading stays short."""

_FLAGS = bytes.maketrans(b"01", b"\0\1")
_NUMBERS = msgspec.json.Decoder(list[int])

# A vector of 256 counters travels as one string of bytes of fixed-width numbers: looking one up in it costs as much as
# joining a table of 256 rows on a server and a tenth of that in SQLite, and needs no table.
WIDTH = 15
OPEN_END = [10**WIDTH - 1] * 256


def vector(counters: Sequence[int] | None) -> bytes:
    """256 counters as statements take them; None is no end."""
    return b"".join(b"%015d" % counter for counter in (OPEN_END if counters is None else counters))


def conditions(
    only: Filter,
    column: str,
    value: str,
    among: Callable[[str, str], str],
    begins: Callable[[str, str], str],
) -> str:
    """A filter as an SQL condition, whose values are `matching`'s. Columns and values stand in statements by these
    formats of their names; `among` gives the condition that a column is one of the texts of a name, `begins` that it
    begins with the text of a name. Both are byte by byte."""
    parts: list[str] = []
    kind, aggregate, time = (column.format(name) for name in ("type", "aggregateId", "timestamp"))
    if only.event_types is not None:
        parts.append(among(kind, "types") if only.event_types else "FALSE")
    if only.exclude_types:
        parts.append(f"NOT {among(kind, 'excluded')}")
    if only.aggregate_ids is not None or only.aggregate_prefixes is not None:
        named = [among(aggregate, "ids")] if only.aggregate_ids else []
        named += [begins(aggregate, name) for name in _named(only.aggregate_prefixes)]
        parts.append(f"({' OR '.join(named)})" if named else "FALSE")
    if only.start_time is not None:
        parts.append(f"{time} >= {value.format('start')}")
    if only.finish_time is not None:
        parts.append(f"{time} <= {value.format('finish')}")
    return " AND ".join(parts) or "TRUE"


def matching(
    scope: ReadScope, texts: Callable[[Sequence[str]], Any], vector: Callable[[Sequence[int] | None], Any]
) -> dict[str, Any]:
    """The values of a scope, its filter included: texts and vectors as the database takes them."""
    only = scope.only
    values: dict[str, Any] = {"start": only.start_time, "finish": only.finish_time}
    values |= _named(only.aggregate_prefixes)
    for key, wanted in (
        ("types", only.event_types),
        ("excluded", only.exclude_types),
        ("ids", only.aggregate_ids),
    ):
        if wanted:
            values[key] = texts(wanted)
    if scope.since is not None:
        values |= {"unread": vector(scope.since), "until": vector(scope.until)}
    return values


def _named(prefixes: Sequence[str] | None) -> dict[str, str]:
    """Prefixes by the names that they have in statements."""
    return {f"prefix{number}": prefix for number, prefix in enumerate(prefixes or ())}


def numbers_of(text: bytes) -> list[int]:
    """Whole numbers separated by commas."""
    return _NUMBERS.decode(b"[%b]" % text)


def flags_of(digits: bytes) -> bytes:
    """`Stretch.passing`, from the digits 0 and 1."""
    return digits.translate(_FLAGS)


def give_in_turn(
    read: Callable[[Key, int], Stretch], bound: Key, limit: int, count: int, give: Callable[[Stretch], None]
) -> None:
    """`Reading.read_on`, by a statement for each stretch: `read` takes a bound and a limit of lines."""
    for _ in range(count):
        stretch = read(bound, limit)
        give(stretch)
        limit -= stretch.number
        if stretch.is_end or not limit:
            break
        bound = stretch.behind


def until_full(lines: list[bytes], history: HistoryRequest) -> tuple[list[bytes], bool]:
    """`Reading.lines_of`: of the lines that were found those until they reach the history's bytes."""
    if sum(map(len, lines)) < history.max_bytes:
        return lines, len(lines) < history.limit
    sizes = accumulate(map(len, lines))
    return lines[: next(number for number, size in enumerate(sizes, 1) if size >= history.max_bytes)], False


def page_of(
    rows: Iterable[OrderedEvent], limit: int, max_bytes: int | None, *, is_cut: bool = False
) -> tuple[list[OrderedEvent], bool]:
    """`Reading.select`: of at most `limit` rows those until their lines reach `max_bytes`. The rest is not fetched.
    With `is_cut` the database left out rows, for their size."""
    page: list[OrderedEvent] = []
    size = 0
    for row in rows:
        page.append(row)
        size += len(row[3] or b"")
        if max_bytes is not None and size >= max_bytes:
            return page, False
    return page, not is_cut and len(page) < limit
