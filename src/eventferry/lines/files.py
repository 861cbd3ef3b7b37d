"""Files of lines: read as blocks, written beside and renamed into place at the end; packed as their names say, and
unpacked by what they begin with."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import os
import re
import select
import shutil
import stat
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from gzip import GzipFile
from hashlib import blake2b
from pathlib import Path
from secrets import token_hex
from typing import IO, Any, ParamSpec, TypeVar

from eventferry.errors import EventferryError, InputError, StoreClosedError
from eventferry.lifecycle import settled
from eventferry.lines.unpacking import Gzip, Unpacker, Zstd, zstd_module

BLOCK = 1024 * 1024

PACKED = (".gz", ".zst")  # endings of names, in any case, of files that are packed
_PIECES_AT_ONCE = 32
"""How many pieces are unpacked, at most, before whoever waits for a block may go another way."""

_STEP = 8 * 1024 * 1024
"""Bytes of a new file that may wait to be written to the disk: what is on its way while more is being made is not
waited for at the end."""

P = ParamSpec("P")
T = TypeVar("T")


async def detached(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that may block for ever (a pipe whose other end is silent), in a thread that nobody
    waits for: Ctrl-C must end the process, not the patience of whoever is at the other end.
    """
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # from now on a cancellation only stops the waiting

    def call() -> None:
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=call, name="eventferry-pipe", daemon=True).start()
    return await asyncio.wrap_future(future)


