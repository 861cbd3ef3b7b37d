"""Content encodings: decompresses request bodies, within limits, and compresses answers."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, Protocol, cast

from eventferry.http.problems import RefusedError
from eventferry.lines.unpacking import Gzip, Unpacker, Zstd, zstd_module

CODINGS = ("gzip", "zstd", "identity")

MAX_RATIO = 200
"""The maximum compression ratio of a body. Events compress 5 to 50 times; a decompression bomb 1,000 times or more."""

ALWAYS_BYTES = 16 * 1024**2
"""Bytes that a body may decompress to, whatever the ratio: a small body can be very regular."""

_ZSTD_WINDOW_LOG = 23
"""8 MiB: the largest window that `Content-Encoding: zstd` may use (RFC 9659)."""


def unpacker(coding: str) -> Unpacker:
    """The decompressor for one of `CODINGS`."""
    if coding == "gzip":
        return Gzip("the body")
    return Zstd("the body", _ZSTD_WINDOW_LOG) if coding == "zstd" else Unpacker()


class Bound:
    """Refuses a body that decompresses to more than `max_bytes`, or to too many times its size."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._packed = 0
        self._unpacked = 0

    def came_in(self, count: int) -> None:
        """Count compressed bytes."""
        self._packed += count

    def came_out(self, count: int) -> None:
        """Count decompressed bytes. Raises RefusedError if there are too many."""
        self._unpacked += count
        if self._unpacked > self._max_bytes:
            raise RefusedError(
                413, "body-too-large", f"the body decompresses to more than {self._max_bytes} bytes"
            )
        if self._unpacked > max(ALWAYS_BYTES, MAX_RATIO * self._packed):
            raise RefusedError(
                413, "body-too-large", f"the body decompresses to more than {MAX_RATIO} times its size"
            )


_BEST_FIRST = ("zstd", "gzip", "identity")


def accepted_coding(headers: Sequence[str]) -> str:
    """The content encoding for an answer, from the `Accept-Encoding` headers; not compressed unless asked for.

    Raises:
        RefusedError: the client accepts none of the encodings.
    """
    weights: dict[str, float] = {}
    for item in ",".join(headers).lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        weights[name.removeprefix("x-")] = weight(parameters)
    weights.setdefault("identity", 0.0001 if weights.get("*") != 0 else 0)  # below all others
    best = max(_BEST_FIRST, key=lambda coding: weights.get(coding, 0))
    if not weights.get(best):
        raise RefusedError(406, "not-acceptable", f"answers are available as {', '.join(_BEST_FIRST)}")
    return best


def weight(parameters: Sequence[str]) -> float:
    """How much a client wants what has these parameters in an `Accept` header: 0 to 1."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return min(max(float(value), 0), 1)
            except ValueError:
                return 0
    return 1


class Compressor(Protocol):
    """Compresses a stream."""

    def compress(self, data: bytes, /) -> bytes:
        """Add data; returns the output that is ready."""

    def flush(self) -> bytes:
        """Return the rest of the output."""


def compressor(coding: str) -> Compressor | None:
    """The compressor for one of `CODINGS`; None for identity."""
    if coding == "gzip":
        return zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    if coding == "zstd":
        zstd: Any = zstd_module()
        return cast(Compressor, zstd.ZstdCompressor(options={zstd.CompressionParameter.checksum_flag: 1}))
    return None
