"""Files of lines: read as blocks, written beside and renamed into place at the end; `.gz` and `.zst` by name."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import threading
import zlib
from collections.abc import AsyncGenerator, Callable
from gzip import BadGzipFile, GzipFile
from pathlib import Path
from secrets import token_hex
from types import ModuleType
from typing import IO, Any, ParamSpec, TypeVar, cast

from eventferry.ending import to_the_end
from eventferry.errors import EventferryError, InputError, MissingExtraError, StoreClosedError

BLOCK = 1024 * 1024

_STEP = 8 * 1024 * 1024
"""Bytes of a new file that may wait to be written to the disk: what is on its way while more is being made is not
waited for at the end."""

P = ParamSpec("P")
T = TypeVar("T")


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


class _Gzip(GzipFile):
    """Without a name and the time of writing in it: the same events give the same file."""

    def __init__(self, path: Path, mode: str) -> None:
        self._underneath = path.open(mode)
        super().__init__("", mode, compresslevel=6, fileobj=self._underneath, mtime=0)

    def close(self) -> None:
        """Close the file underneath too, which a GzipFile leaves to its caller."""
        try:
            super().close()
        finally:
            self._underneath.close()


def _opened(path: Path, suffix: str, mode: str) -> IO[bytes]:
    if suffix == ".gz":
        return cast(IO[bytes], _Gzip(path, mode))
    if suffix == ".zst":
        zstd = zstd_module()
        # With a checksum: a flipped bit must not become another event.
        options = {zstd.CompressionParameter.checksum_flag: 1} if mode == "wb" else None
        return cast(IO[bytes], zstd.open(path, mode, options=options))
    # Without a buffer where a read may wait for ever: closing a buffered file waits for its reader.
    return path.open(mode) if path.is_file() or "w" in mode else cast(IO[bytes], path.open(mode, buffering=0))


async def detached(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that may block for ever (a pipe whose other end is silent), in a thread that nobody
    waits for: Ctrl-C must end the process, not the patience of whoever is at the other end.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def tell(setter: Callable[[Any], None], outcome: Any) -> None:
        def settle() -> None:
            if not future.done():
                setter(outcome)

        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle)

    def call() -> None:
        try:
            outcome = function(*args, **kwargs)
        except BaseException as error:
            tell(future.set_exception, error)
        else:
            tell(future.set_result, outcome)

    threading.Thread(target=call, name="eventferry-pipe", daemon=True).start()
    return await future


async def read_blocks(source: str | os.PathLike[str] | IO[bytes]) -> AsyncGenerator[bytes, None]:
    """The bytes of a file, unpacked, in blocks; a file object is read from where it stands and left open."""
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        try:
            # A named pipe can be waited for long, and its opening already waits for the other end.
            is_file = await asyncio.to_thread(path.is_file)
            call = asyncio.to_thread if is_file else detached
            file = await call(_opened, path, path.suffix, "rb")
        except OSError as error:
            raise EventferryError(f"{path} cannot be read: {error.strerror}") from None
        owned = True
    else:
        file, owned, call, is_file = source, False, detached, False
    # A pipe is read as it comes: `read` would wait until a whole block is there.
    read = file.read if is_file else getattr(file, "read1", file.read)
    next_block: asyncio.Future[bytes] | None = None
    try:
        while block := await (asyncio.shield(next_block) if next_block is not None else call(read, BLOCK)):
            # Of a file the next block is unpacked while this one is used; of a pipe nothing is taken in advance.
            next_block = asyncio.ensure_future(call(read, BLOCK)) if is_file else None
            yield block
    except (EOFError, BadGzipFile, zlib.error) as error:
        raise InputError(f"the compressed file is damaged or cut off: {error}") from None
    except Exception as error:
        if type(error).__name__ == "ZstdError":  # its module may not be there
            raise InputError(f"the compressed file is damaged or cut off: {error}") from None
        raise
    finally:
        try:
            if next_block is not None:
                await to_the_end(_settled(next_block))
        finally:
            if owned:
                file.close()


async def _settled(future: asyncio.Future[Any]) -> BaseException | None:
    """Wait until a future is over; its error, if it has one."""
    await asyncio.wait([future])
    return asyncio.CancelledError() if future.cancelled() else future.exception()


class FileSink:
    """A file that appears, whole, when it is closed; until then it stands beside under another name.

    A block is packed and written while the next one is being made; an error of that is raised by the next call.

    Args:
        path: the file.
        private: nobody else may read it.
    """

    def __init__(self, path: str | os.PathLike[str], *, private: bool = False) -> None:
        self._path = Path(path).resolve()  # a link stays a link
        is_special = self._path.exists() and not stat.S_ISREG(self._path.stat().st_mode)
        self._beside = (
            self._path if is_special else self._path.with_name(f".{self._path.name}.{token_hex(4)}.part")
        )
        self._is_special = is_special
        self._private = private
        # What is no regular file may wait for somebody at its other end.
        self._call = detached if is_special else asyncio.to_thread
        self._file: IO[bytes] | None = None
        self._writing: asyncio.Future[None] | None = None
        self._waiting = 0
        self._closed = False

    async def write(self, block: bytes) -> None:
        """Add a block."""
        file = await self._opened()
        await self._written()
        self._writing = asyncio.ensure_future(self._call(self._put, file, block))

    def _put(self, file: IO[bytes], block: bytes) -> None:
        file.write(block)
        self._waiting += len(block)
        if self._waiting >= _STEP and not self._is_special:
            self._waiting = 0
            # It has what is there written to the disk, without waiting; and what is there already give up its memory,
            # which the database has better use for.
            with contextlib.suppress(OSError, AttributeError):  # not every system knows it
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    async def _written(self) -> None:
        """Wait for the block before; raises its error."""
        if self._writing is not None:
            await asyncio.shield(self._writing)  # a thread cannot be cancelled: `abort` waits for it
            self._writing = None

    async def close(self) -> None:
        """Put the file into place, durably; twice is fine."""
        if not self._closed:
            file = await self._opened()
            try:
                await self._written()
                self._writing = asyncio.ensure_future(self._call(self._finish, file))
                await self._written()
            except BaseException as error:
                await self.abort(error)
                raise
            self._closed = True

    async def abort(self, error: BaseException | None = None) -> None:
        """Leave what was there before; twice is fine."""
        if self._closed:
            return
        self._closed = True
        await to_the_end(self._leave())

    async def _leave(self) -> None:
        if self._writing is not None:
            if self._is_special:  # it may never be taken
                self._writing.add_done_callback(lambda future: future.cancelled() or future.exception())
            else:
                await _settled(self._writing)
        if self._file is not None:
            with contextlib.suppress(Exception):
                self._file.close()
            if not self._is_special:
                self._beside.unlink(missing_ok=True)

    async def _opened(self) -> IO[bytes]:
        if self._closed:
            raise StoreClosedError(f"{self._path} is closed")
        if self._file is None:
            try:
                if self._is_special:
                    self._file = await detached(_opened, self._beside, self._path.suffix, "wb")
                else:  # at once, not in a thread: a cancellation in between would leave the file behind
                    if self._private:
                        os.close(os.open(self._beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
                    self._file = _opened(self._beside, self._path.suffix, "wb")
            except OSError as error:
                raise EventferryError(f"{self._path} cannot be written: {error.strerror}") from None
        return self._file

    def _finish(self, file: Any) -> None:
        file.close()
        if self._is_special:
            return
        descriptor = os.open(self._beside, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._beside.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class StreamSink:
    """A file object that somebody else opened and will close, such as standard output."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    async def write(self, block: bytes) -> None:
        """Add a block."""
        rest = memoryview(block)
        while rest:  # a raw file takes what fits
            rest = rest[await detached(self._file.write, rest) :]

    async def close(self) -> None:
        """Flush it."""
        await detached(self._file.flush)

    async def abort(self, error: BaseException | None = None) -> None:
        """Leave it as it is."""
