"""Some lines of a source, with what they don't say themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple


class SourceLines(NamedTuple):
    """Lines of events that follow one another.

    Attributes:
        text: the lines. Those of another product's table have counters and versions from the beginning of the reading.
        number: how many there are.
        versions: of the events in the source, 0 where one has none; empty where they are those of the lines.
        skipped: how many rows of another product's table were left out since the lines before, by their kind.
    """

    text: bytes = b""
    number: int = 0
    versions: Sequence[int] = ()
    skipped: Mapping[str, int] = MappingProxyType({})
