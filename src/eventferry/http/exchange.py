"""The routes of reSolve's own client, `module-admin`. It names files on the server, which the server reads and writes.

So these routes are off unless a directory is configured for them, and nothing outside of it can be named. The client
always sends GET, even for changes, ignores the status, and prints the answer, which is plain text.
"""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import msgspec
from starlette.responses import PlainTextResponse, Response

from eventferry import (
    AUTO,
    MANUAL,
    AlreadyFrozenError,
    MaintenanceMode,
    NotFrozenError,
    pipeline,
    read_blocks,
)
from eventferry.http.handling import Call, Handler, NoQuery
from eventferry.http.imports import merged
from eventferry.http.problems import RefusedError, message_of, problem
from eventferry.lines.files import FileSink

EVENTS = "events.db"
SECRETS = "secrets.db"
_OK = "ok"

_Mode = Literal["auto", "manual"]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]


class DirectoryQuery(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """The parameters of an export or an import."""

    directory: _Name
    maintenance_mode: _Mode = "auto"

    @property
    def mode(self) -> MaintenanceMode:
        """As a parameter of the library."""
        return MANUAL if self.maintenance_mode == "manual" else AUTO


class PathQuery(msgspec.Struct, forbid_unknown_fields=True):
    """The parameters of an incremental import."""

    path: _Name


def plain(error: Exception) -> Response:
    """A problem as plain text, which that client can show."""
    told = problem(error)
    headers = {
        name: value for name, value in told.headers.items() if name not in ("content-type", "content-length")
    }
    return PlainTextResponse(f"Error: {message_of(error)}", told.status_code, headers)


def folder_of(call: Call[Any]) -> Path:
    """The exchange directory. Raises RefusedError if there is none, because then these routes are off."""
    if call.service.exchange_dir is None:
        raise RefusedError(
            404, "exchange-off", "these routes are off; serve --exchange-dir DIR turns them on"
        )
    return call.service.exchange_dir


def held(folder: Path, name: str) -> Path:
    """A path inside the exchange directory.

    Raises:
        RefusedError: the path is outside of it, or goes through a link, which could lead outside.
    """
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or "\\" in name or not parts:
        raise RefusedError(400, "path-outside", f"{name!r} is not a path inside the exchange directory")
    place = folder
    for part in parts:
        place = place / part
        try:
            is_link = stat.S_ISLNK(place.lstat().st_mode)
        except FileNotFoundError:
            break
        except OSError as error:
            raise RefusedError(
                400, "no-such-path", f"{name[:100]!r} is not a valid path: {error.strerror}"
            ) from None
        if is_link:
            raise RefusedError(400, "path-outside", f"{name!r} goes through a link")
    return folder.joinpath(*parts)


def _file(folder: Path, name: str) -> Path:
    place = held(folder, name)
    # Reading a pipe or a device might never end.
    if not place.exists() or not stat.S_ISREG(place.stat().st_mode):
        raise RefusedError(404, "no-such-file", f'No such file or directory "{name}"')
    return place


def _made(folder: Path, name: str) -> Path:
    place = held(folder, name)
    try:
        place.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise RefusedError(
            400, "no-such-directory", f'"{name}" cannot be created: {error.strerror}'
        ) from None
    for file in (EVENTS, SECRETS):
        held(folder, f"{name}/{file}")
    return place


async def _export(call: Call[DirectoryQuery]) -> Response:
    directory = await asyncio.to_thread(_made, folder_of(call), call.query.directory)
    events = call.store.export_events(maintenance_mode=call.query.mode)
    await pipeline(events, directory / EVENTS)
    await pipeline(call.store.export_secrets(), FileSink(directory / SECRETS, private=True))
    call.went_out(events.exported)
    return PlainTextResponse(_OK)


async def _import(call: Call[DirectoryQuery]) -> Response:
    folder, directory = folder_of(call), call.query.directory
    held(folder, directory)
    events = await asyncio.to_thread(_file, folder, f"{directory}/{EVENTS}")
    secrets = await asyncio.to_thread(_file, folder, f"{directory}/{SECRETS}")
    sink = call.store.import_secrets(call.query.mode)
    try:
        # Secrets are read before any event is replaced, so that a malformed line changes nothing.
        async for block in read_blocks(secrets):
            await sink.write(block)
        report = await pipeline(
            events,
            call.store.import_events(
                maintenance_mode=call.query.mode, max_line_bytes=call.service.limits.max_event_bytes
            ),
        )
        await sink.close()
    except BaseException:
        await sink.abort()
        raise
    call.came_in(report.imported)
    return PlainTextResponse(_OK)


async def _incremental(call: Call[PathQuery]) -> Response:
    path = await asyncio.to_thread(_file, folder_of(call), call.query.path)
    report = await call.store.incremental_import(
        read_blocks(path), max_line_bytes=call.service.limits.max_event_bytes
    )
    merged(call, report)
    return PlainTextResponse(_OK)


async def _freeze(call: Call[NoQuery]) -> Response:
    folder_of(call)
    try:
        await call.store.freeze()
    except AlreadyFrozenError:
        return PlainTextResponse("EventStore is already frozen")
    return PlainTextResponse("EventStore is frozen")


async def _unfreeze(call: Call[NoQuery]) -> Response:
    folder_of(call)
    try:
        await call.store.unfreeze()
    except NotFrozenError:
        return PlainTextResponse("EventStore is already unfrozen")
    return PlainTextResponse("EventStore is unfrozen")


exchange_export_handler = Handler("exchange-export", DirectoryQuery, _export, is_private=True, refusal=plain)
exchange_import_handler = Handler(
    "exchange-import", DirectoryQuery, _import, is_import=True, is_private=True, refusal=plain
)
exchange_incremental_import_handler = Handler(
    "exchange-incremental-import", PathQuery, _incremental, is_import=True, refusal=plain
)
exchange_freeze_handler = Handler("exchange-freeze", NoQuery, _freeze, refusal=plain)
exchange_unfreeze_handler = Handler("exchange-unfreeze", NoQuery, _unfreeze, refusal=plain)
