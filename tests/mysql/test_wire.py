"""Rows as they come off the wire, cut anywhere."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eventferry.databases.mysql.wire import _missing, _packets

WHOLE = 2**24 - 1
END = b"\xfe\x00\x00\x02\x00"


def sent(rows: list[bytes]) -> bytes:
    """What a server sends for rows: packets that tell their length, and an end."""
    parts: list[bytes] = []
    for row in [*rows, END]:
        for start in range(0, len(row) + 1, WHOLE):
            part = row[start : start + WHOLE]
            parts += [len(part).to_bytes(3, "little"), bytes([len(parts) % 256]), part]
    return b"".join(parts)


def taken(blocks: list[bytes]) -> tuple[list[bytes], bytes | None, bytes]:
    """What is made of it, block by block."""
    found: list[bytes] = []
    rest = b""
    for block in blocks:
        rows, last, rest = _packets(rest + block)
        found += rows
        if last is not None:
            return found, last, rest
    return found, None, rest


# The first byte of a row is the length of a short text, or that its text is NULL.
ROWS = st.lists(
    st.builds(lambda first, rest: bytes([first]) + rest, st.integers(0, 251), st.binary(max_size=40))
)


@given(rows=ROWS, cuts=st.lists(st.integers(0, 2000)))
def test_rows_are_the_same_wherever_the_blocks_are_cut(rows: list[bytes], cuts: list[int]) -> None:
    data = sent(rows)
    places = sorted({min(cut, len(data) - 1) for cut in cuts})
    blocks = [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]
    assert taken(blocks) == (rows, END, b"")
    assert taken(blocks[:-1])[1] is None


def test_rows_of_several_packets_are_put_together() -> None:
    rows = [b"a" * (WHOLE - 1), b"b" * WHOLE, b"c" * (2 * WHOLE), b"d" * (2 * WHOLE + 5), b"e"]
    data = sent(rows)
    third = len(data) // 3
    assert taken([data[:third], data[third : 2 * third], data[2 * third :]]) == (rows, END, b"")


def test_a_row_of_several_packets_is_asked_for_packet_by_packet() -> None:
    """Each time that more of it comes, what has come is put together: little by little that would take for ever."""
    data = sent([b"c" * (2 * WHOLE + 5)])
    rest, at, times = data[:4], 4, 0
    while not (found := _packets(rest))[0]:
        size = max(_missing(rest), 4)  # where only its header is to come, that
        rest, at, times = rest + data[at : at + size], at + size, times + 1
        assert times <= 2 * 3
    assert found[0] == [b"c" * (2 * WHOLE + 5)]
