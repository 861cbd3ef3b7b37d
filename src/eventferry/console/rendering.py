"""Renders pages: whatever comes from a store is text, and never markup.

Each expression of a template is escaped for HTML, and what would not be seen (control characters, marks of direction)
is written out. A browser runs no script and loads no style but those of the package, whatever a page holds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import msgspec
from markupsafe import Markup, escape
from starlette.requests import Request

import eventferry
from eventferry.clock import iso
from eventferry.console.assets import version_of
from eventferry.console.page import ROOT, View, place
from eventferry.console.queries import as_field
from eventferry.console.sessions import Visitor
from eventferry.errors import InputError
from eventferry.lines.payload import encode_payload
from eventferry.visible import visible

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Not `no-referrer`: browsers would send forms with the origin "null".
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Of each answer of the console."""

BRIEF = 120
"""Characters of a payload in a table."""

MUCH = 100_000
"""Characters of a payload that a page shows whole."""


class Rendering:
    """The templates of the package."""

    def __init__(self) -> None:
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            finalize=_seen,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals |= {"version": eventferry.__version__, "version_of": version_of}
        self._templates.filters |= {
            "brief": brief,
            "clock": clock,
            "as_field": as_field,
            "duration": duration,
            "number": "{:,}".format,
            "payload_lines": payload_lines,
        }

    def text(self, request: Request, visitor: Visitor | None, form_key: str, view: View) -> str:
        """The markup of a page."""
        template = self._templates.get_template(view.template)
        return template.render(
            view.values,
            form_key=form_key,
            here=request.scope["path"].partition(ROOT)[2].rstrip("/"),
            place=partial(place, request),
            visitor=visitor,
        )


def _seen(value: Any) -> Any:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def clock(timestamp: int | None) -> Markup:
    """A time in ms since 1970, for people and for scripts, which show it in the reader's own zone."""
    if timestamp is None:
        return Markup("–")  # noqa: S704, RUF100 -- a dash
    try:
        shown = iso(timestamp)
    except OverflowError:
        return escape(f"{timestamp:,} ms")
    return Markup('<time datetime="{}Z">{}</time>').format(shown, shown.replace("T", " "))


def duration(seconds: float) -> str:
    """A time in the two units that say most: `3 days 4 h`."""
    left = int(seconds)
    units = [("day", 86_400), ("h", 3600), ("min", 60), ("s", 1)]
    parts = []
    for name, size in units:
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {name}{'s' if name == 'day' and count > 1 else ''}")
    return " ".join(parts[:2]) or "0 s"


def brief(payload: Any) -> str:
    """The beginning of a payload, for a table."""
    text = _json(payload)
    return text if len(text) <= BRIEF else text[:BRIEF] + "…"


def payload_lines(payload: Any) -> Iterator[str]:
    """A payload as JSON over several lines, which end where it is long."""
    text = _json(payload)
    if len(text) > MUCH:
        yield text[:MUCH] + "…"
        return
    try:
        text = msgspec.json.format(text, indent=2)
    except (msgspec.DecodeError, UnicodeEncodeError):  # no JSON by our rules, see `_json`
        text = json.dumps(payload, ensure_ascii=False, default=str, indent=2)
    yield from text.split("\n")


def _json(payload: Any) -> str:
    try:
        return encode_payload(payload).decode()
    except InputError:  # a foreign writer let in what is no JSON by our rules: shown as it is
        return json.dumps(payload, ensure_ascii=False, default=str)
