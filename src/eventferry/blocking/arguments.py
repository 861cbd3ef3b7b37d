"""The caller's sources and events, as the loop wants them."""

from __future__ import annotations

import inspect
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from eventferry.blocking.loop import HERE, LOOP, Asked, next_of
from eventferry.blocking.wrapping import Face
from eventferry.importing.batch import PART


def unwrapped(stream: Any) -> Any:
    """What the loop works with, of an object of this package."""
    return stream.inner if isinstance(stream, Face) else stream


def source_of(source: Any) -> Any:
    """Plain iterators are read in this thread; files, and what is no source at all, are passed on."""
    bare = unwrapped(source)
    is_plain = hasattr(bare, "__iter__") and not (hasattr(bare, "__aiter__") or hasattr(bare, "read"))
    if isinstance(bare, str | os.PathLike) or not is_plain:
        return bare
    return Asked(HERE.steps, partial(iter, bare))


def events_of(events: Any) -> Any:
    """Lists of events, and values that are not events at all, are passed on; iterators are read in this thread."""
    bare = unwrapped(events)
    if isinstance(bare, str | bytes | Mapping) or not hasattr(bare, "__iter__"):
        return bare
    if isinstance(bare, list | tuple) and not (bare and isinstance(bare[0], bytes)):
        return bare
    return Asked(HERE.steps, partial(iter, bare), PART)


def is_asynchronous(transform: Any) -> bool:
    """Whether a transform makes an asynchronous iterator of one, as those of `eventferry` do."""
    return inspect.isasyncgenfunction(transform) or inspect.isasyncgenfunction(type(transform).__call__)


def awaited_transform(transform: Callable[[Iterator[bytes]], Iterable[bytes]]) -> Any:
    """A caller's transform for the loop; it runs in the caller's thread."""
    here = HERE.steps

    def run(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        return Asked(here, lambda: iter(transform(_sooner(blocks))))

    return run


def _sooner(blocks: AsyncIterator[bytes]) -> Iterator[bytes]:
    """The blocks of an async iterator, for a transform."""
    while (block := LOOP.run(next_of(blocks))) is not None:
        yield block
