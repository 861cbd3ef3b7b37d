"""Packed input: gzip and zstd, unpacked piece by piece, with little work between two pieces."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Protocol, cast

from eventferry.errors import InputError, MissingExtraError

PIECE = 1024 * 1024
"""How much is unpacked at once."""

_AT_ONCE = 16 * 1024
"""How many packed bytes are looked at together: what is behind the end of a part is copied, for every part."""

_PARTS_AT_ONCE = 64
"""How many parts may end without a piece in between: to begin one costs some ten microseconds, whatever is in it."""


def zstd_module() -> ModuleType:
    """The standard library's module for zstd, or what stands in for it before Python 3.14."""
    with contextlib.suppress(ImportError):
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]

        return cast(ModuleType, zstd)
    try:
        from backports import zstd as backport
    except ImportError:
        raise MissingExtraError("zstd needs a package: pip install 'eventferry[cli]'") from None
    return backport


class Unpacker(Protocol):
    """Takes what came in and gives what it unpacks to."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The pieces that these bytes unpack to, each at most `PIECE` bytes; an empty one says no more than that
        there was some work to do."""

    def finish(self) -> None:
        """It was all. Raises InputError where it cannot have been."""


class Identity:
    """What is not packed at all."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The bytes as they are."""
        yield data

    def finish(self) -> None:
        """Any end is one."""


def _little_by_little(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), _AT_ONCE):
        yield data[start : start + _AT_ONCE]


class Gzip:
    """One or more members of gzip, one after another; zeros behind the last are padding.

    Args:
        what: is packed, for the words of an error.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)
        self._members = 0
        """How many have come to their end."""
        self._is_begun = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The pieces that these bytes unpack to."""
        for packed in _little_by_little(data):
            yield from self._unpacked(packed)

    def _unpacked(self, data: bytes) -> Iterator[bytes]:
        try:
            while True:
                if not self._is_begun:
                    if self._members:
                        data = data.lstrip(b"\0")
                    if not data:
                        return
                    self._is_begun = True
                piece = self._member.decompress(data, PIECE)
                if self._member.eof:
                    data = self._member.unused_data
                    self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)
                    self._members += 1
                    self._is_begun = False
                    if piece or not self._members % _PARTS_AT_ONCE:
                        yield piece
                else:
                    data = self._member.unconsumed_tail
                    if piece:
                        yield piece
                    elif not data:
                        return
        except zlib.error as error:
            raise InputError(f"{self._what} is damaged, or is not gzip: {error}") from None

    def finish(self) -> None:
        """Raises InputError where the last member is not whole."""
        if self._is_begun or not self._members:
            raise InputError(f"{self._what} is damaged or cut off: it ends inside gzip")


_MAGIC = b"\x28\xb5\x2f\xfd"
_HEADER = len(_MAGIC) + 1
_HAS_CHECKSUM = 4
"""The bit of a frame's descriptor, which comes behind the magic number."""


class Zstd:
    """One or more frames of zstd, one after another.

    Args:
        what: is packed, for the words of an error.
        window_log: how large a window may be, as a power of two; None: as large as zstd can.

    Attributes:
        is_checked: whether each frame has a checksum. In one that has none a wrong bit can become another event.
    """

    def __init__(self, what: str, window_log: int | None = None) -> None:
        self._what = what
        self._zstd: Any = zstd_module()
        parameter = self._zstd.DecompressionParameter.window_log_max
        self._window_log = parameter.bounds()[1] if window_log is None else window_log
        self._options = {parameter: self._window_log}
        self._frame: Any = None
        self._start = b""  # of a frame, as long as it is too short to be looked at
        self._frames = 0
        self.is_checked = True

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The pieces that these bytes unpack to."""
        for packed in _little_by_little(data):
            yield from self._unpacked(packed)

    def _unpacked(self, data: bytes) -> Iterator[bytes]:
        try:
            while True:
                if self._frame is None:
                    data = self._start + data
                    if len(data) < _HEADER:
                        self._start = data
                        return
                    self._start = b""
                    if data.startswith(_MAGIC) and not data[len(_MAGIC)] & _HAS_CHECKSUM:
                        self.is_checked = False
                    self._frame = self._zstd.ZstdDecompressor(options=self._options)
                piece = self._frame.decompress(data, PIECE)
                if self._frame.eof:
                    data = self._frame.unused_data
                    self._frame = None
                    self._frames += 1
                    if piece or not self._frames % _PARTS_AT_ONCE:
                        yield piece
                else:
                    data = b""
                    if piece:
                        yield piece
                    elif self._frame.needs_input:
                        return
        except self._zstd.ZstdError as error:
            if "too much memory" in str(error):
                raise InputError(
                    f"{self._what} is compressed by zstd with a window of more than {2**self._window_log >> 20} MiB"
                ) from None
            raise InputError(f"{self._what} is damaged, or is not zstd: {error}") from None

    def finish(self) -> None:
        """Raises InputError where the last frame is not whole."""
        if self._frame is not None or self._start or not self._frames:
            raise InputError(f"{self._what} is damaged or cut off: it ends inside zstd")
