"""Bodies: any charset, packed or not, cut anywhere, with bounds."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from eventferry import InputError
from eventferry.http import ClientGoneError, Limits, RefusedError, request_blocks
from eventferry.http.bodies import charset_of
from eventferry.http.charsets import CHARSETS, known_charset
from tests.support import examples, exported, make_lines
from tests.support.service import lines_of, new_event, problem_of, service

SAMPLES = (
    '{"a":[1,"x\\n"]}\r\n ~|@#$^`\'äöüßéèñçøåÿ€£¥§ŁłŽžşğĞ αβγδω Привет мир їєґ '
    "שלום مرحبا ไทย 日本語テキスト ア 漢字 中文简体繁體 한국어 ①㈱〜"
)


def request_of(pieces: Sequence[bytes], headers: dict[str, str], *, cut: bool = False) -> Request:
    """A request whose body comes in these pieces; `cut`: and then the client goes away."""
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": piece, "more_body": True} for piece in pieces
    ]
    messages.append(
        {"type": "http.disconnect"} if cut else {"type": "http.request", "body": b"", "more_body": False}
    )
    coming = iter(messages)

    async def receive() -> dict[str, Any]:
        return next(coming)

    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    return Request(
        {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": raw}, receive
    )


async def read(pieces: Sequence[bytes], limits: Limits | None = None, **headers: str) -> bytes:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return b"".join([block async for block in request_blocks(request_of(pieces, named), limits)])


def cut_into(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(places)]


def encodable(charset: str) -> str:
    """As much of the samples as a charset has."""
    return "".join(character for character in SAMPLES if _has(charset, character))


def _has(charset: str, character: str) -> bool:
    try:
        return character.encode(charset).decode(charset) == character
    except UnicodeError:
        return False


@settings(max_examples=examples(80), deadline=None)
@given(st.sampled_from(CHARSETS), st.data(), st.lists(st.integers(0, 10_000), max_size=12))
async def test_text_in_any_charset_arrives_exactly_cut_anywhere(
    charset: str, data: Any, cuts: list[int]
) -> None:
    alphabet = sorted(set(encodable(charset)))
    text = "[" + data.draw(st.text(st.sampled_from(alphabet), max_size=60))
    if charset.startswith("utf"):
        text += data.draw(st.text(max_size=60))
    encoded = text.encode(charset)
    arrived = await read(cut_into(encoded, cuts), content_type=f"application/json; charset={charset}")
    assert arrived.decode("utf-8-sig" if charset.startswith("utf") else "utf-8") == text.removeprefix(
        "\ufeff"
    )


WEB = {
    "é": {
        "utf-8": "unicode-1-1-utf-8 unicode11utf8 unicode20utf8 utf-8 utf8 x-unicode20utf8",
        "utf-16-le": "csunicode iso-10646-ucs-2 ucs-2 unicode unicodefeff utf-16 utf-16le",
        "utf-16-be": "unicodefffe utf-16be",
        "cp1252": "ansi_x3.4-1968 ascii cp1252 cp819 csisolatin1 ibm819 iso-8859-1 iso-ir-100 iso8859-1 iso88591 "
        "iso_8859-1 iso_8859-1:1987 l1 latin1 us-ascii windows-1252 x-cp1252",
        "mac-roman": "csmacintosh mac macintosh x-mac-roman",
        "cp1254": "cp1254 csisolatin5 iso-8859-9 iso-ir-148 iso8859-9 iso88599 iso_8859-9 iso_8859-9:1989 l5 latin5 "
        "windows-1254 x-cp1254",
        "cp1258": "cp1258 windows-1258 x-cp1258",
    },
    "ł": {
        "iso8859-2": "csisolatin2 iso-8859-2 iso-ir-101 iso8859-2 iso88592 iso_8859-2 iso_8859-2:1987 l2 latin2",
        "iso8859-13": "iso-8859-13 iso8859-13 iso885913",
        "iso8859-16": "iso-8859-16",
        "cp1250": "cp1250 windows-1250 x-cp1250",
        "cp1257": "cp1257 windows-1257 x-cp1257",
    },
    "ĝ": {
        "iso8859-3": "csisolatin3 iso-8859-3 iso-ir-109 iso8859-3 iso88593 iso_8859-3 iso_8859-3:1988 l3 latin3"
    },
    "ģ": {
        "iso8859-4": "csisolatin4 iso-8859-4 iso-ir-110 iso8859-4 iso88594 iso_8859-4 iso_8859-4:1988 l4 latin4"
    },
    "Ж": {
        "ibm866": "866 cp866 csibm866 ibm866",
        "iso8859-5": "csisolatincyrillic cyrillic iso-8859-5 iso-ir-144 iso8859-5 iso88595 iso_8859-5 iso_8859-5:1988",
        "koi8-r": "cskoi8r koi koi8 koi8-r koi8_r",
        "koi8-u": "koi8-ru koi8-u",
        "cp1251": "cp1251 windows-1251 x-cp1251",
        "mac-cyrillic": "x-mac-cyrillic x-mac-ukrainian",
    },
    "ع": {
        "iso8859-6": "arabic asmo-708 csiso88596e csiso88596i csisolatinarabic ecma-114 iso-8859-6 iso-8859-6-e "
        "iso-8859-6-i iso-ir-127 iso8859-6 iso88596 iso_8859-6 iso_8859-6:1987",
        "cp1256": "cp1256 windows-1256 x-cp1256",
    },
    "ω": {
        "iso8859-7": "csisolatingreek ecma-118 elot_928 greek greek8 iso-8859-7 iso-ir-126 iso8859-7 iso88597 "
        "iso_8859-7 iso_8859-7:1987 sun_eu_greek",
        "cp1253": "cp1253 windows-1253 x-cp1253",
    },
    "ש": {
        "iso8859-8": "csiso88598e csisolatinhebrew hebrew iso-8859-8 iso-8859-8-e iso-ir-138 iso8859-8 iso88598 "
        "iso_8859-8 iso_8859-8:1988 visual csiso88598i iso-8859-8-i logical",
        "cp1255": "cp1255 windows-1255 x-cp1255",
    },
    "ŋ": {"iso8859-10": "csisolatin6 iso-8859-10 iso-ir-157 iso8859-10 iso885910 l6 latin6"},
    "ŵ": {"iso8859-14": "iso-8859-14 iso8859-14 iso885914"},
    "œ": {"iso8859-15": "csisolatin9 iso-8859-15 iso8859-15 iso885915 iso_8859-15 l9"},
    "ท": {"cp874": "dos-874 iso-8859-11 iso8859-11 iso885911 tis-620 windows-874"},
    "简": {
        "gbk": "chinese csgb2312 csiso58gb231280 gb2312 gb_2312 gb_2312-80 gbk iso-ir-58 x-gbk gb18030",
    },
    "繁": {"big5": "big5 big5-hkscs cn-big5 csbig5 x-x-big5"},
    "語": {
        "euc_jp": "cseucpkdfmtjapanese euc-jp x-euc-jp",
        "iso2022_jp": "csiso2022jp iso-2022-jp",
        "shift_jis": "csshiftjis ms932 ms_kanji shift-jis shift_jis sjis windows-31j x-sjis",
    },
    "한": {
        "euc_kr": "cseuckr csksc56011987 euc-kr iso-ir-149 korean ks_c_5601-1987 ks_c_5601-1989 ksc5601 ksc_5601 "
        "windows-949",
    },
}
"""The labels of the Encoding Standard, but those that mean a refusal: a character, and in what it is written."""


@pytest.mark.parametrize(
    ("character", "codec", "label"),
    [
        (character, codec, label)
        for character, codecs in WEB.items()
        for codec, labels in codecs.items()
        for label in labels.split()
    ],
)
async def test_a_charset_is_known_by_every_name_of_the_web(character: str, codec: str, label: str) -> None:
    for name in (label, label.upper()):
        charset = known_charset(name)
        assert charset is not None
        text = "[]" if charset == "ascii" else f'["{character}"]'
        assert await read([text.encode(codec)], content_type=f"text/plain; charset={name}") == text.encode()


async def test_koi8_ru_has_the_short_u_of_belarusian() -> None:
    text = '["Ўў Жж"]'
    encoded = text.replace("ў", "╝").replace("Ў", "╬").encode("koi8-u")
    for pieces in ([encoded], [encoded[:3], encoded[3:]]):
        assert await read(pieces, content_type="text/plain; charset=koi8-ru") == text.encode()


@pytest.mark.parametrize("label", ["replacement", "x-user-defined", "hz-gb-2312", "iso-2022-cn"])
def test_names_that_the_web_refuses_are_refused(label: str) -> None:
    assert known_charset(label) is None


@pytest.mark.parametrize("charset", CHARSETS)
def test_every_charset_has_more_than_ascii_or_is_ascii(charset: str) -> None:
    assert charset == "ascii" or not encodable(charset).isascii()


@pytest.mark.parametrize("order", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
async def test_the_byte_order_is_found_with_a_mark_and_without(order: str, mark: str) -> None:
    text = '[{"type":"日本"}]'
    encoded = (mark + text).encode(order)
    for size in (1, 2, 3, 5, 1000):
        pieces = [encoded[at : at + size] for at in range(0, len(encoded), size)]
        arrived = await read(pieces, content_type=f"application/json; charset={order[:6]}")
        assert arrived.decode("utf-8-sig") == text


@pytest.mark.parametrize(
    "name",
    [
        "zlib",
        "zip",
        "base64",
        "hex",
        "rot13",
        "unicode_escape",
        "raw_unicode_escape",
        "idna",
        "punycode",
        "undefined",
        *("utf-7", "bz2", "quopri", "uu", "mbcs", "oem", "nonsense", "../x", "", "utf-8\0", "é", "a" * 5000),
    ],
)
async def test_what_is_no_charset_of_text_is_refused(name: str) -> None:
    with pytest.raises(RefusedError) as raised:
        await read([b"[]"], content_type=f'application/json; charset="{name}"')
    assert raised.value.status == 415


@pytest.mark.parametrize(
    ("header", "charset"),
    [
        ("application/json", "utf-8"),
        ("application/json; charset=UTF8", "utf-8"),
        ('text/plain; charset="Shift_JIS"', "shift_jis"),
        ("text/csv; charset=Windows-31J", "cp932"),
        ("APPLICATION/JSON;CHARSET=ISO-8859-1", "iso8859-1"),
        ("application/vnd.events+json; charset=windows-1252", "cp1252"),
        ("application/x-ndjson; a=b; charset=EUC-KR", "euc_kr"),
    ],
)
def test_charsets_are_known_by_the_names_that_the_web_uses(header: str, charset: str) -> None:
    assert charset_of(request_of([], {"content-type": header})) == charset


@pytest.mark.parametrize("media_type", ["image/png", "multipart/form-data; boundary=x", "application/pdf"])
async def test_what_is_no_text_is_refused_by_its_media_type(media_type: str) -> None:
    with pytest.raises(RefusedError) as raised:
        await read([b"[]"], content_type=media_type)
    assert raised.value.status == 415


@pytest.mark.parametrize(
    ("charset", "data"),
    [
        ("utf-16", b"\xff\xfe{\x00\x00"),
        ("utf-16-le", b"{\x00\n\x00\x00\xd8{\x00"),
        ("shift_jis", b"{}\n\xff\xff"),
        ("ascii", "{}\né".encode()),
        ("euc_jp", b"{}\n\xa4"),
        ("utf-32", b"{\x00\x00"),
        ("cp1252", b"{}\n\x81"),
    ],
)
async def test_bytes_that_are_none_in_their_charset_are_refused_by_place(charset: str, data: bytes) -> None:
    for pieces in ([data], [data[at : at + 1] for at in range(len(data))]):
        with pytest.raises(InputError, match=f"is not {charset}") as raised:
            await read(pieces, content_type=f"text/plain; charset={charset}")
        assert raised.value.line == (2 if b"\n" in data else 1)


def packed(data: bytes, coding: str) -> bytes:
    return gzip.compress(data) if coding == "gzip" else zstd.compress(data)


@settings(max_examples=examples(100), deadline=None)
@given(
    st.sampled_from(["gzip", "zstd"]),
    st.binary(max_size=3000),
    st.integers(1, 3),
    st.lists(st.integers(0, 10_000), max_size=8),
)
async def test_a_packed_body_arrives_exactly_in_one_part_or_several(
    coding: str, data: bytes, parts: int, cuts: list[int]
) -> None:
    whole = b"".join(packed(data, coding) for _ in range(parts))
    assert await read(cut_into(whole, cuts), content_encoding=coding) == data * parts


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
async def test_a_packed_body_that_is_cut_anywhere_is_refused(coding: str) -> None:
    whole = packed(make_lines(20), coding)
    for end in range(len(whole)):
        with pytest.raises(InputError):
            await read([whole[:end]], content_encoding=coding)


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
async def test_a_packed_body_with_a_flipped_byte_or_something_behind_it_is_refused(coding: str) -> None:
    options: dict[int, int] = {zstd.CompressionParameter.checksum_flag: 1}
    data = make_lines(20)
    whole = gzip.compress(data) if coding == "gzip" else zstd.compress(data, options=options)
    with pytest.raises(InputError):
        await read([whole + b"garbage"], content_encoding=coding)
    with pytest.raises(InputError):
        await read([b"garbage" + whole], content_encoding=coding)
    for at in random.Random(1).sample(range(12, len(whole)), 40):
        broken = bytearray(whole)
        broken[at] ^= 0x10
        try:
            arrived = await read([bytes(broken)], content_encoding=coding)
        except InputError:
            continue
        assert arrived == data  # the bit stood in a part that says nothing, such as a name


def bomb(coding: str, megabytes: int) -> bytes:
    """A body that unpacks to very much: spaces, which JSON would skip."""
    block = b" " * 1024 * 1024
    if coding == "zstd":
        packer = zstd.ZstdCompressor()
        return b"".join([packer.compress(block) for _ in range(megabytes)]) + packer.flush()
    deflate = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join([deflate.compress(block) for _ in range(megabytes)]) + deflate.flush()


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
async def test_a_bomb_is_put_out_before_it_fills_anything(coding: str) -> None:
    body = bomb(coding, 150)
    assert len(body) < 400_000
    sizes: list[int] = []

    async def take() -> None:
        async for block in request_blocks(request_of([body], {"content-encoding": coding})):
            sizes.append(len(block))  # noqa: PERF401 -- what came before the refusal is what counts

    with pytest.raises(RefusedError) as raised:
        await take()
    assert raised.value.status == 413
    assert max(sizes) <= 1024 * 1024
    assert sum(sizes) < 100 * 1024 * 1024


async def test_a_packed_body_has_a_limit_of_its_own() -> None:
    body = gzip.compress(random.Random(1).randbytes(20_000))
    with pytest.raises(RefusedError, match="10000"):
        await read([body], Limits(max_unpacked_bytes=10_000), content_encoding="gzip")
    assert len(await read([body], Limits(max_unpacked_bytes=20_000), content_encoding="gzip")) == 20_000


async def test_a_zstd_frame_cannot_ask_for_much_memory() -> None:
    big = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
    greedy = big.compress(b"x" * 100) + big.flush()
    with pytest.raises(InputError, match="zstd"):
        await read([greedy], content_encoding="zstd")


@pytest.mark.parametrize("coding", ["br", "deflate", "compress", "gzip, gzip", "nonsense"])
async def test_an_encoding_that_is_not_known_is_refused_with_those_that_are(
    tmp_path: Path, coding: str
) -> None:
    async with service(tmp_path) as (client, _):
        response = await client.post(
            "/incremental-import", content=b"[]", headers={"Content-Encoding": coding}
        )
        assert response.status_code == 415
        assert "zstd" in response.headers["accept-encoding"]
        problem_of(response)


async def test_a_body_that_is_too_large_is_refused_by_its_head_or_by_what_came(tmp_path: Path) -> None:
    async with service(tmp_path, limits=Limits(max_body_bytes=1000)) as (client, store):

        async def endless() -> AsyncIterator[bytes]:
            for line in make_lines(1000).splitlines(keepends=True):
                yield line

        for body in (make_lines(20), endless()):
            response = await client.post("/import", content=body)
            assert response.status_code == 413
            problem_of(response)
        assert (await store.describe()).event_count == 0
        assert (await client.post("/import", content=make_lines(5))).status_code == 200


@pytest.mark.parametrize("path", ["/events", "/incremental-import", "/import"])
async def test_an_event_has_a_largest_size(tmp_path: Path, path: str) -> None:
    async with service(tmp_path, limits=Limits(max_event_bytes=5000)) as (client, _):
        large = new_event(1, payload="x" * 6000) | {"aggregateVersion": 1, "threadId": 0, "threadCounter": 0}
        response = await client.post(path, content=lines_of([large]))
        assert response.status_code in (413, 422)
        assert "5000" in problem_of(response)["detail"]


async def test_a_body_that_stands_still_is_given_up(tmp_path: Path) -> None:
    async with service(tmp_path, limits=Limits(timeout=0.1)) as (client, store):

        async def stuck() -> AsyncIterator[bytes]:
            yield make_lines(1)
            await asyncio.sleep(30)

        for path in ("/import", "/incremental-import", "/events"):
            response = await client.post(path, content=stuck())
            assert response.status_code == 408
            problem_of(response)
        assert (await store.describe()).event_count == 0


async def test_a_body_that_comes_byte_by_byte_does_not_hold_a_place_for_ever() -> None:
    async def drip() -> dict[str, Any]:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b" ", "more_body": True}

    request = Request(
        {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": []}, drip
    )
    with pytest.raises(RefusedError) as raised:
        async for _ in request_blocks(request, Limits(timeout=0.3)):
            pass
    assert raised.value.status == 408


async def test_a_client_that_goes_away_is_no_end() -> None:
    with pytest.raises(ClientGoneError):
        async for _ in request_blocks(request_of([b"[]"], {}, cut=True)):
            pass


@pytest.mark.parametrize(
    "charset", ["utf-8", "latin-1", "shift_jis", "utf-16", "utf-16-be", "gb18030", "koi8-r"]
)
@pytest.mark.parametrize("coding", ["identity", "gzip", "zstd"])
async def test_events_of_any_charset_and_encoding_are_stored_exactly(
    tmp_path: Path, charset: str, coding: str
) -> None:
    text = encodable(charset)
    body = json.dumps(
        [new_event(1, payload={"text": text}, aggregateId=text[:20])], ensure_ascii=False
    ).encode(charset)
    body = body if coding == "identity" else packed(body, coding)
    headers = {"Content-Type": f"application/json; charset={charset}", "Content-Encoding": coding}
    async with service(tmp_path) as (client, store):
        response = await client.post("/incremental-import", content=body, headers=headers)
        assert response.json()["imported"] == 1, response.text
        stored = json.loads(await exported(store))
        assert stored["payload"] == {"text": text}
        assert stored["aggregateId"] == text[:20]


async def test_a_charset_is_decoded_before_lines_are_split(tmp_path: Path) -> None:
    # U+0A0A has two bytes that are line feeds; U+300A has one.
    events = [new_event(number, payload="\u0a0a\u300a") for number in range(5)]
    body = lines_of(events).decode().encode("utf-16-le")
    headers = {"Content-Type": "application/x-ndjson; charset=utf-16le"}
    async with service(tmp_path) as (client, store):
        response = await client.post("/incremental-import", content=body, headers=headers)
        assert response.json()["imported"] == 5
        assert (await exported(store)).decode().count("\u0a0a\u300a") == 5


@pytest.mark.parametrize(("coding", "pack"), [("gzip", gzip.compress), ("zstd", zstd.compress)])
@pytest.mark.parametrize("content", [b"", b" "], ids=["nothing in them", "a blank in them"])
async def test_a_body_of_very_many_parts_lets_others_go_on(
    coding: str, pack: Callable[[bytes], bytes], content: bytes
) -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.create_task(others())
    parts = 20_000
    assert await read([pack(content) * parts], content_encoding=coding) == content * parts
    task.cancel()
    assert turns > parts / 100
