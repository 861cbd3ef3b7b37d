"""Packed bodies: what they may be packed with, and a bound on what comes out."""

from __future__ import annotations

from eventferry.http.problems import RefusedError
from eventferry.unpacking import Gzip, Identity, Unpacker, Zstd

CODINGS = ("gzip", "zstd", "identity")

MAX_RATIO = 200
"""How much larger than what came in a body may become: events pack some 5 to 50 times smaller, a bomb 1,000 times
and more."""

ALWAYS_BYTES = 16 * 1024**2
"""What a body may unpack to whatever the ratio: a small one can be very regular."""

_ZSTD_WINDOW_LOG = 23
"""8 MiB: the largest window that `Content-Encoding: zstd` may use (RFC 9659)."""


def unpacker(coding: str) -> Unpacker:
    """What unpacks one of `CODINGS`."""
    if coding == "gzip":
        return Gzip("the body")
    return Zstd("the body", _ZSTD_WINDOW_LOG) if coding == "zstd" else Identity()


class Bound:
    """Refuses a body that unpacks to too much.

    Args:
        max_bytes: what it may unpack to, at most.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._packed = 0
        self._unpacked = 0

    def came_in(self, count: int) -> None:
        """So many packed bytes came in."""
        self._packed += count

    def came_out(self, count: int) -> None:
        """So many bytes came out of them. Raises RefusedError."""
        self._unpacked += count
        if self._unpacked > self._max_bytes:
            raise RefusedError(
                413, "body-too-large", f"the body unpacks to more than {self._max_bytes} bytes"
            )
        if self._unpacked > max(ALWAYS_BYTES, MAX_RATIO * self._packed):
            raise RefusedError(
                413, "body-too-large", f"the body unpacks to more than {MAX_RATIO} times its size"
            )
