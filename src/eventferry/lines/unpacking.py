"""Packed input: gzip and zstd, unpacked piece by piece, with little work between two pieces."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any, cast

from eventferry.errors import InputError, MissingExtraError

PIECE = 1024 * 1024  # how much is unpacked at once
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


class Unpacker:
    """Takes what came in and gives what it unpacks to; this one takes what is not packed at all."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The pieces that these bytes unpack to, each at most `PIECE` bytes; an empty one says no more than that
        there was some work to do."""
        yield data

    def finish(self) -> None:
        """It was all. Raises InputError where it cannot have been."""


class _Parts(Unpacker):
    """What is packed in parts (members of gzip, frames of zstd), one after another; `what` it is, an error says."""

    _format = ""
    _error: type[Exception]

    def __init__(self, what: str) -> None:
        self._what = what
        self._part: Any = None  # what unpacks the part that has begun
        self._parts = 0  # how many have come to their end
        self._start = b""  # of a part, as long as it is too short to be looked at

    def _begin(self, data: bytes) -> bytes:
        """Begin the next part, unless there is too little of it; returns what it begins with."""
        raise NotImplementedError

    def _damaged(self, error: Exception) -> InputError:
        return InputError(f"{self._what} is damaged, or is not {self._format}: {error}")

    def feed(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), _AT_ONCE):
            yield from self._unpacked(data[start : start + _AT_ONCE])

    def _unpacked(self, data: bytes) -> Iterator[bytes]:
        try:
            while True:
                if self._part is None:
                    data = self._begin(data)
                    if self._part is None:
                        return
                piece = self._part.decompress(data, PIECE)
                if self._part.eof:
                    data, self._part = self._part.unused_data, None
                    self._parts += 1
                    if piece or not self._parts % _PARTS_AT_ONCE:
                        yield piece
                else:
                    # zlib gives back what it has not looked at, zstd keeps it.
                    data = getattr(self._part, "unconsumed_tail", b"")
                    if piece:
                        yield piece
                    elif getattr(self._part, "needs_input", not data):
                        return
        except self._error as error:
            raise self._damaged(error) from None

    def finish(self) -> None:
        if self._part is not None or self._start or not self._parts:
            raise InputError(f"{self._what} is damaged or cut off: it ends inside {self._format}")


class Gzip(_Parts):
    """One or more members of gzip; zeros behind one are padding."""

    _format, _error = "gzip", zlib.error

    def _begin(self, data: bytes) -> bytes:
        if self._parts:
            data = data.lstrip(b"\0")
        if data:
            self._part = zlib.decompressobj(zlib.MAX_WBITS | 16)
        return data


_MAGIC = b"\x28\xb5\x2f\xfd"
_HEADER = len(_MAGIC) + 1
_HAS_CHECKSUM = 4  # the bit of a frame's descriptor, which comes behind the magic number


class Zstd(_Parts):
    """One or more frames of zstd. `window_log` says how large a window may be, as a power of two; None: as large as
    zstd can.

    `is_checked` says whether each frame has a checksum. In one that has none a wrong bit can become another event.
    """

    _format = "zstd"

    def __init__(self, what: str, window_log: int | None = None) -> None:
        super().__init__(what)
        self._zstd: Any = zstd_module()
        self._error = self._zstd.ZstdError
        parameter = self._zstd.DecompressionParameter.window_log_max
        self._window_log = parameter.bounds()[1] if window_log is None else window_log
        self._options = {parameter: self._window_log}
        self.is_checked = True

    def _begin(self, data: bytes) -> bytes:
        data = self._start + data
        self._start = b""
        if len(data) < _HEADER:
            self._start = data
        else:
            if data.startswith(_MAGIC) and not data[len(_MAGIC)] & _HAS_CHECKSUM:
                self.is_checked = False
            self._part = self._zstd.ZstdDecompressor(options=self._options)
        return data

    def _damaged(self, error: Exception) -> InputError:
        if "too much memory" in str(error):
            return InputError(
                f"{self._what} is compressed by zstd with a window of more than {2**self._window_log >> 20} MiB"
            )
        return super()._damaged(error)
