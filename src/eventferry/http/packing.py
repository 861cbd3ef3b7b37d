"""Packed bodies: what they may be packed with, a bound on what comes out, and answers packed for who asks."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, Protocol, cast

from eventferry.http.problems import RefusedError
from eventferry.lines.unpacking import Gzip, Identity, Unpacker, Zstd, zstd_module

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


_BEST_FIRST = ("zstd", "gzip", "identity")


def accepted_coding(headers: Sequence[str]) -> str:
    """How to pack an answer to a request with these `Accept-Encoding`: as it is, where none is asked for by name.

    Raises:
        RefusedError: nothing that there is will do.
    """
    weights: dict[str, float] = {}
    for item in ",".join(headers).lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        weights[name.removeprefix("x-")] = _weight(parameters)
    weights.setdefault("identity", 0.0001 if weights.get("*") != 0 else 0)  # below every other that will do
    best = max(_BEST_FIRST, key=lambda coding: weights.get(coding, 0))
    if not weights.get(best):
        raise RefusedError(406, "not-acceptable", f"an answer is packed as one of {', '.join(_BEST_FIRST)}")
    return best


def _weight(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return min(max(float(value), 0), 1)
            except ValueError:
                return 0
    return 1


class Packer(Protocol):
    """Takes what goes out and gives what it packs to, some of it later."""

    def compress(self, data: bytes, /) -> bytes:
        """What is ready, when this has come too."""

    def flush(self) -> bytes:
        """The rest."""


def packer(coding: str) -> Packer | None:
    """What packs for one of `CODINGS`; None for what goes out as it is."""
    if coding == "gzip":
        return zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    if coding == "zstd":
        zstd: Any = zstd_module()
        return cast(Packer, zstd.ZstdCompressor(options={zstd.CompressionParameter.checksum_flag: 1}))
    return None
