"""A page of exported events as one JSON object."""

from __future__ import annotations

from collections.abc import Iterable


def json_page(blocks: Iterable[bytes], cursor: str | None, bookmark: str | None) -> bytes:
    """`{"events":[…],"cursor":…,"bookmark":…}` from the blocks of an export. Events are not decoded, so payloads stay
    as spelled."""
    # The only line feeds in exported lines are those at their ends.
    events = [block.replace(b"\n", b",") for block in blocks if block]
    if events:
        events[-1] = events[-1].removesuffix(b",")
    places = (b"null" if place is None else b'"%s"' % place.encode() for place in (cursor, bookmark))
    return b'{"events":[%s],"cursor":%s,"bookmark":%s}' % (b"".join(events), *places)
