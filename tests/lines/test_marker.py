"""The marker of an archived event is told from every other payload."""

from __future__ import annotations

import pytest

from eventferry.lines.marker import LENGTH, archive_of, archived_among, archives_in, marker_of
from tests.support import line, make_event

ID = "0123456789abcdef"


def test_a_marker_names_its_archive() -> None:
    assert archive_of(marker_of(ID)) == ID
    assert len(marker_of(ID)) == LENGTH
    assert archive_of(b'{"$archived": "0123456789abcdef"}') == ID  # as PostgreSQL prints it


@pytest.mark.parametrize(
    "payload",
    [
        b'{"$archived":"0123456789ABCDEF"}',
        b'{"$archived":"0123456789abcde"}',
        b'{"$archived":"0123456789abcdef","x":1}',
        b'{"archived":"0123456789abcdef0"}',
        b'["$archived","0123456789abcdef"]',
        b'{"$archived":"0123456789abcdef"}\n',
        b"null",
        b"",
    ],
)
def test_other_payloads_are_none(payload: bytes) -> None:
    assert archive_of(payload) is None


def test_markers_are_found_only_where_the_payload_is_one() -> None:
    inner = {"payload": {"$archived": ID}}
    text = '"payload":{"$archived":"' + ID + '"}}'
    lines = b"".join(
        line(make_event(i, payload=payload))
        for i, payload in enumerate([{"$archived": ID}, inner, [inner], text, None])
    )
    assert archived_among(lines) == [True, False, False, False, False]
    assert archives_in(lines) == {ID}
    others = b"".join(lines.splitlines(keepends=True)[1:])
    assert archives_in(others) == set()
    assert archived_among(line(make_event(0))) is None
