"""The real reSolve adapters as Python objects, and the installation of their packages."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.interop import npm

HERE = Path(__file__).parent
ANSWER_SECONDS = 60
ANSWER_BYTES = 256 * 1024 * 1024


class ResolveError(Exception):
    """What the real adapter threw; `name` is the error's in JavaScript."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name


def in_javascript(text: str | bytes, **options: Any) -> Any:
    """What a JSON text holds, numbers by their value in JavaScript."""
    return json.loads(text, parse_int=_number, **options)


def _number(text: str) -> int | float:
    return int(text) if abs(int(text)) <= 2**53 else float(text)


class Resolve:
    """An adapter in a Node process of its own; its methods as reSolve names them."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._commands = process.stdin
        self._answers = process.stdout

    async def call(self, method: str, *args: Any) -> Any:
        """Call a method of the adapter; raises ResolveError where that throws."""
        self._commands.write(json.dumps({"method": method, "args": args}).encode() + b"\n")
        await self._commands.drain()
        answer = await asyncio.wait_for(self._answers.readline(), ANSWER_SECONDS)
        assert answer, f"node ended during {method}"
        found = in_javascript(answer)
        if "error" in found:
            raise ResolveError(found["error"].get("name", "Error"), found["error"]["message"])
        return found["result"]

    async def save(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Its saveEvent: the stored event and the cursor."""
        saved: dict[str, Any] = await self.call("saveEvent", event)
        return saved

    async def page(self, limit: int, cursor: str | None = None, **filters: Any) -> dict[str, Any]:
        """Its loadEvents by cursor: the events and the cursor."""
        page: dict[str, Any] = await self.call("loadEvents", {"limit": limit, "cursor": cursor, **filters})
        return page

    async def events(self) -> list[dict[str, Any]]:
        """All events, in one page."""
        page = await self.page(2**31 - 1)
        events: list[dict[str, Any]] = page["events"]
        return events

    async def exported(self, cursor: str | None = None) -> bytes:
        """All that its exporter gives out."""
        export = await self.call("exportEvents", {"cursor": cursor})
        text: str = export["text"]
        return text.encode()


class ResolvePackages:
    """The installed packages; called with a store's place, the adapter on it."""

    def __init__(self, folder: Path) -> None:
        self.environment = {**os.environ, "NODE_PATH": str(folder / "node_modules")}

    @asynccontextmanager
    async def __call__(self, place: str) -> AsyncIterator[Resolve]:
        """The adapter on a SQLite file, or at the URL of a PostgreSQL store. Connects with its first command and
        is disposed of at the end."""
        package, options = _adapter(place)
        process = await asyncio.create_subprocess_exec(
            "node",
            str(HERE / "resolve.cjs"),
            package,
            json.dumps(options),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=self.environment,
            limit=ANSWER_BYTES,
        )
        try:
            yield Resolve(process)
            assert process.stdin is not None
            process.stdin.close()
            await asyncio.wait_for(process.wait(), ANSWER_SECONDS)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


def _adapter(place: str) -> tuple[str, dict[str, Any]]:
    """The package for a place and its adapter's options."""
    if "://" not in place:
        return "@resolve-js/eventstore-lite", {"databaseFile": place}
    address = urlsplit(place)
    return "@resolve-js/eventstore-postgresql", {
        "host": address.hostname,
        "port": address.port or 5432,
        "user": unquote(address.username or ""),
        "password": unquote(address.password or ""),
        "database": unquote(address.path.removeprefix("/")),
        "databaseName": parse_qs(address.query)["database_name"][0],
    }


def install() -> Path:
    """The folder with the packages."""
    return npm.install(
        HERE / "package.json",
        compiled="better-sqlite3",
        works="new (require('better-sqlite3'))(':memory:')",
    )
