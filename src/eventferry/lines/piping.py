"""The pipeline: joins a source, transforms and a sink, and closes all of them whatever happens."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Sequence
from typing import IO, Any, Protocol, TypeAlias, TypeVar, cast, overload, runtime_checkable

from eventferry.errors import InputError, ResumeError, UsageError
from eventferry.importing.stream import ImportStream
from eventferry.lifecycle import second_to, to_the_end
from eventferry.lines.files import FileSink, StreamSink, read_blocks

Report = TypeVar("Report")
Report_co = TypeVar("Report_co", covariant=True)


class Sink(Protocol[Report_co]):
    """The end of a pipeline."""

    async def write(self, block: bytes) -> None:
        """Take a block."""

    async def close(self) -> Report_co:
        """All blocks have been written: finish, and report."""

    async def abort(self, error: BaseException | None = None) -> None:
        """The pipeline failed: leave nothing half done."""


Source: TypeAlias = AsyncIterable[bytes] | Iterable[bytes] | str | os.PathLike[str] | IO[bytes]
"""A stream, any iterator of bytes, an open file or the path of one."""

Transform: TypeAlias = Callable[[AsyncIterator[bytes]], AsyncIterable[bytes]]
"""Makes blocks of blocks."""

OutputFile: TypeAlias = str | os.PathLike[str] | IO[bytes]
"""An open file, or the path of one that appears, whole, at the end."""


@overload
async def pipeline(source: Source, *rest: *tuple[*tuple[Transform, ...], Sink[Report]]) -> Report: ...


@overload
async def pipeline(source: Source, *rest: Transform | OutputFile) -> None: ...


async def pipeline(source: Source, *rest: Any) -> Any:  # type: ignore[misc]  # mypy: not all of `rest`
    """Send all of a source through transforms into a sink.

    Args:
        source: where the bytes come from.
        rest: transforms, and last the sink: a `Sink`, an open file, or the path of one.

    Returns:
        The sink's report; None for a file.

    Raises:
        Exception: the first error of any of them. By then everything is closed, and the sink has aborted.
    """
    if not rest:
        raise UsageError("a pipeline has a source and a sink")
    *transforms, target = rest
    opened: list[Any] = [source]
    sink = _sink(target)
    try:
        if isinstance(sink, ImportStream):
            await sink.begin()
        blocks = blocks_of(source)
        opened.append(blocks)
        for transform in transforms:
            if not callable(transform):
                raise UsageError(
                    f"a transform is a function from blocks to blocks, not {type(transform).__name__}"
                )
            blocks = aiter(transform(blocks))
            opened.append(blocks)
        async for block in blocks:
            if isinstance(sink, ImportStream) and not sink.is_verified:
                block = await sink.verify(block)
            if block:
                await sink.write(block)
            if isinstance(sink, ImportStream) and sink.is_stopped:
                break
        if isinstance(sink, ImportStream) and not sink.is_verified:
            raise ResumeError("the source ends before the place where the import was interrupted")
        # The source before the sink's end: an export may have to unfreeze what the sink is about to change.
        await _close(opened)
    except BaseException as error:
        try:
            with second_to(error):
                await _close(opened)
        finally:
            await to_the_end(_abort(sink, error))
        if isinstance(error, InputError):
            _explain(error, source, transforms)
        raise
    try:
        return await (sink.finish() if isinstance(sink, ImportStream) else sink.close())
    except InputError as error:
        _explain(error, source, transforms)
        raise


@runtime_checkable
class MadeLines(Protocol):
    """A source or a transform that made its lines of something else."""

    def explain(self, error: InputError) -> InputError:
        """What a sink has refused, in terms of what the line was made of. An error of its own, or of what comes before
        it, stays as it is."""


def _explain(error: InputError, source: Source, transforms: Sequence[Transform]) -> None:
    """Raises what was refused in terms of what came in, where lines were made on the way."""
    told = error
    for each in (*reversed(transforms), source):
        if isinstance(each, MadeLines):
            told = each.explain(told)
    if told is not error:
        raise told from error


async def _abort(sink: Sink[Any], error: BaseException) -> None:
    with second_to(error):
        await sink.abort(error)


def _sink(target: Transform | Sink[Any] | OutputFile) -> Sink[Any]:
    if isinstance(target, str | os.PathLike):
        return FileSink(target)
    if hasattr(target, "abort"):
        return cast("Sink[Any]", target)
    if hasattr(target, "write"):
        return StreamSink(cast("IO[bytes]", target))
    raise UsageError(f"the last of a pipeline is a sink or a file, not {type(target).__name__}")


def blocks_of(source: Source) -> AsyncIterator[bytes]:
    """The blocks of whatever can be a source."""
    if isinstance(source, AsyncIterable):
        return aiter(source)
    if isinstance(source, str | os.PathLike):
        return read_blocks(source)
    if hasattr(source, "read"):
        return read_blocks(cast("IO[bytes]", source))
    if isinstance(source, Iterable) and not isinstance(source, bytes | bytearray):
        return _from_iterable(source)
    raise UsageError(f"the source of a pipeline is a stream or a file, not {type(source).__name__}")


async def _from_iterable(blocks: Iterable[bytes]) -> AsyncIterator[bytes]:
    for block in blocks:
        yield block


async def _close(opened: list[Any]) -> None:
    """Close all, each once; the first error comes out when all are closed."""
    first: BaseException | None = None
    while opened:
        stream = opened.pop()
        try:
            if hasattr(stream, "aclose"):
                await stream.aclose()
            elif isinstance(stream, Generator):
                stream.close()
        except BaseException as error:
            first = first or error
    if first is not None:
        raise first
