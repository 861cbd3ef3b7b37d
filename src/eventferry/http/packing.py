"""Packed bodies: gzip and zstd, unpacked piece by piece, with a bound on what comes out; and packed for who asks."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, cast

from eventferry.errors import InputError
from eventferry.files import zstd_module
from eventferry.http.problems import RefusedError

CODINGS = ("gzip", "zstd", "identity")

PIECE = 1024 * 1024
"""How much is unpacked at once."""

MAX_RATIO = 200
"""How much larger than what came in a body may become: events pack some 5 to 50 times smaller, a bomb 1,000 times
and more."""

ALWAYS_BYTES = 16 * 1024**2
"""What a body may unpack to whatever the ratio: a small one can be very regular."""

_ZSTD_WINDOW_LOG = 23
"""8 MiB: the largest window that `Content-Encoding: zstd` may use (RFC 9659)."""


class Unpacker(Protocol):
    """Takes what came in and gives what it unpacks to."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The pieces that these bytes unpack to, each at most `PIECE` bytes."""

    def finish(self) -> None:
        """It was all. Raises InputError where it cannot have been."""


class Identity:
    """What is not packed at all."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The bytes as they are."""
        yield data

    def finish(self) -> None:
        """Any end is one."""


_AT_ONCE = 16 * 1024
"""How many packed bytes are looked at together: what is behind the end of a part is copied, for every part."""


def _little_by_little(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), _AT_ONCE):
        yield data[start : start + _AT_ONCE]


class Gzip:
    """One or more members of gzip, one after another."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The pieces that these bytes unpack to."""
        for packed in _little_by_little(data):
            yield from self._unpacked(packed)

    def _unpacked(self, data: bytes) -> Iterator[bytes]:
        try:
            while True:
                if self._member.eof:
                    data = data or self._member.unused_data
                    if not data:
                        return
                    self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)
                piece = self._member.decompress(data, PIECE)
                data = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
                if piece:
                    yield piece
                elif not data:
                    return
        except zlib.error as error:
            raise InputError(f"the body is not gzip: {error}") from None

    def finish(self) -> None:
        """Raises InputError where the last member is not whole."""
        if not self._member.eof:
            raise InputError("the gzip body is cut off")


class Zstd:
    """One or more frames of zstd, one after another."""

    def __init__(self) -> None:
        self._zstd: Any = zstd_module()
        self._frame = self._new_frame()

    def _new_frame(self) -> Any:
        return self._zstd.ZstdDecompressor(
            options={self._zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
        )

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The pieces that these bytes unpack to."""
        for packed in _little_by_little(data):
            yield from self._unpacked(packed)

    def _unpacked(self, data: bytes) -> Iterator[bytes]:
        try:
            while True:
                if self._frame.eof:
                    if not data:
                        return
                    self._frame = self._new_frame()
                piece = self._frame.decompress(data, PIECE)
                data = self._frame.unused_data if self._frame.eof else b""
                if piece:
                    yield piece
                if not data and (self._frame.eof or self._frame.needs_input):
                    return
        except self._zstd.ZstdError as error:
            raise InputError(f"the body is not zstd: {error}") from None

    def finish(self) -> None:
        """Raises InputError where the last frame is not whole."""
        if not self._frame.eof:
            raise InputError("the zstd body is cut off")


def unpacker(coding: str) -> Unpacker:
    """What unpacks one of `CODINGS`."""
    return Gzip() if coding == "gzip" else Zstd() if coding == "zstd" else Identity()


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