async def _called(is_regular: bool, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function on a file. One that is not regular may wait for somebody at its other end."""
    return await (asyncio.to_thread if is_regular else detached)(function, *args, **kwargs)


def descriptor_of(path: str | os.PathLike[str]) -> int | None:
    """The open file of this process that a path means, as /dev/stdout, /dev/fd/3 and what bash makes of >(…) do. To
    open it by the path would be another thing: a regular file would be written from its start, and replaced."""
    folders = {"/dev/fd", os.path.realpath("/proc/self/fd")}
    place = os.path.abspath(path)
    for _ in range(40):  # so many links Linux follows
        folder, name = os.path.split(place)
        folder = os.path.realpath(folder)
        if folder in folders and name.isascii() and name.isdecimal():
            return int(name)
        place = os.path.join(folder, name)
        if not os.path.islink(place):
            return None
        place = os.path.join(folder, os.readlink(place))
    return None


def from_anywhere(path: str | os.PathLike[str]) -> str:
    """A path as it is found from any folder: the process may change its own."""
    try:
        # Not normalized: what .. means behind a link only the system knows.
        return os.path.join(os.getcwd(), path) if os.fspath(path) else ""
    except FileNotFoundError:  # the folder was removed, and nothing is found from it
        return os.fspath(path)


def names_folder(path: str) -> bool:
    """Whether a path can only lead to a folder. Once its links are followed, nothing tells that any more."""
    return os.path.basename(path) in ("", ".", "..")


# reading

_PACKINGS: dict[bytes, Callable[[str], Unpacker]] = {
    b"\x1f\x8b": Gzip,
    b"\x28\xb5\x2f\xfd": Zstd,
    **{bytes([first]) + b"\x2a\x4d\x18": Zstd for first in range(0x50, 0x60)},  # a frame to be skipped
}

_DATABASE = b"SQLite format 3\0"

_databases: dict[tuple[int, int], int] = {}
"""SQLite databases that were met, and a descriptor of each: closing it would drop the locks that this very process has
on the file, and with them the transactions of its stores."""


def _is_database(path: str | os.PathLike[str]) -> bool:
    try:
        found = os.stat(path)
        identity = found.st_dev, found.st_ino
        if identity in _databases or not stat.S_ISREG(found.st_mode):
            return identity in _databases
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError):  # whoever opens it next hears of that
        return False
    if os.pread(descriptor, len(_DATABASE), 0) == _DATABASE:
        _databases[identity] = descriptor
        return True
    os.close(descriptor)
    return False


_FOREIGN = {
    _DATABASE: "a SQLite database: a store's name ends in .db, .sqlite or .sqlite3, or begins with sqlite:///",
    b"\xfd7zXZ\0": "packed with xz: unpack it first",
    b"BZh": "packed with bzip2: unpack it first",
    b"PK\x03\x04": "a zip archive: unpack it first",
    b"\x04\x22\x4d\x18": "packed with lz4: unpack it first",
    b"\xff\xfe": "text in UTF-16: lines are UTF-8",
    b"\xfe\xff": "text in UTF-16: lines are UTF-8",
    b"PGDMP": "a dump of PostgreSQL: pg_restore restores it, and a store in it can then be read",
}


class Blocks(AsyncIterator[bytes]):
    """The bytes of a file, unpacked, in blocks; made by `read_blocks`.

    Attributes:
        position: how many bytes were read so far, as they are in the file.
    """

    def __init__(self, source: str | os.PathLike[str] | IO[bytes]) -> None:
        self._name = os.fsdecode(source) if isinstance(source, str | os.PathLike) else None
        self._source = from_anywhere(source) if isinstance(source, str | os.PathLike) else source
        self._file: IO[bytes] | None = None
        self._is_regular = False
        self._unpacker: Unpacker | None = None
        self._pieces: Iterator[bytes] = iter(())
        self._next: asyncio.Future[bytes | None] | None = None
        self._is_over = False
        self.position = 0

    @property
    def is_unchecked(self) -> bool:
        """Whether a part of what was read has no checksum, though it is packed: a wrong bit in it goes unseen."""
        return isinstance(self._unpacker, Zstd) and not self._unpacker.is_checked

    def __aiter__(self) -> Blocks:
        return self

    async def __anext__(self) -> bytes:
        if self._is_over:
            raise StopAsyncIteration
        try:
            if self._file is None:
                self._file = await self._opened()
                self._pieces = self._unpacked(self._file)
            block: bytes | None = b""
            while not block:
                if self._next is None:
                    block = await _called(self._is_regular, self._step)
                else:
                    block = await asyncio.shield(self._next)
                    self._next = None
                if block is None:
                    raise StopAsyncIteration
            # The next one is unpacked while this one is used; of a pipe nothing is taken ahead.
            if self._is_regular:
                self._next = asyncio.ensure_future(asyncio.to_thread(self._step))
        except BaseException:
            await self.aclose()
            raise
        return block

    async def aclose(self) -> None:
        """Close what this has opened; twice is fine."""
        self._is_over = True
        reading, self._next = self._next, None
        try:
            if reading is not None:
                await settled(reading)
        finally:
            if self._file is not None and self._name is not None:
                self._file.close()
                self._file = None

    async def _opened(self) -> IO[bytes]:
        if not isinstance(self._source, str | os.PathLike):
            return self._source
        try:
            self._is_regular = await asyncio.to_thread(os.path.isfile, self._source)
            return await _called(self._is_regular, self._open, self._source)
        except (OSError, ValueError) as error:
            raise EventferryError(f"{self._name} cannot be read: {_reason(error)}") from None

    def _open(self, path: str | os.PathLike[str]) -> IO[bytes]:
        descriptor = descriptor_of(path)
        if descriptor is None and _is_database(path):
            raise InputError(f"{self._name} is {_FOREIGN[_DATABASE]}")
        # Without a buffer: closing a buffered file waits for its reader.
        return open(path if descriptor is None else os.dup(descriptor), "rb", buffering=0)

    def _step(self) -> bytes | None:
        """Some work: a block, nothing yet, or None at the end."""
        gathered: list[bytes] = []
        for _ in range(_PIECES_AT_ONCE):
            piece = next(self._pieces, None)
            if piece is None:
                return b"".join(gathered) or None
            if piece:
                gathered.append(piece)
                if not self._is_regular or sum(map(len, gathered)) >= BLOCK:
                    break
        return b"".join(gathered)

    def _unpacked(self, file: IO[bytes]) -> Iterator[bytes]:
        """The pieces of the file; an empty one says no more than that there was some work to do."""
        start = b""  # what comes before it is known how the file is packed
        is_all = False
        while not is_all:
            data = _read(file)
            is_all = not data
            self.position += len(data)
            if self._unpacker is None:
                data = start = start + data
                self._unpacker = self._recognized(data, is_all=is_all)
            if self._unpacker is not None:
                yield from self._unpacker.feed(data)
            yield b""
        if self._unpacker is not None:
            self._unpacker.finish()

    def _recognized(self, start: bytes, *, is_all: bool) -> Unpacker | None:
        """What unpacks input that begins like this; None if more of it must be there to know."""
        what = "the input" if self._name is None else self._name
        for magic, words in _FOREIGN.items():
            if start.startswith(magic):
                raise InputError(f"{what} is {words}")
        for magic, packing in _PACKINGS.items():
            if start.startswith(magic):
                return packing(what)
        if not is_all and any(magic.startswith(start) for magic in (*_PACKINGS, *_FOREIGN)):
            return None
        if self._name is not None and os.path.splitext(self._name)[1].lower() in PACKED:
            why = "it does not begin as gzip or zstd does" if start else "it is empty"
            raise InputError(f"{what} is damaged or cut off: {why}")
        return Unpacker()


def is_plain(path: str | os.PathLike[str]) -> bool:
    """Whether a file can be read at several places at once: an ordinary one, neither packed nor a database."""
    if not os.path.isfile(path) or _is_database(path) or os.path.splitext(path)[1].lower() in PACKED:
        return False
    with open(path, "rb") as file:
        start = file.read(16)
    return not any(start.startswith(magic) for magic in (*_PACKINGS, *_FOREIGN))


def read_blocks(source: str | os.PathLike[str] | IO[bytes]) -> Blocks:
    """The bytes of a file, in blocks, unpacked if it begins as gzip or zstd, whatever its name is. A file object is
    read from where it stands and left open."""
    return Blocks(source)


def _read(file: IO[bytes]) -> bytes:
    while True:
        # A pipe is read as it comes: `read` of a file with a buffer would wait until a whole block is there.
        data: bytes | None = getattr(file, "read1", file.read)(BLOCK)
        if data is not None:
            return data
        select.select((file,), (), ())  # whoever shares it has made it so that it does not wait


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


# writing


class _Raw(io.FileIO):
    """A file that is written without a buffer: `write` takes all, and `close` waits for nobody."""

    def write(self, block: Any) -> int:
        rest = memoryview(block)
        while rest:
            taken: int | None = super().write(rest)
            if taken is None:  # whoever shares it has made it so that it does not wait
                select.select((), (self,), ())
            rest = rest[taken or 0 :]
        return len(block)


def _packer(file: _Raw, ending: str) -> Any:
    """What packs into a file, by the ending of its name; closing it leaves the file open."""
    if ending == ".gz":
        # Without a name and the time of writing in it: the same events give the same file.
        return GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0)
    if ending == ".zst":
        zstd = zstd_module()
        # With a checksum: a flipped bit must not become another event.
        return zstd.open(file, "wb", options={zstd.CompressionParameter.checksum_flag: 1})
    return file


_JOURNALS = ("-wal", "-shm", "-journal")
_RIGHTS = "system.posix_acl_access"

_START = 100
"""Bytes of a file's name that one beside it begins with, at most."""


def _refuse_database(path: Path) -> None:
    """Refuse to write over a SQLite database, or over what belongs to one, whatever name it goes by."""
    names = [path.name.removesuffix(end) for end in _JOURNALS if path.name.endswith(end)]
    for place in (*(path.with_name(name) for name in names if name), path):
        if _is_database(place):
            raise EventferryError(
                f"{path} cannot be written: it is a SQLite database, or belongs to one, which would be lost"
            )


def name_beside(path: Path, ending: str | None = None) -> Path:
    """A name for what is to stand there, until it is whole, or with an ending for what belongs to it. It is as short as
    to be a name wherever its own is one, and no other file's."""
    return path.with_name(f".{_start_beside(path)}.{ending or f'{token_hex(4)}.part'}")


def left_beside(path: Path) -> list[Path]:
    """What stands under such names for what was to become whole: of those who write there now, or were killed."""
    # The whole name: that of orders.jsonl begins as one of orders does.
    is_one = re.compile(rf"\.{re.escape(_start_beside(path))}\.[0-9a-f]{{8}}\.part").fullmatch
    try:
        return [path.with_name(name) for name in os.listdir(path.parent) if is_one(name)]
    except OSError:  # a folder may be written to and not be read
        return []


def _start_beside(path: Path) -> str:
    name = os.fsencode(path.name)
    if len(name) <= _START:
        return path.name
    whole = name[:_START].decode(errors="ignore").encode()  # not every file system takes half a character
    return f"{os.fsdecode(whole)}~{blake2b(name, digest_size=4).hexdigest()}"


def sync_folder(folder: Path) -> None:
    """Make durable which files are in a folder, where that can be: not every folder can be opened, or synced."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class FileSink:
    """A file that appears, whole, when it is closed; until then it stands beside under another name.

    A block is packed and written while the next one is being made; an error of that is raised by the next call.
    What is no regular file (a pipe, a device, an open file by the name of /dev/fd/3) is written as it comes.

    Args:
        path: the file. An existing one passes on its mode and, if possible, its owner.
        private: nobody else may read it.
    """

    def __init__(self, path: str | os.PathLike[str], *, private: bool = False) -> None:
        self._name = os.fsdecode(path)
        self._descriptor = descriptor_of(path)
        self._path = Path(os.path.realpath(path))  # a link stays a link
        ending = os.path.splitext(self._name)[1].lower()
        self._ending = ending if ending in PACKED else self._path.suffix.lower()
        self._beside = name_beside(self._path)
        self._private = private
        self._is_special = False
        self._file: _Raw | None = None
        self._packer: Any = None
        self._writing: asyncio.Future[None] | None = None
        self._waiting = 0
        self._closed = False

    async def write(self, block: bytes) -> None:
        """Add a block."""
        file = await self._opened()
        await self._written()
        self._writing = asyncio.ensure_future(_called(not self._is_special, self._put, file, block))

    def _put(self, file: _Raw, block: bytes) -> None:
        self._packer.write(block)
        self._waiting += len(block)
        if self._waiting >= _STEP and not self._is_special:
            self._waiting = 0
            # It has what is there written to the disk, without waiting; and what is there already give up its memory,
            # which the database has better use for.
            with contextlib.suppress(OSError, AttributeError):  # not every system knows it
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    async def _written(self) -> None:
        if self._writing is not None:
            try:
                await asyncio.shield(self._writing)  # a thread cannot be cancelled: `abort` waits for it
            except BrokenPipeError:
                raise  # a reader that has seen enough
            except OSError as error:
                raise EventferryError(f"{self._name} cannot be written: {_reason(error)}") from error
            self._writing = None

    async def close(self) -> None:
        """Put the file into place, durably; twice is fine."""
        if not self._closed:
            file = await self._opened()
            try:
                await self._written()
                self._writing = asyncio.ensure_future(_called(not self._is_special, self._finish, file))
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
        try:
            if self._writing is not None:
                if self._is_special:  # it may never be taken
                    self._writing.add_done_callback(lambda future: future.cancelled() or future.exception())
                else:
                    await settled(self._writing)
        finally:
            if self._file is not None:
                self._file.close()
                if self._packer is not self._file:
                    with contextlib.suppress(Exception):  # it has nowhere to put what it holds
                        self._packer.close()
                if not self._is_special:
                    self._beside.unlink(missing_ok=True)

    async def _opened(self) -> _Raw:
        if self._closed:
            raise StoreClosedError(f"{self._name} is closed")
        if self._file is None:
            try:
                self._is_special = self._look()
                if self._is_special:
                    self._file = await detached(self._open_special)
                else:  # at once, not in a thread: a cancellation in between would leave the file behind
                    self._file = self._open_beside()
                self._packer = _packer(self._file, self._ending)
            except (OSError, ValueError) as error:
                raise EventferryError(f"{self._name} cannot be written: {_reason(error)}") from None
        return self._file

    def _look(self) -> bool:
        """Whether this is no regular file; refuses what is none that lines can be written to."""
        _refuse_database(self._path)
        if names_folder(self._name):
            raise OSError(errno.EISDIR, "that is the name of a folder")
        try:
            mode = (os.stat(self._path) if self._descriptor is None else os.fstat(self._descriptor)).st_mode
        except FileNotFoundError:
            return False
        if stat.S_ISREG(mode):
            return self._descriptor is not None
        if stat.S_ISDIR(mode) or stat.S_ISBLK(mode):
            raise OSError(errno.EISDIR, "it is a folder" if stat.S_ISDIR(mode) else "it is a disk")
        return True

    def _open_special(self) -> _Raw:
        if self._descriptor is not None:
            return _Raw(os.dup(self._descriptor), "wb")
        return _Raw(os.open(self._path, os.O_WRONLY | os.O_NOCTTY), "wb")

    def _open_beside(self) -> _Raw:
        # One that takes the place of another is nobody else's before it has that one's mode.
        is_private = self._private or self._path.exists()
        try:
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
            return _Raw(os.open(self._beside, flags, 0o600 if is_private else 0o666), "wb")
        except PermissionError as error:
            raise OSError(
                error.errno,
                f"{error.strerror} (a partial file is written beside it first, so its folder must be writable; "
                "- is standard output)",
            ) from None

    def _finish(self, file: _Raw) -> None:
        if self._packer is not file:
            self._packer.close()
        if self._is_special:
            file.close()
            return
        # Once more: it may be another thing that stands there than when this began.
        _refuse_database(self._path)
        if self._path.exists() and not self._path.is_file():
            raise EventferryError(f"{self._name} cannot be written: it is not a regular file any more")
        if not self._private:
            self._keep_rights(file.fileno())
        os.fsync(file.fileno())
        file.close()
        try:
            self._beside.replace(self._path)
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.EXDEV):
                raise
            # What is mounted at the very place (a file of a container) cannot be replaced, only written.
            if self._private:
                os.chmod(self._path, 0o600)
            with self._beside.open("rb") as whole, self._path.open("wb") as poured:
                shutil.copyfileobj(whole, poured, BLOCK)
                poured.flush()
                os.fsync(poured.fileno())
            self._beside.unlink()
        sync_folder(self._path.parent)

    def _keep_rights(self, descriptor: int) -> None:
        """Give the new file the mode and the owner of the one whose place it takes."""
        try:
            before = os.stat(self._path)
        except FileNotFoundError:
            return
        mode, own = stat.S_IMODE(before.st_mode) & 0o777, os.fstat(descriptor)
        if own.st_uid != before.st_uid:
            with contextlib.suppress(OSError):  # only root gives files away
                os.fchown(descriptor, before.st_uid, -1)
        rights: bytes | None = None
        with contextlib.suppress(OSError, AttributeError):  # there are none, or this system has none
            rights = os.getxattr(self._path, _RIGHTS)
        try:
            if own.st_gid != before.st_gid:
                os.fchown(descriptor, -1, before.st_gid)
            # Where there is a list of who may do what, the group's bits are its mask and not the group's.
            if rights is not None:
                os.setxattr(descriptor, _RIGHTS, rights)
        except OSError:
            mode &= 0o707  # what was for one group is not for another
        with contextlib.suppress(OSError):  # not every file system has modes
            os.fchmod(descriptor, mode)


class StreamSink:
    """A file object that somebody else opened and will close, such as standard output."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    async def write(self, block: bytes) -> None:
        """Add a block."""
        rest = memoryview(block)
        while rest:  # a raw file takes what fits
            taken = await detached(self._file.write, rest)
            if taken is None:  # nothing fits now, into one that does not wait for its reader
                await asyncio.sleep(0.01)
            rest = rest[taken or 0 :]

    async def close(self) -> None:
        """Flush it."""
        await detached(self._file.flush)

    async def abort(self, error: BaseException | None = None) -> None:
        """Leave it as it is."""
