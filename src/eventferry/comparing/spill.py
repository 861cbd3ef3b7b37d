"""Records that wait in files, dealt so that all that belong together are in one: each is then looked at alone,
in memory."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import ExitStack
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO, Any, Generic, TypeVar

import msgspec

R = TypeVar("R")

_FILES = 64


class Spill(Generic[R]):
    """Files of the temporary directory, gone with the `with` block.

    Args:
        shape: the type of a record, as msgspec takes it.
        key: what must be equal for two records to belong together.
    """

    def __init__(self, shape: Any, key: Callable[[R], Hashable]) -> None:
        self._decoder: msgspec.msgpack.Decoder[R] = msgspec.msgpack.Decoder(shape)
        self._encoder = msgspec.msgpack.Encoder()
        self._key = key
        self._stack = ExitStack()
        self._files: list[IO[bytes]] = []

    def __enter__(self) -> Spill[R]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def is_used(self) -> bool:
        """Whether anything was put away."""
        return bool(self._files)

    def put(self, records: Iterable[R]) -> None:
        """Put records away."""
        if not self._files:
            self._files = [
                self._stack.enter_context(TemporaryFile())  # noqa: SIM115 -- the stack closes it
                for _ in range(_FILES)
            ]
        for record in records:
            text = self._encoder.encode(record)
            self._files[hash(self._key(record)) % _FILES].write(len(text).to_bytes(4, "big") + text)

    def files(self) -> Iterator[Iterator[R]]:
        """The records of one file after another, as they were put away."""
        for file in self._files:
            file.seek(0)
            yield self._records(file)

    def _records(self, file: IO[bytes]) -> Iterator[R]:
        while size := file.read(4):
            yield self._decoder.decode(file.read(int.from_bytes(size, "big")))
