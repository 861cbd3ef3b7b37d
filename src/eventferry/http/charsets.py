"""Converts the text of a body from any charset to UTF-8.

Only text encodings are accepted. Python would also look up `zlib`, `unicode_escape` or `idna`, with which the sender
could produce anything.
"""

from __future__ import annotations

import codecs

from eventferry.errors import InputError

CHARSETS: tuple[str, ...] = (
    *("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be", "ascii"),
    *(f"iso8859-{part}" for part in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16)),
    *(f"cp125{page}" for page in range(9)),
    *("cp437", "cp720", "cp737", "cp775", "cp850", "cp852", "cp855", "cp857", "cp858", "cp860", "cp861"),
    *("cp862", "cp863", "cp864", "cp865", "cp866", "cp869", "cp874", "cp1125", "tis-620"),
    *("koi8-r", "koi8-u", "koi8-t", "kz1048", "ptcp154"),
    *("mac-roman", "mac-latin2", "mac-cyrillic", "mac-greek", "mac-turkish", "mac-iceland", "hp-roman8"),
    *("shift_jis", "shift_jis_2004", "shift_jisx0213", "cp932", "euc_jp", "euc_jis_2004", "euc_jisx0213"),
    *("iso2022_jp", "iso2022_jp_1", "iso2022_jp_2", "iso2022_jp_2004", "iso2022_jp_3", "iso2022_jp_ext"),
    *("gb2312", "gbk", "gb18030", "big5", "big5hkscs", "cp950", "euc_kr", "cp949", "johab", "iso2022_kr"),
)
"""The supported charsets, by Python's names. Python's and the web's other names for them are accepted too."""

_KNOWN = frozenset(CHARSETS)

_KOI8_RU = "koi8-ru"
_SHORT_U = {ord("╝"): "ў", ord("╬"): "Ў"}
"""The differences between KOI8-RU, which Python does not have, and KOI8-U."""

_LABELS = {
    "utf-8": "unicode-1-1-utf-8 unicode11utf8 unicode20utf8 x-unicode20utf8",
    "utf-16": "csunicode iso-10646-ucs-2 ucs-2 unicode",
    "utf-16-le": "unicodefeff",
    "utf-16-be": "unicodefffe",
    "iso8859-6": "csiso88596e csiso88596i iso-8859-6-e iso-8859-6-i",
    "iso8859-7": "sun_eu_greek",
    "iso8859-8": "csiso88598e iso-8859-8-e visual csiso88598i iso-8859-8-i logical",
    "iso8859-15": "csisolatin9",
    "koi8-r": "koi koi8",
    "mac-roman": "csmacintosh mac x-mac-roman",
    "mac-cyrillic": "x-mac-cyrillic x-mac-ukrainian",
    "cp874": "dos-874 windows-874",
    "gbk": "csgb2312 gb_2312 gb_2312-80 x-gbk",
    "big5": "cn-big5 x-x-big5",
    "euc_jp": "cseucpkdfmtjapanese x-euc-jp",
    "shift_jis": "x-sjis",
    "cp932": "windows-31j",
    "cp949": "cseuckr csksc56011987 iso-ir-149 ks_c_5601-1989 ksc_5601 windows-949",
}
_ALIASES = {
    **{f"iso8859{part}": f"iso8859-{part}" for part in (*range(1, 12), 13, 14, 15)},
    **{f"x-cp125{page}": f"cp125{page}" for page in range(9)},
    **{label: charset for charset, labels in _LABELS.items() for label in labels.split()},
}
"""The labels of the Encoding Standard that Python does not know."""
UTF_8 = frozenset({"utf-8", "utf-8-sig"})
"""The charsets that need no conversion."""
_WIDTHS = {"utf-16": 2, "utf-32": 4}


def known_charset(name: str) -> str | None:
    """Python's name of a charset; None if it is not supported."""
    name = name.strip().lower()
    if name == _KOI8_RU:
        return _KOI8_RU
    try:
        found = codecs.lookup(_ALIASES.get(name, name)).name
    except (LookupError, ValueError, UnicodeError, ImportError):
        return None
    return found if found in _KNOWN else None


class Recoder:
    """Converts blocks of text to UTF-8. Blocks may end anywhere, even inside a character.

    UTF-8 is passed on unchecked: it is checked when it is split into lines. The charset is one of `known_charset`.
    """

    def __init__(self, charset: str) -> None:
        self._charset = "koi8-u" if charset == _KOI8_RU else charset
        self._changes = _SHORT_U if charset == _KOI8_RU else None
        self._decoder: codecs.IncrementalDecoder | None = None
        self._start = b""
        self._consumed = 0
        self._lines = 0

    def feed(self, block: bytes) -> bytes:
        """Convert a block, up to its last complete character.

        Raises:
            InputError: the bytes are not valid in this charset.
        """
        if self._charset in UTF_8:
            return block
        if self._decoder is None:
            block = self._start + block
            if len(block) < _WIDTHS.get(self._charset, 0):
                self._start = block
                return b""
            self._decoder = codecs.getincrementaldecoder(_byte_order(self._charset, block))()
        return self._decoded(self._decoder, block, final=False)

    def finish(self) -> bytes:
        """Convert the rest. Raises InputError if the text ends inside a character."""
        if self._charset in UTF_8:
            return b""
        decoder = self._decoder or codecs.getincrementaldecoder(self._charset)()
        return self._decoded(decoder, b"" if self._decoder else self._start, final=True)

    def _decoded(self, decoder: codecs.IncrementalDecoder, block: bytes, *, final: bool) -> bytes:
        try:
            text = decoder.decode(block, final)
            whole = (text if self._changes is None else text.translate(self._changes)).encode()
        except UnicodeError as error:
            raise self._refusal(error, block) from None
        self._consumed += len(block)
        self._lines += text.count("\n")
        return whole

    def _refusal(self, error: UnicodeError, block: bytes) -> InputError:
        place, before = self._consumed, 0
        if isinstance(error, UnicodeDecodeError):
            # The decoder may have kept the beginning of a character from the previous block.
            place += error.start - (len(error.object) - len(block))
            before = error.object[: error.start].decode(self._charset, "ignore").count("\n")
        reason = (
            error.reason if isinstance(error, UnicodeDecodeError) else "a lone surrogate is not a character"
        )
        return InputError(
            f"byte {max(place, 0)} of the body is not {self._charset}: {reason}",
            line=self._lines + before + 1,
        )


def _byte_order(charset: str, start: bytes) -> str:
    """The codec of a charset, with the byte order if neither the name nor a byte order mark gives it.

    The text is JSON, so it begins with an ASCII character; the position of its zero byte shows the byte order.
    """
    width = _WIDTHS.get(charset)
    if width is None:
        return charset
    marks = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
    if any(start[:width] == mark for mark in marks):
        return charset
    return f"{charset}-be" if start[0] == 0 else f"{charset}-le"
