"""Styles and scripts, which stand in the package."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from starlette.responses import Response

from eventferry.console.page import PageAnswer, Visit, page
from eventferry.http.handling import Query
from eventferry.http.problems import RefusedError

_FOLDER = Path(__file__).parent / "static"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}


@dataclass(frozen=True, slots=True)
class _Asset:
    content: bytes
    media_type: str
    version: str


class AssetQuery(Query, kw_only=True):
    """Which one; and its version, by which browsers tell a new one from an old one."""

    name: str
    v: str = ""


@cache
def _assets() -> dict[str, _Asset]:
    return {
        path.name: _Asset(content, _TYPES[path.suffix], hashlib.sha256(content).hexdigest()[:12])
        for path in _FOLDER.iterdir()
        for content in [path.read_bytes()]
    }


def version_of(name: str) -> str:
    """The version of an asset."""
    return _assets()[name].version


@page("GET", "/asset", None)
async def asset_page(visit: Visit[AssetQuery]) -> PageAnswer:
    """A style or a script."""
    found = _assets().get(visit.given.name)
    if found is None:
        raise RefusedError(404, "not-found", "there is no such file")
    is_current = visit.given.v == found.version
    return Response(
        found.content,
        headers={
            "Content-Type": found.media_type,
            "Cache-Control": "public, max-age=31536000, immutable" if is_current else "no-cache",
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "same-origin",
            # An image that is opened by itself is a page of this host.
            "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
        },
    )
