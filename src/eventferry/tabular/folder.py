"""A folder of files, one for each day or type, which appears whole."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Generator
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar
from urllib.parse import quote

from eventferry.errors import EventferryError, StoreClosedError, UsageError
from eventferry.lifecycle import settled, to_the_end
from eventferry.lines.blocks import Lines, LineSplitter
from eventferry.lines.decoder import LineDecoder
from eventferry.lines.event import Row
from eventferry.lines.files import BLOCK, name_beside, sync_folder
from eventferry.tabular.columns import moment_text
from eventferry.tabular.conversion import Conversion, Unchanged

SplitBy: TypeAlias = Literal["day", "type"]

MAX_FILES = 10_000
"""So many files a folder gets at most: their names are kept in memory, and more are no help to anybody."""

_NAME = 100  # characters of a file's name, without its ending, at most
T = TypeVar("T")


class FolderSink:
    """A folder of files, one for each day (UTC) or each type, which appears, whole, when it is closed.

    Until then it stands beside under another name: first as files of lines, to which blocks are added, one file open at
    a time; then each becomes the file that it is to be.

    Args:
        path: the folder; it must not exist, or be empty.
        split_by: "day" or "type".
        conversion: `to_csv()` or `to_parquet()`; None for JSON Lines.
        ending: of the files' names, such as ".csv".

    Attributes:
        files: how many there are so far.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        split_by: SplitBy,
        conversion: Conversion | None = None,
        ending: str = ".jsonl",
    ) -> None:
        if split_by not in _KEYS:
            raise UsageError(f"split_by is 'day' or 'type', not {split_by!r}")
        self._path = Path(os.path.realpath(path))
        self._beside = name_beside(self._path)
        self._lines, self._done = self._beside / "lines", self._beside / "done"
        self._key = _KEYS[split_by]
        self._conversion = conversion
        self._ending = ending
        self._splitter = LineSplitter()
        self._decoder = LineDecoder()
        self._names: dict[str, str] = {}
        self._taken: set[str] = set()
        self._working: asyncio.Future[Any] | None = None
        self._steps: Generator[bool] | None = None
        self._is_open = False
        self._closed = False

    @property
    def files(self) -> int:
        """How many files there are so far."""
        return len(self._names)

    async def write(self, block: bytes) -> None:
        """Add a block of lines."""
        self._open()
        await self._work(lambda: self._add(self._splitter.feed(block)))

    async def close(self) -> None:
        """Put the folder into place, durably; twice is fine."""
        if self._closed:
            return
        try:
            self._open()
            await self._work(lambda: self._add(self._splitter.finish()))
            for name in self._names.values():
                self._steps = self._converted(name)
                while await self._work(partial(next, self._steps, False)):
                    pass
            await self._work(self._put_into_place)
        except BaseException as error:
            await to_the_end(self.abort(error))
            raise
        self._closed = True

    async def abort(self, error: BaseException | None = None) -> None:
        """Leave nothing; twice is fine."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._working is not None:
                await settled(self._working)
            if self._steps is not None:
                self._steps.close()
        finally:
            if self._is_open:
                await asyncio.to_thread(self._remove)

    async def _work(self, work: Callable[[], T]) -> T:
        """Do something in a thread, which cannot be cancelled: `abort` waits for it."""
        working = asyncio.ensure_future(asyncio.to_thread(work))
        self._working = working
        try:
            return await asyncio.shield(working)
        except OSError as error:
            raise EventferryError(f"{self._path} cannot be written: {error.strerror or error}") from error

    def _open(self) -> None:
        if self._closed:
            raise StoreClosedError(f"{self._path} is closed")
        if not self._is_open:
            try:
                if self._path.exists() and (not self._path.is_dir() or any(self._path.iterdir())):
                    what = "is not empty" if self._path.is_dir() else "is a file"
                    raise EventferryError(
                        f"{self._path} {what}: a split export makes a new folder, and replaces nothing"
                    )
                for folder in (self._beside, self._lines, self._done):
                    folder.mkdir()
            except OSError as error:
                raise EventferryError(f"{self._path} cannot be written: {error.strerror}") from None
            self._is_open = True

    def _add(self, lines: Lines) -> None:
        gathered: dict[str, list[bytes]] = {}
        rows = lines.whole_rows(self._decoder)
        for (_, row), (_, text) in zip(rows, lines.numbered, strict=True):
            gathered.setdefault(self._key(row), []).append(text)
        for key, texts in gathered.items():
            with (self._lines / self._name(key)).open("ab") as file:
                file.write(b"\n".join((*texts, b"")))

    def _name(self, key: str) -> str:
        name = self._names.get(key)
        if name is None:
            if len(self._names) == MAX_FILES:
                raise EventferryError(
                    f"the events would make more than {MAX_FILES} files: split by something else, or export fewer types"
                )
            name = _safe(key)
            if len(name) > _NAME or name.lower() in self._taken:
                # A tilde is in no name without a digest.
                name = f"{name[:_NAME]}~{blake2b(key.encode(), digest_size=6).hexdigest()}"
            self._taken.add(name.lower())
            self._names[key] = name
        return name

    def _converted(self, name: str) -> Generator[bool]:
        """Make a file what it is to be, in steps."""
        path = self._lines / name
        with path.open("rb", buffering=0) as lines, (self._done / f"{name}{self._ending}").open("xb") as file:
            codec = self._conversion.codec() if self._conversion is not None else Unchanged()
            while block := lines.read(BLOCK):
                file.write(codec.feed(block))
                yield True
            file.write(codec.finish())
            file.flush()
            os.fsync(file.fileno())
        path.unlink()

    def _put_into_place(self) -> None:
        sync_folder(self._done)
        try:
            self._done.rename(self._path)
        except OSError as error:
            raise EventferryError(f"{self._path} cannot be put into place: {error.strerror}") from None
        self._remove()
        sync_folder(self._path.parent)

    def _remove(self) -> None:
        """Remove what stands beside, by names: to read a folder would take a descriptor, and there may be none left."""
        for name in self._names.values():
            for path in (self._lines / name, self._done / f"{name}{self._ending}"):
                with contextlib.suppress(OSError):
                    path.unlink()
        for folder in (self._lines, self._done, self._beside):
            with contextlib.suppress(OSError):
                folder.rmdir()


def _day(row: Row) -> str:
    try:
        return moment_text(row.timestamp)[:10]
    except OverflowError:
        return "before-0001" if row.timestamp < 0 else "after-9999"


def _type(row: Row) -> str:
    return row.type


_KEYS: dict[SplitBy, Callable[[Row], str]] = {"day": _day, "type": _type}


def _safe(key: str) -> str:
    """A name for a file: percent-encoded, but for letters and digits of ASCII, `_`, `-`, and `.` if it is not first."""
    name = quote(key, safe="").replace("~", "%7E") or "%"
    return f"%2E{name[1:]}" if name.startswith(".") else name
