"""Where a repository is: a folder, or an object storage behind obstore.

A storage is a few calls on whole objects by their names. None is ever changed: `put_new` creates an object, whole, or
finds that there is one. All that a repository promises when runs meet rests on that.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeVar

from eventferry.backup import format
from eventferry.databases import is_broken_url, is_store, without_password
from eventferry.errors import (
    MissingExtraError,
    RepositoryError,
    UnsafeStorageError,
    UsageError,
)
from eventferry.lifecycle import settled

P = ParamSpec("P")
T = TypeVar("T")

SCHEMES = ("s3", "gs", "az")
"""Beginnings of URLs of object storages."""

_LOST_SLASHES = re.compile(rf"({'|'.join(SCHEMES)})(:|//)", re.IGNORECASE)

REQUEST_SECONDS = 300
"""How long one request may take: a part of incompressible data takes so long at half a megabit per second."""


class ListedObject(NamedTuple):
    """An object as a listing shows it; `changed` is when it was created, in ms since 1970 by the storage's clock."""

    name: str
    bytes: int
    changed: int


class Storage(Protocol):
    """Objects by name, with `/` between the parts of a name. All methods raise RepositoryError where the storage fails
    or refuses."""

    @property
    def place(self) -> str:
        """Where it is, without a password."""

    async def put_new(self, name: str, data: bytes) -> bool:
        """Create an object, durably; False, and no change, where there is one of this name. It is never seen in part.
        Where this is cancelled, or fails, it may have been created."""

    async def get(self, name: str) -> bytes | None:
        """The bytes of an object; None where there is none."""

    async def size(self, name: str) -> int | None:
        """How many bytes an object has; None where there is none."""

    async def listed(self, folder: str) -> list[ListedObject]:
        """All objects whose names begin with this and a `/`, by name."""

    async def folders(self) -> list[str]:
        """What the names of objects begin with, up to the first `/`, in order."""

    async def delete(self, name: str) -> None:
        """Remove an object; does nothing where there is none."""


def is_repository_url(place: str) -> bool:
    """Whether a place is an object storage, by its beginning."""
    scheme, separator, _ = place.partition("://")
    return bool(separator) and scheme in SCHEMES


def whole_place(place: str | os.PathLike[str]) -> str:
    """A place as it is found from other folders: a process may change its own. Links are followed now, as those to a
    store are."""
    place = os.fspath(place)
    return place if is_repository_url(place) else os.path.realpath(place)


def open_storage(place: str | os.PathLike[str], *, single_writer: bool = False) -> Storage:
    """The storage at a place; creates and asks nothing.

    Args:
        place: a folder, or s3://bucket/path, gs://bucket/path or az://container/path. Credentials and settings
            of an object storage come from the environment, as its own tools read them (AWS_ACCESS_KEY_ID,
            AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME and _KEY …).
        single_writer: the caller promises that no other run writes into it at the same time: an object is created after
            a look whether there is one, which any storage can do.

    Raises:
        UsageError: the place is neither.
        MissingExtraError: an object storage needs `eventferry[backup]`.
    """
    place = os.fspath(place)
    if is_repository_url(place):
        return _object_storage(place, single_writer=single_writer)
    if "://" in place or not place:
        raise UsageError(
            f"{without_password(place)!r} is not a repository: that is a folder, or s3://bucket/path, gs://bucket/path "
            "or az://container/path"
        )
    if is_store(place):
        raise UsageError(f"{without_password(place)} is a store, and a repository is a folder")
    is_url = _LOST_SLASHES.match(place) or is_broken_url(place)
    if is_url and not place.startswith(("./", "../", "/")) and not os.path.isdir(place):
        # It would make a folder of this name, and say that all is backed up.
        told = without_password(place).partition("?")[0]
        raise UsageError(
            f"{told!r} is a mistyped URL by its looks: a bucket is s3://bucket/path, gs://bucket/path or "
            "az://container/path, and a folder of this name is written with ./ before it"
        )
    return FolderStorage(Path(place), single_writer=single_writer)


async def probe(storage: Storage) -> None:
    """Make sure that the storage creates an object only where there is none, and mark it as a repository.

    Every run begins with this: it costs one request, or two where the repository is new.

    Raises:
        UnsafeStorageError: the storage replaced an object that was there.
        RepositoryError: a newer eventferry has made the repository, or it cannot be written.
    """
    marker = format.seal(format.RepositoryMarker())
    if await storage.put_new(format.MARKER, marker) and await storage.put_new(format.MARKER, marker):
        raise UnsafeStorageError(
            f"{storage.place} ignores the condition to create an object only if it is absent, so that two backups at "
            "once could overwrite one another. Use another storage; or, where you make sure that only one backup runs "
            "at a time, --single-writer"
        )
    found = await storage.get(format.MARKER)
    if found != marker and found is not None:
        format.unseal(found, format.RepositoryMarker, format.MARKER)


