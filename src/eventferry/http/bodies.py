"""Bodies: what a client sends, as blocks of UTF-8, whatever its charset, however it is packed, as large as it is.

One after another: the bytes of the wire, with limits on size and patience; unpacked, with a bound; as text. Nothing is
ever held but a block.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from email.message import Message

from starlette.requests import Request

from eventferry.errors import InputError
from eventferry.http.charsets import CHARSETS, Recoder, known_charset
from eventferry.http.limits import Limits
from eventferry.http.packing import CODINGS, Bound, unpacker
from eventferry.http.problems import RefusedError

BLOCK = 256 * 1024
"""How much of a body is handed on at once: servers give it in much smaller pieces."""

PATIENCE_BYTES = 16 * 1024
"""How much of a body must come within the limit on time, so that a byte a minute does not hold a place for ever."""

MEDIA_TYPES = (
    "application/x-ndjson",
    "application/json",
    "application/ndjson",
    "application/jsonl",
    "application/json-lines",
    "application/jsonlines",
    "application/octet-stream",
    # What curl says where nobody tells it what to say.
    "application/x-www-form-urlencoded",
)
"""The media types of a body, beside every `text/…` and `…+json`."""


class ClientGoneError(ConnectionError):
    """The client has gone before its request was whole: there is nobody to answer."""


async def request_blocks(request: Request, limits: Limits | None = None) -> AsyncGenerator[bytes, None]:
    """The body of a request as blocks of UTF-8, as `incremental_import` and `import_events` take them.

    The text may be in any of `CHARSETS`, as the request's `Content-Type` says, and be packed with gzip or zstd, as its
    `Content-Encoding` says.

    Raises:
        RefusedError: a charset, media type or encoding that is not known, or a body that is too large or too slow.
        InputError: the body is not what its headers say.
        ClientGoneError: the client went away.
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
            if (
                coding != "identity"
            ):  # which can be work without end: very many parts with next to nothing in them
                await asyncio.sleep(0)
    unpacking.finish()
    if text := recoder.finish():
        yield text


async def request_text(request: Request, limits: Limits) -> bytes:
    """A whole body as UTF-8, for what is one value. Raises as `request_blocks` does."""
    pieces: list[bytes] = []
    size = 0
    async for block in request_blocks(request, limits):
        size += len(block)
        if size > limits.max_event_bytes:
            raise RefusedError(413, "body-too-large", f"an event has at most {limits.max_event_bytes} bytes")
        pieces.append(block)
    return b"".join(pieces)


def charset_of(request: Request) -> str:
    """The charset that a request says its body has. Raises RefusedError."""
    given = request.headers.getlist("content-type") or ["application/octet-stream"]
    parsed = Message()
    parsed["content-type"] = given[0]
    charsets = [value for name, value in parsed.get_params([]) if name.lower() == "charset"]
    if len(given) > 1 or len(charsets) > 1:
        raise RefusedError(400, "unclear-type", "a request has one Content-Type, with one charset")
    media_type = parsed.get_content_type()
    if media_type not in MEDIA_TYPES and not media_type.startswith("text/") and "+json" not in media_type:
        raise RefusedError(
            415,
            "unsupported-media-type",
            f"a body cannot be {media_type}: send text or JSON",
            {"Accept-Post": "application/x-ndjson, application/json, text/plain"},
        )
    named = parsed.get_param("charset", "utf-8")
    name = named[-1] if isinstance(named, tuple) else named
    charset = known_charset(str(name).strip(" '\""))
    if charset is None:
        raise RefusedError(
            415,
            "unsupported-charset",
            f"the charset {str(name)[:40]!r} is not supported; these are: {', '.join(CHARSETS)}",
        )
    return charset


def coding_of(request: Request) -> str:
    """How a request says its body is packed. Raises RefusedError."""
    named = ", ".join(request.headers.getlist("content-encoding")).strip().lower()
    coding = {"x-gzip": "gzip", "": "identity"}.get(named, named)
    if coding not in CODINGS:
        raise RefusedError(
            415,
            "unsupported-encoding",
            f"the encoding {named[:40]!r} is not supported; these are: {', '.join(CODINGS)}, one at a time",
            {"Accept-Encoding": ", ".join(CODINGS)},
        )
    return coding


async def _wire(request: Request, limits: Limits) -> AsyncGenerator[bytes, None]:
    """The bytes as they come, gathered to blocks."""
    too_large = RefusedError(
        413,
        "body-too-large",
        f"the body is larger than {limits.max_body_bytes} bytes (the setting max_body_bytes)",
    )
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limits.max_body_bytes:
        raise too_large
    gathered: list[bytes] = []
    waiting = size = 0
    more = True
    while more:
        data, more = await _piece(request, limits.timeout)
        size += len(data)
        if size > limits.max_body_bytes:
            raise too_large
        gathered.append(data)
        waiting += len(data)
        if waiting >= BLOCK or not more:
            yield b"".join(gathered)
            gathered, waiting = [], 0


async def _piece(request: Request, patience: float) -> tuple[bytes, bool]:
    """A piece of the body, large enough to be worth the time that it took; and whether there is more."""
    pieces: list[bytes] = []
    count = 0
    try:
        async with asyncio.timeout(patience):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError
                pieces.append(message.get("body", b""))
                count += len(pieces[-1])
                more = message.get("more_body", False)
                if not more or count >= PATIENCE_BYTES:
                    return b"".join(pieces), more
    except TimeoutError:
        raise RefusedError(
            408,
            "body-too-slow",
            f"the body did not go on for {patience:g} seconds",
            {"Connection": "close"},
        ) from None


def refuse_empty(text: bytes) -> bytes:
    """A body that must hold something. Raises InputError."""
    if not text.strip():
        raise InputError("the body is empty")
    return text
