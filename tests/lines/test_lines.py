"""Lines and elements come out whole, wherever their bytes are cut, and errors name the right place."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventferry import InputError
from eventferry.lines.blocks import BOM, ArraySplitter, LineSplitter
from eventferry.lines.decoder import LineDecoder
from eventferry.lines.event import NewRow, NewRowValues
from eventferry.lines.spelling import is_compact

Place = tuple[int, int, bytes]


def lines_of(blocks: list[bytes], **options: int) -> list[Place]:
    """(number, byte offset, text) of every line that the blocks make."""
    splitter = LineSplitter(**options)
    found: list[Place] = []
    for part in [*[splitter.feed(block) for block in blocks], splitter.finish()]:
        number, offset = part.line, part.byte_offset
        for text in part.texts:
            found.append((number, offset, text))
            number, offset = number + 1, offset + len(text) + 1
    return found


def elements_of(blocks: list[bytes], **options: int) -> list[Place]:
    """(place, byte offset, text without the white space around it) of every element."""
    splitter = ArraySplitter(**options)
    found = [element for block in blocks for element in splitter.feed(block)]
    splitter.finish()
    return [(place, offset, text.strip()) for place, offset, text in found]


def cut(whole: bytes, places: list[int]) -> list[bytes]:
    """The bytes in blocks, cut at these places (taken modulo their length); some blocks may be empty."""
    ends = sorted(place % (len(whole) + 1) for place in places)
    return [whole[start:end] for start, end in zip([0, *ends], [*ends, len(whole)], strict=True)]


def refusal_of_lines(blocks: list[bytes], **options: int) -> InputError:
    with pytest.raises(InputError) as refused:
        lines_of(blocks, **options)
    return refused.value


def refusal_of_array(blocks: list[bytes], **options: int) -> InputError:
    with pytest.raises(InputError) as refused:
        elements_of(blocks, **options)
    return refused.value


cuts = st.lists(st.integers(min_value=0, max_value=10_000), max_size=12)
texts = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n")), max_size=12)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


# lines


@given(texts, st.booleans(), cuts)
@example(["\ufeff"], False, [])
@example(["\ufeff"], True, [1])
@example(["\ufeffa", "\ufeff"], False, [2])
def test_lines_are_the_same_wherever_the_bytes_are_cut(
    lines: list[str], ends_with_line_feed: bool, places: list[int]
) -> None:
    whole = "\n".join(lines).encode() + (b"\n" if ends_with_line_feed else b"")
    body = whole.removeprefix(BOM)
    expected, offset = [], len(whole) - len(body)
    for number, text in enumerate(body.removesuffix(b"\n").split(b"\n") if body else [], start=1):
        expected.append((number, offset, text))
        offset += len(text) + 1
    if not whole.endswith(b"\n") and expected and expected[-1][2] == b"":
        expected.pop()  # nothing is behind the last line feed
    assert lines_of(cut(whole, places)) == expected


def test_lines_are_the_same_when_every_byte_is_a_block_of_its_own() -> None:
    whole = "é🛳\n\n日本\r\n".encode()
    assert lines_of([bytes([byte]) for byte in whole]) == lines_of([whole])


@pytest.mark.parametrize("place", range(5))
def test_a_byte_order_mark_is_dropped_wherever_it_is_cut_and_counts_in_the_offset(place: int) -> None:
    whole = BOM + b"ab\ncd\n"
    assert lines_of([whole[:place], whole[place:]]) == [(1, 3, b"ab"), (2, 6, b"cd")]


def test_a_byte_order_mark_in_three_blocks_is_dropped() -> None:
    assert lines_of([b"\xef", b"\xbb", b"", b"\xbf", b"ab"]) == [(1, 3, b"ab")]


def test_a_byte_order_mark_alone_is_no_line() -> None:
    assert lines_of([BOM]) == []


def test_only_one_byte_order_mark_at_the_very_start_is_dropped() -> None:
    assert lines_of([BOM + BOM + b"a\n" + BOM + b"b"]) == [(1, 3, BOM + b"a"), (2, 8, BOM + b"b")]


def test_where_reading_goes_on_in_the_middle_nothing_is_taken_for_a_byte_order_mark() -> None:
    assert lines_of([BOM + b"a\n"], byte_offset=10, line=3) == [(3, 10, BOM + b"a")]


@pytest.mark.parametrize("blocks", [[b"\xef"], [b"\xef\xbb"], [b"\xef", b"\xbb"]])
def test_a_byte_order_mark_that_breaks_off_is_refused(blocks: list[bytes]) -> None:
    refused = refusal_of_lines(blocks)
    assert (refused.line, refused.byte_offset) == (1, 0)


def test_what_begins_like_a_byte_order_mark_and_is_none_is_kept() -> None:
    assert lines_of([b"\xef", b"\xbc\x81\n"]) == [(1, 0, b"\xef\xbc\x81")]


def test_blank_lines_and_carriage_returns_are_passed_over_but_counted() -> None:
    splitter = LineSplitter()
    lines = splitter.feed(b'\r\n{"a":1}\r\n \t \n\n{"b":2}\n')
    assert list(lines.decoded(json.loads)) == [(2, {"a": 1}), (5, {"b": 2})]


def test_a_refusal_by_the_decoder_comes_out_with_line_offset_and_field() -> None:
    def refuse(text: bytes) -> bytes:
        if text == b"bad":
            raise InputError("is bad", field="type")
        return text

    lines = LineSplitter().feed("é\n\nbad\n".encode())
    with pytest.raises(InputError) as refused:
        list(lines.decoded(refuse))
    error = refused.value
    assert (error.line, error.byte_offset, error.field, error.reason) == (3, 4, "type", "is bad")
    assert str(error) == "line 3, byte 4, field type: is bad"


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=5), st.data(), cuts)
def test_a_byte_that_is_not_utf8_is_named_by_line_and_offset_wherever_it_stands_and_is_cut(
    lines: list[str], data: st.DataObject, places: list[int]
) -> None:
    whole = "\n".join(lines).encode()
    characters = "\n".join(lines)
    before = characters[: data.draw(st.integers(0, len(characters)))].encode()
    bad = data.draw(
        st.sampled_from([b"\xff", b"\xc0\xaf", b"\x80", b"\xed\xa0\x80", b"\xf0\x9f\x9b.", b"\xc3\n"])
    )
    refused = refusal_of_lines(cut(before + bad + whole[len(before) :], places))
    assert refused.line == before.count(b"\n") + 1
    assert refused.byte_offset == before.rfind(b"\n") + 1
    assert f"byte {len(before)} " in refused.reason


@pytest.mark.parametrize("place", range(1, 9))
def test_a_bad_byte_split_off_from_the_character_it_breaks_is_named_by_its_own_line(place: int) -> None:
    whole = b"one\n\xf0\x9f\x9b\ntwo\n"
    refused = refusal_of_lines([whole[:place], whole[place:]])
    assert (refused.line, refused.byte_offset) == (2, 4)


def test_input_that_ends_inside_a_character_is_refused_at_its_line() -> None:
    refused = refusal_of_lines(["a\nü".encode()[:-1]])
    assert (refused.line, refused.byte_offset) == (2, 2)


@given(cuts)
def test_a_line_that_is_too_long_is_named_wherever_it_is_cut(places: list[int]) -> None:
    whole = b"1234567890\n" + b"x" * 11 + b"\nshort\n"
    refused = refusal_of_lines(cut(whole, places), max_line_bytes=10)
    assert (refused.line, refused.byte_offset) == (2, 11)
    assert "max_line_bytes" in refused.reason


@given(cuts)
def test_a_line_of_exactly_the_longest_length_passes_wherever_it_is_cut(places: list[int]) -> None:
    whole = b"1234567890\n1234567890"
    assert [text for *_, text in lines_of(cut(whole, places), max_line_bytes=10)] == [b"1234567890"] * 2


# elements of an array


@pytest.mark.slow
@given(st.lists(json_values, max_size=6), st.sampled_from(["", " ", "\r\n\t "]), st.booleans(), cuts)
def test_elements_are_the_same_wherever_the_bytes_are_cut(
    values: list[object], space: str, is_ascii: bool, places: list[int]
) -> None:
    written = [json.dumps(value, ensure_ascii=is_ascii) for value in values]
    whole = (space + "[" + space + f"{space},{space}".join(written) + space + "]" + space).encode()
    found = elements_of(cut(whole, places))
    assert [json.loads(text) for *_, text in found] == values
    assert [place for place, *_ in found] == list(range(1, len(values) + 1))
    for _, offset, text in found:
        assert whole[offset:].lstrip().startswith(text)


@pytest.mark.parametrize("place", range(5))
def test_a_byte_order_mark_before_an_array_is_dropped_wherever_it_is_cut(place: int) -> None:
    whole = BOM + b'[1,"[,]"]'
    assert [text for *_, text in elements_of([whole[:place], whole[place:]])] == [b"1", b'"[,]"']


def test_quotes_and_brackets_within_strings_are_no_structure_wherever_they_are_cut() -> None:
    whole = rb'[{"a":"\"]},["},"\\",["]"]]'
    for place in range(len(whole) + 1):
        texts = [text for *_, text in elements_of([whole[:place], whole[place:]])]
        assert texts == [rb'{"a":"\"]},["}', rb'"\\"', rb'["]"]']


@pytest.mark.parametrize("whole", [b"[1,2", b"[", b'["a]', b"[{]", b'["\\"]'])
def test_an_array_that_does_not_end_is_refused(whole: bytes) -> None:
    assert "ends inside" in refusal_of_array([whole]).reason


@pytest.mark.parametrize("whole", [b"[1] x", b"[1][2]", b"[1]]"])
def test_something_behind_the_array_is_refused_wherever_it_is_cut(whole: bytes) -> None:
    for place in range(len(whole) + 1):
        assert "behind the array" in refusal_of_array([whole[:place], whole[place:]]).reason


@pytest.mark.parametrize("whole", [b"[1,]", b"[1, ]", b"[,]"])
def test_a_comma_too_many_is_refused_by_splitter_or_decoder(whole: bytes) -> None:
    try:
        found = elements_of([whole])
    except InputError:
        return
    assert b"" in [text for *_, text in found]  # which no decoder takes for an event


@given(st.integers(0, 3), cuts)
def test_a_bad_byte_in_an_array_is_named_by_its_element(index: int, places: list[int]) -> None:
    elements = [b'"a"', b'"\xc3\xa9"', b'"b,]"', b'"c"']
    elements[index] = b'"\xff"'
    refused = refusal_of_array(cut(b"[" + b",".join(elements) + b"]", places))
    assert refused.line == index + 1


def test_an_element_that_is_too_long_is_refused_wherever_it_is_cut() -> None:
    whole = b'["a","' + b"x" * 30 + b'","b"]'
    for place in range(len(whole) + 1):
        assert refusal_of_array([whole[:place], whole[place:]], max_element_bytes=20).line == 2


def test_a_long_array_of_short_elements_passes_the_limit_of_one_element() -> None:
    splitter = ArraySplitter(max_element_bytes=20)
    assert len(splitter.feed(b"[" + b",".join([b"12345"] * 100) + b"]")) == 100


WHOLE = b'{"threadCounter":0,"threadId":1,"type":"T","timestamp":2,"aggregateId":"a","aggregateVersion":3,"payload":4}'
NEW = [
    b'{"type":"T","timestamp":2,"aggregateId":"a","payload":{"b":"c d"}}',
    b'{"type":"T","timestamp":2,"aggregateId":"a","aggregateVersion":3,"payload":null}',
    b'{"threadId":"x","type":"T","timestamp":2,"aggregateId":"a","payload":1.0}',
    b'{"type":"T","timestamp":2,"aggregateId":"a"}',
    b'{"type":"T","timestamp":2,"aggregateId":"a","payload":["9e12345678901",{"id":"3f1e12345678901a"}]}',
]
ODD = [
    b"",
    b'{"timestamp":2,"type":"T","aggregateId":"a","payload":1}',
    b'{"type":"T","timestamp":2,"aggregateId":"a","payload": 1}',
    b'{"type":"\\u0054","timestamp":2,"aggregateId":"a","payload":1}',
]
BAD = [
    b'{"type":"T","timestamp":2,"aggregateId":"a","payload":1,"payload":2}',
    b'{"type":"T","type":"U","timestamp":2,"aggregateId":"a","payload":1}',
    b'{"threadId":1,"threadId":2,"type":"T","timestamp":2,"aggregateId":"a","payload":1}',
    b'{"type":"T","timestamp":2,"aggregateId":"a","payload":"\\ud800"}',
    b'{"type":"T","timestamp":2,"aggregateId":"a","payload":1}{"type":"T","timestamp":2,"aggregateId":"a","payload":1}',
    b'{"type":"T","timestamp":2,"aggregateId":"a","payload":1,"more":1}',
    b'{"type":"T","aggregateId":"a","payload":1}',
    b'{"type":"T","timestamp":2,"aggregateId":"a","payload":[-1.5E-12345678901]}',
    b'{"type":"T","timestamp":2,"aggregateId":"a","payload":%se12345678901}' % (b"7" * 100),
]


def rows_of(values: Iterable[NewRowValues]) -> list[NewRow]:
    return [NewRow(*row[:3], bytes(row[3])) for row in values]


def what_comes_of(read: Callable[[], Iterable[NewRowValues]]) -> list[NewRow] | tuple[object, ...]:
    """The rows, or what was wrong and where."""
    try:
        return rows_of(read())
    except InputError as error:
        return error.reason, error.line, error.byte_offset, error.field


@given(st.lists(st.sampled_from([WHOLE, *NEW]), min_size=1))
def test_lines_as_eventferry_writes_them_are_decoded_at_once_with_positions_and_without(
    texts: list[bytes],
) -> None:
    rows = LineDecoder().new_rows(b"\n".join(texts) + b"\n", len(texts))
    if NEW[3] in texts:
        assert rows is None  # its payload is left out
    else:
        assert rows is not None
        assert rows_of(rows) == [LineDecoder().new_row(text) for text in texts]


@given(st.lists(st.sampled_from([WHOLE, *NEW, *ODD, *BAD])))
def test_lines_decoded_at_once_are_what_they_are_one_by_one(texts: list[bytes]) -> None:
    lines, decoder = LineSplitter().feed(b"\n".join(texts) + b"\n"), LineDecoder()
    one_by_one = what_comes_of(lambda: (row for _, row in lines.decoded(decoder.new_row)))
    assert what_comes_of(lambda: lines.new_rows(decoder)) == one_by_one
    assert isinstance(one_by_one, tuple) == any(text in BAD for text in texts)


# why a line is refused


@pytest.mark.parametrize(
    ("old", "new", "field", "reason"),
    [
        (b'"T"', b"5", "type", "must be a string of at most 700 characters, not 5"),
        (
            b'"T"',
            b'"%s"' % (b"x" * 701),
            "type",
            "must be a string of at most 700 characters, not a string of 701",
        ),
        (b'"T"', b'"\\ud800"', "type", "holds a lone surrogate"),
        (b":2,", b':"now",', "timestamp", "9007199254740991, not a string"),
        (b":2,", b":1.5,", "timestamp", "9007199254740991, not 1.5"),
        (b":2,", b":%s," % (b"1" * 1000), "timestamp", "9007199254740991, not a number of 1000 characters"),
        (b':1,"type', b':256,"type', "threadId", "must be a whole number from 0 to 255, not 256"),
        (b'"a"', b"[[[]]]", "aggregateId", "must be a string of at most 700 characters, not an array"),
        (b'"type":"T",', b"", "type", "is missing"),
        (b'"threadId":1,', b"", "threadId", "is missing (an incremental import gives positions"),
        (b'"type"', b'"types"', "types", "unknown key"),
        (b'"type"', b'"type":5,"type"', "type", "occurs twice"),
        (b":4}", b":{'a':1}}", None, "is not valid JSON at byte 107 of the line"),
        (b":4}", b":[4,-Infinity]}", "payload", "-Infinity is not a JSON value"),
        (b":4}", b':"NaN}', None, "is not whole"),
        (b":4}", b":4", None, "is not whole"),
        (b"{", b"[{", None, "must be an object, not an array"),
    ],
)
def test_a_refused_line_is_told_what_was_found_and_what_is_wanted(
    old: bytes, new: bytes, field: str | None, reason: str
) -> None:
    with pytest.raises(InputError) as refused:
        LineDecoder().row(WHOLE.replace(old, new, 1))
    assert refused.value.field == field
    assert reason in refused.value.reason


@given(st.integers(0, len(WHOLE)), st.integers(0, 2), st.sampled_from(list(b'"\\{}[],:0 .-eu\0\xff')))
def test_every_refusal_of_a_line_says_what_is_wrong(at: int, cut_off: int, byte: int) -> None:
    broken = WHOLE[:at] + bytes([byte]) + WHOLE[at + cut_off :]
    try:
        LineDecoder().row(broken)
    except InputError as error:
        assert error.reason not in ("is not an event", "is not valid JSON")  # noqa: PT017 -- some still are events


json_values = st.recursive(
    st.sampled_from(
        ["1", "-0", "1e2", "true", "null", '""', '" "', '", "', '"a: [ b"', '"\\" }"', '"\\\\"', '"é , "']
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda texts: ["[", *_joined(texts), "]"]),
        st.lists(inner, max_size=3).map(
            lambda texts: [
                "{",
                *_joined([[f'"k {place}"', ":", text] for place, text in enumerate(texts)]),
                "}",
            ]
        ),
    ),
    max_leaves=8,
)


def _joined(values: list[Any]) -> list[Any]:
    return [token for place, value in enumerate(values) for token in ([",", value] if place else [value])]


def _tokens(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [token for each in value for token in _tokens(each)]


@given(st.lists(json_values, min_size=1, max_size=3), st.data())
def test_white_space_around_a_token_is_found_and_that_in_a_string_is_none(
    values: list[Any], data: st.DataObject
) -> None:
    lines = [_tokens(value) for value in values]
    compact = b"".join("".join(tokens).encode() + b"\n" for tokens in lines)
    assert is_compact(compact)
    tokens = data.draw(st.sampled_from(lines))
    tokens.insert(
        data.draw(st.integers(0, len(tokens))), data.draw(st.sampled_from([" ", "  ", "\t", "\r", " \t"]))
    )
    assert not is_compact(b"".join("".join(tokens).encode() + b"\n" for tokens in lines))
