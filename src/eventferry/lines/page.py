"""A page of exported events as one JSON object."""

from __future__ import annotations

from collections.abc import Iterable


def json_page(blocks: Iterable[bytes], cursor: str | None) -> bytes:
    """`{"events":[…],"cursor":…}` from the blocks of an export. Events are not decoded, so payloads stay as spelled."""
    # The only line feeds in exported lines are those at their ends.
    events = [block.replace(b"\n", b",") for block in blocks if block]
    if events:
        events[-1] = events[-1].removesuffix(b",")
    after = b"null" if cursor is None else b'"%s"' % cursor.encode()
    return b"".join((b'{"events":[', *events, b'],"cursor":', after, b"}"))
