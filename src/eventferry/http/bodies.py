"""Request bodies as blocks of UTF-8, in any charset, compressed or not, of any size.

The bytes of the connection are gathered into blocks, decompressed and decoded, with limits on size and time. Only one
block is in memory at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from email.message import Message

from starlette.requests import Request

from eventferry.http.charsets import CHARSETS, Recoder, known_charset
from eventferry.http.limits import Limits
from eventferry.http.packing import CODINGS, Bound, unpacker
from eventferry.http.problems import RefusedError

BLOCK = 256 * 1024
"""Size of the blocks that are handed on. Servers deliver a body in much smaller pieces."""

PATIENCE_BYTES = 16 * 1024
"""How much of a body must arrive within the timeout, so that a client cannot keep a request alive byte by byte."""

MEDIA_TYPES = (
    "application/x-ndjson",
    "application/json",
    "application/ndjson",
    "application/jsonl",
    "application/json-lines",
    "application/jsonlines",
    "application/octet-stream",
    "application/x-www-form-urlencoded",  # curl's default
)
"""The media types of a body, in addition to all `text/…` and `…+json`."""


CLIENT_GONE = 499
"""The status of a request whose client disconnected, in logs and metrics only."""


class ClientGoneError(ConnectionError):
    """The client disconnected before its request was complete, so there is nobody to answer."""


async def request_blocks(request: Request, limits: Limits | None = None) -> AsyncGenerator[bytes, None]:
    """The body of a request as blocks of UTF-8, for `incremental_import` and `import_events`.

    The text may be in any of `CHARSETS`, as given by `Content-Type`, and compressed with gzip or zstd, as given by
    `Content-Encoding`.

    Raises:
        RefusedError: the charset, media type or encoding is not supported, or the body is too large or too slow.
        InputError: the body does not match its headers.
        ClientGoneError: the client disconnected.
    """
    limits = limits or Limits()
    recoder = Recoder(charset_of(request))
    coding = coding_of(request)
    unpacking = unpacker(coding)
    bound = Bound(limits.max_unpacked_bytes)
    async for data in _wire(request, limits):
        bound.came_in(len(data))
        for piece in unpacking.feed(data):
            if coding != "identity":
                bound.came_out(len(piece))
            if text := recoder.feed(piece):
                yield text
            if coding != "identity":  # a body can have very many compressed parts with almost nothing in them
                await asyncio.sleep(0)
    unpacking.finish()
    if text := recoder.finish():
        yield text


async def request_text(request: Request, limits: Limits) -> bytes:
    """The whole body of a request as UTF-8, for a single value. Raises as `request_blocks` does."""
    pieces: list[bytes] = []
    size = 0
    async for block in request_blocks(request, limits):
        size += len(block)
        if size > limits.max_event_bytes:
            raise RefusedError(
                413, "body-too-large", f"an event may have at most {limits.max_event_bytes} bytes"
            )
        pieces.append(block)
    return b"".join(pieces)


def charset_of(request: Request) -> str:
    """The charset of a body, from the headers. Raises RefusedError."""
    given = request.headers.getlist("content-type") or ["application/octet-stream"]
    parsed = Message()
    parsed["content-type"] = given[0]
    charsets = [value for name, value in parsed.get_params([]) if name.lower() == "charset"]
    if len(given) > 1 or len(charsets) > 1:
        raise RefusedError(400, "unclear-type", "a request must have only one Content-Type, with one charset")
    media_type = parsed.get_content_type()
    if media_type not in MEDIA_TYPES and not media_type.startswith("text/") and "+json" not in media_type:
        raise RefusedError(
            415,
            "unsupported-media-type",
            f"a body of type {media_type} is not supported: send text or JSON",
            {"Accept-Post": "application/x-ndjson, application/json, text/plain"},
        )
    named = parsed.get_param("charset", "utf-8")
    name = named[-1] if isinstance(named, tuple) else named
    charset = known_charset(str(name).strip(" '\""))
    if charset is None:
        raise RefusedError(
            415,
            "unsupported-charset",
            f"the charset {str(name)[:40]!r} is not supported; supported charsets: {', '.join(CHARSETS)}",
        )
    return charset


def coding_of(request: Request) -> str:
    """The content encoding of a body, from the headers. Raises RefusedError."""
    named = ", ".join(request.headers.getlist("content-encoding")).strip().lower()
    coding = {"x-gzip": "gzip", "": "identity"}.get(named, named)
    if coding not in CODINGS:
        raise RefusedError(
            415,
            "unsupported-encoding",
            f"the encoding {named[:40]!r} is not supported; use one of {', '.join(CODINGS)}",
            {"Accept-Encoding": ", ".join(CODINGS)},
        )
    return coding


async def _wire(request: Request, limits: Limits) -> AsyncGenerator[bytes, None]:
    """The bytes as they arrive, gathered into blocks."""
    too_large = RefusedError(
        413,
        "body-too-large",
        f"the body is larger than {limits.max_body_bytes} bytes (the setting max_body_bytes)",
    )
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limits.max_body_bytes:
        raise too_large
    pieces: list[bytes] = []
    gathered = size = 0
    more = True
    while more:
        came, more = await _take(request, pieces, limits.timeout)
        size += came
        gathered += came
        if size > limits.max_body_bytes:
            raise too_large
        if gathered >= BLOCK or not more:
            yield b"".join(pieces)
            pieces.clear()
            gathered = 0


async def _take(request: Request, pieces: list[bytes], patience: float) -> tuple[int, bool]:
    """Append pieces of the body, at least `PATIENCE_BYTES` unless it ends; returns their size, and whether it goes on.

    Raises RefusedError after `patience` seconds.
    """
    came = 0
    more = True
    try:
        async with asyncio.timeout(patience):
            while more and came < PATIENCE_BYTES:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError
                pieces.append(message.get("body", b""))
                came += len(pieces[-1])
                more = message.get("more_body", False)
    except TimeoutError:
        raise RefusedError(
            408,
            "body-too-slow",
            f"the body did not make progress for {patience:g} seconds",
            {"Connection": "close"},
        ) from None
    return came, more
