"""Much, in parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def parts_of(rows: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Rows, so many at a time; the last part may be smaller."""
    return (rows[start : start + size] for start in range(0, len(rows), size))
