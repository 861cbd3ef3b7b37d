"""The last bytes of a block wait for the next one."""

import pytest

from eventferry.lines.held_back import HeldBack


@pytest.mark.parametrize("pieces", [[b"ab\n", b"cdef\n"], [b"a", b"", b"b", b"\n"], [b"", b""], []])
def test_all_bytes_pass_and_the_last_two_wait(pieces: list[bytes]) -> None:
    held, out, so_far = HeldBack(), b"", b""
    for piece in pieces:
        so_far += piece
        out += held.all_but_the_end(piece)
        assert out == so_far[:-2]
    assert out + held.rest == so_far


def test_what_comes_first_is_held_back_too() -> None:
    held = HeldBack(3, b"head\r\n")
    assert held.all_but_the_end(b'"a"\r\n') == b'head\r\n"a'
    assert held.rest == b'"\r\n'
