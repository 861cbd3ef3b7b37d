"""What the databases do alike to give stretches of the order."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from eventferry.database import Key, Stretch

_NUMBERS = msgspec.json.Decoder(list[int])


def numbers_of(text: bytes) -> list[int]:
    """Whole numbers that commas part."""
    return _NUMBERS.decode(b"[%b]" % text)


def give_in_turn(
    read: Callable[[Key | None, int], Stretch],
    bound: Key | None,
    limit: int,
    count: int,
    give: Callable[[Stretch], None],
) -> None:
    """`Reading.read_on`, by one question for each stretch: `read` takes where it begins and how many events it has
    at most."""
    for _ in range(count):
        stretch = read(bound, limit)
        give(stretch)
        limit -= len(stretch.threads)
        if stretch.is_end or not limit:
            break
        bound = stretch.behind
