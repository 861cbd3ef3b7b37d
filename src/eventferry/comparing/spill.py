"""Spills records to temporary files. Records with equal keys go to the same file, so that each file can be processed on
its own, in memory."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import ExitStack
from tempfile import TemporaryFile
from typing import IO, Any, Generic, TypeVar

import msgspec

R = TypeVar("R")

_FILES = 64


class Spill(Generic[R]):
    """Temporary files of records, which msgspec takes as `shape`, removed at the end of the `with` block. The key of a
    record says in which."""

    def __init__(self, shape: Any, key: Callable[[R], Hashable]) -> None:
        self._decoder: msgspec.msgpack.Decoder[R] = msgspec.msgpack.Decoder(shape)
        self._encoder = msgspec.msgpack.Encoder()
        self._key = key
        self._stack = ExitStack()
        self._files: list[IO[bytes]] = []

    def __enter__(self) -> Spill[R]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Forget all records and remove the files."""
        self._stack.close()
        self._files = []

    @property
    def is_used(self) -> bool:
        """Whether any records were written."""
        return bool(self._files)

    def put(self, records: Iterable[R]) -> None:
        """Write records."""
        if not self._files:
            self._files = [
                self._stack.enter_context(TemporaryFile())  # noqa: SIM115 -- the stack closes it
                for _ in range(_FILES)
            ]
        for record in records:
            text = self._encoder.encode(record)
            self._files[hash(self._key(record)) % _FILES].write(len(text).to_bytes(4, "big") + text)

    def files(self) -> Iterator[Iterator[R]]:
        """The records of each file, in the order in which they were written."""
        return (records for _, records in self.sized_files())

    def sized_files(self) -> Iterator[tuple[int, Iterator[R]]]:
        """The same, with the size of each file in bytes."""
        for file in self._files:
            size = file.tell()
            file.seek(0)
            yield size, self._records(file)

    def _records(self, file: IO[bytes]) -> Iterator[R]:
        while size := file.read(4):
            yield self._decoder.decode(file.read(int.from_bytes(size, "big")))