# folders

_UNFINISHED = ".unfinished"
"""The folder of files that are being written; what a killed run leaves there is removed by a later one."""

_LEFT_AFTER = 24 * 3600
"""Seconds after which a file that is being written counts as left: writing one takes seconds."""


class FolderStorage:
    """A folder. A file is written under another name, and linked to its own when it is whole and on the disk: a link is
    created only where there is nothing. Only its owner can read it."""

    def __init__(self, root: Path, *, single_writer: bool = False) -> None:
        self._place = str(root)
        self._root = Path(whole_place(root))
        self._single_writer = single_writer
        self._is_tidied = False

    @property
    def place(self) -> str:
        """The folder, as it was given."""
        return self._place

    async def put_new(self, name: str, data: bytes) -> bool:
        """As `Storage.put_new`."""
        return await self._called(self._put_new, self._root / name, data)

    async def get(self, name: str) -> bytes | None:
        """As `Storage.get`."""
        return await self._called(self._get, self._root / name)

    async def size(self, name: str) -> int | None:
        """As `Storage.size`."""
        return await self._called(self._size, self._root / name)

    async def listed(self, folder: str) -> list[ListedObject]:
        """As `Storage.listed`."""
        return await self._called(self._listed, folder)

    async def folders(self) -> list[str]:
        """As `Storage.folders`."""
        return await self._called(self._folders)

    async def delete(self, name: str) -> None:
        """As `Storage.delete`."""
        await self._called(self._delete, self._root / name)

    async def _called(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in a thread; when this ends, that has ended too."""
        work = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
        try:
            return await asyncio.shield(work)
        except OSError as error:
            raise RepositoryError(f"the repository {self.place}: {error.strerror or error}") from None
        finally:
            await settled(work)

    def _put_new(self, path: Path, data: bytes) -> bool:
        unfinished = self._root / _UNFINISHED
        self._make(unfinished)
        self._tidy(unfinished)
        beside = unfinished / f"{token_hex(8)}.part"
        try:
            _write(beside, data)
            self._make(path.parent)
            try:
                self._link(beside, path)
            except FileExistsError:
                return False
            _sync_folder(path.parent)
            return True
        finally:
            beside.unlink(missing_ok=True)

    def _link(self, beside: Path, path: Path) -> None:
        """Give a file its name, unless there is one of that name: raises FileExistsError."""
        try:
            os.link(beside, path)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                raise
            if not self._single_writer:
                raise UnsafeStorageError(
                    f"{self.place} is on a file system without hard links, on which a file cannot be created whole and "
                    "only if it is absent. Use another one; or, where you make sure that only one backup runs at a "
                    "time, --single-writer"
                ) from None
            if path.exists():
                raise FileExistsError from None
            beside.rename(path)

    def _make(self, folder: Path) -> None:
        """Create a folder with those above it, durably."""
        if folder.is_dir():
            return
        self._make(folder.parent)
        with contextlib.suppress(
            FileExistsError
        ):  # another run was faster; if it is no folder, the next step says so
            folder.mkdir(mode=0o700)
        _sync_folder(folder.parent)

    def _tidy(self, unfinished: Path) -> None:
        if self._is_tidied:
            return
        self._is_tidied = True
        for left in unfinished.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another run tidies too
                if left.stat().st_mtime < time.time() - _LEFT_AFTER:
                    left.unlink()

    def _get(self, path: Path) -> bytes | None:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None

    def _size(self, path: Path) -> int | None:
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return None

    def _listed(self, folder: str) -> list[ListedObject]:
        found: list[ListedObject] = []
        for at, _, files in os.walk(self._root / folder, onerror=_refuse_unread):
            for each in files:
                path = Path(at, each)
                with contextlib.suppress(FileNotFoundError):  # it has just been deleted
                    told = path.stat()
                    name = path.relative_to(self._root).as_posix()
                    found.append(ListedObject(name, told.st_size, told.st_mtime_ns // 1_000_000))
        return sorted(found)

    def _folders(self) -> list[str]:
        try:
            found = list(self._root.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(path.name for path in found if path.is_dir() and path.name != _UNFINISHED)

    def _delete(self, path: Path) -> None:
        path.unlink(missing_ok=True)


def _refuse_unread(error: OSError) -> None:
    """A folder that cannot be read is not an empty one: what is in it would count as missing, or as never written."""
    if not isinstance(error, FileNotFoundError):
        raise error


def _write(path: Path, data: bytes) -> None:
    with open(path, "xb", opener=_private) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # not every file system can
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


# object storages

_URL = re.compile(r'[a-z][a-z0-9+.-]*://[^\s"<>]*[^\s"<>.,:;]', re.IGNORECASE)


def _object_storage(url: str, *, single_writer: bool) -> ObjectStorage:
    obstore = _obstore()
    try:
        # HTTP without TLS only where the environment's own address of the storage begins so.
        options = {"timeout": timedelta(seconds=REQUEST_SECONDS), "allow_http": True}
        store = obstore.store.from_url(url, client_options=options)
    except (obstore.exceptions.BaseError, ValueError) as error:
        raise UsageError(f"{without_password(url)} cannot be used: {_first_line(error)}") from None
    return ObjectStorage(store, without_password(url), single_writer=single_writer)


def _obstore() -> Any:
    try:
        import obstore
        import obstore.exceptions
        import obstore.store
    except ImportError:
        raise MissingExtraError(
            "a repository in an object storage needs a package: pip install 'eventferry[backup]'"
        ) from None
    return obstore


class ObjectStorage:
    """An object storage: one of obstore's stores, whose prefix is the repository."""

    def __init__(self, store: Any, place: str, *, single_writer: bool = False) -> None:
        self._obstore = _obstore()
        self._store = store
        self._place = place
        self._single_writer = single_writer
        self._absent = (FileNotFoundError, self._obstore.exceptions.NotFoundError)

    @property
    def place(self) -> str:
        """Its URL, without a password."""
        return self._place

    async def put_new(self, name: str, data: bytes) -> bool:
        """As `Storage.put_new`."""
        mode = "create"
        with self._told(name):
            if self._single_writer:
                mode = "overwrite"
                if await self.size(name) is not None:
                    return False
            try:
                # In one request: a condition is of a whole object. It is in memory as it is.
                await self._ask(self._obstore.put, name, data, mode=mode, use_multipart=False)
            except self._obstore.exceptions.AlreadyExistsError:
                return False
            except self._absent:
                raise RepositoryError(f"{self.place}: there is no such bucket or container") from None
            return True

    async def get(self, name: str) -> bytes | None:
        """As `Storage.get`."""
        with self._told(name):
            try:
                return await self._ask(self._whole, name)
            except self._absent:
                return None

    async def size(self, name: str) -> int | None:
        """As `Storage.size`."""
        with self._told(name):
            try:
                return int((await self._ask(self._obstore.head, name))["size"])
            except self._absent:
                return None

    async def listed(self, folder: str) -> list[ListedObject]:
        """As `Storage.listed`."""
        with self._told(folder):
            return sorted(await self._ask(self._objects, folder))

    async def folders(self) -> list[str]:
        """As `Storage.folders`."""
        with self._told("its folders"):
            found = await self._ask(self._obstore.list_with_delimiter)
        return sorted(found["common_prefixes"])

    async def delete(self, name: str) -> None:
        """As `Storage.delete`."""
        with self._told(name), contextlib.suppress(*self._absent):
            await self._ask(self._obstore.delete, name)

    def _whole(self, store: Any, name: str) -> bytes:
        return bytes(self._obstore.get(store, name).bytes())

    def _objects(self, store: Any, folder: str) -> list[ListedObject]:
        listed = self._obstore.list(store, folder, chunk_size=1000)
        return [
            ListedObject(each["path"], each["size"], int(each["last_modified"].timestamp() * 1000))
            for some in listed
            for each in some
        ]

    async def _ask(self, call: Callable[..., T], *args: Any, **options: Any) -> T:
        """Call it in a thread of its own, which nobody waits for once the caller has given up.

        Not by obstore's own coroutines: its threads go on with an answer after that has come, and where the process
        ends meanwhile, Python aborts it (one in ten runs of a command on a busy machine).
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def tell(give: Callable[[Any], None], what: Any) -> None:
            if not answer.done():
                give(what)

        def work() -> None:
            try:
                told = partial(tell, answer.set_result, call(self._store, *args, **options))
            except BaseException as error:
                told = partial(tell, answer.set_exception, error)
            with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits
                loop.call_soon_threadsafe(told)

        threading.Thread(target=work, name="eventferry-storage", daemon=True).start()
        return await answer

    @contextlib.contextmanager
    def _told(self, name: str) -> Iterator[None]:
        try:
            yield
        except (self._obstore.exceptions.BaseError, OSError, ValueError) as error:
            raise RepositoryError(f"the repository {self.place}, {name}: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    """What obstore says, without what may be a password or a signature in a URL that it repeats."""
    line = str(error).strip().partition("\n")[0]
    return _URL.sub(lambda found: without_password(found[0]), line)[:500]
