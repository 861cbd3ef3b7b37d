"""What the databases do alike to read the order: numbers, stretches, pages."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from eventferry.database import Key, Position, Stretch

_FLAGS = bytes.maketrans(b"01", b"\0\1")
_NUMBERS = msgspec.json.Decoder(list[int])


def numbers_of(text: bytes) -> list[int]:
    """Whole numbers separated by commas."""
    return _NUMBERS.decode(b"[%b]" % text)


def flags_of(digits: bytes) -> bytes:
    """`Stretch.passing`, from the digits 0 and 1."""
    return digits.translate(_FLAGS)


def give_in_turn(
    read: Callable[[Key, int], Stretch], bound: Key, limit: int, count: int, give: Callable[[Stretch], None]
) -> None:
    """`Reading.read_on`, by one statement for each stretch: `read` takes where it begins and how many lines it may
    have."""
    for _ in range(count):
        stretch = read(bound, limit)
        give(stretch)
        limit -= stretch.number
        if stretch.is_end or not limit:
            break
        bound = stretch.behind


def page_of(
    rows: Iterable[Position], limit: int, max_bytes: int | None, *, is_cut: bool = False
) -> tuple[list[Position], bool]:
    """`Reading.select`: rows until there are `limit` of them or their lines reach `max_bytes`. The rest is not fetched.

    Args:
        rows: at most `limit`.
        limit: at most this many.
        max_bytes: of lines; None where the rows have none.
        is_cut: whether the database left out rows, for their size.
    """
    page: list[Position] = []
    size = 0
    for row in rows:
        page.append(row)
        size += len(row[3] or b"")
        if max_bytes is not None and size >= max_bytes:
            return page, False
    return page, not is_cut and len(page) < limit
