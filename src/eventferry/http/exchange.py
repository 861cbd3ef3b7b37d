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

from eventferry import (
    AUTO,
    MANUAL,
    AlreadyFrozenError,
    MaintenanceMode,
    NotFrozenError,
    pipeline,
    read_blocks,
)
from eventferry.http.handling import Call, Query
from eventferry.http.imports import merged
from eventferry.http.problems import RefusedError
from eventferry.http.route import TEXT, answers, route
from eventferry.lines.files import FileSink

EVENTS = "events.db"
SECRETS = "secrets.db"
_CHANGES = (404, 409, 422, 423)

_Mode = Literal["auto", "manual"]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]


class _DirectoryQuery(Query):
    directory: _Name
    maintenance_mode: _Mode = "auto"

    @property
    def mode(self) -> MaintenanceMode:
        """As a parameter of the library."""
        return MANUAL if self.maintenance_mode == "manual" else AUTO


class _PathQuery(Query):
    path: _Name


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


@route("GET", "/api/event-store/export", "read", "secrets", refuses=(404, 409, 423), is_plain=True)
@answers("ok", media_type=TEXT)
async def exchange_export_handler(call: Call[_DirectoryQuery]) -> str:
    """reSolve's client: export events and secrets to a directory inside the exchange directory."""
    directory = await asyncio.to_thread(_made, folder_of(call), call.query.directory)
    events = call.store.export_events(maintenance_mode=call.query.mode)
    await pipeline(events, directory / EVENTS)
    await pipeline(call.store.export_secrets(), FileSink(directory / SECRETS, private=True))
    call.went_out(events.exported)
    return "ok"


@route("GET", "/api/event-store/import", "import", "secrets", refuses=_CHANGES, is_import=True, is_plain=True)
@answers("ok", media_type=TEXT)
async def exchange_import_handler(call: Call[_DirectoryQuery]) -> str:
    """reSolve's client: import events and secrets from a directory, replacing all events."""
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
    return "ok"


@route(
    "GET", "/api/event-store/incremental-import", "import", refuses=_CHANGES, is_import=True, is_plain=True
)
@answers("ok", media_type=TEXT)
async def exchange_incremental_import_handler(call: Call[_PathQuery]) -> str:
    """reSolve's client: add the events that the store lacks and that are not older than its latest, from a file."""
    path = await asyncio.to_thread(_file, folder_of(call), call.query.path)
    report = await call.store.incremental_import(
        read_blocks(path), max_line_bytes=call.service.limits.max_event_bytes
    )
    merged(call, report)
    return "ok"


@route("GET", "/api/event-store/freeze", "write", refuses=(404,), is_plain=True)
@answers("EventStore is frozen, or is already frozen.", media_type=TEXT)
async def exchange_freeze_handler(call: Call[Query]) -> str:
    """reSolve's client: make writes fail."""
    folder_of(call)
    try:
        await call.store.freeze()
    except AlreadyFrozenError:
        return "EventStore is already frozen"
    return "EventStore is frozen"


@route("GET", "/api/event-store/unfreeze", "write", refuses=(404,), is_plain=True)
@answers("EventStore is unfrozen, or is already unfrozen.", media_type=TEXT)
async def exchange_unfreeze_handler(call: Call[Query]) -> str:
    """reSolve's client: allow writes again."""
    folder_of(call)
    try:
        await call.store.unfreeze()
    except NotFrozenError:
        return "EventStore is already unfrozen"
    return "EventStore is unfrozen"
