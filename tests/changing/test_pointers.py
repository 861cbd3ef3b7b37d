"""JSON text is edited where pointers point: that gives what the same edit of the value gives, and all other text stays
byte for byte."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eventferry import ChangeError, RulesError
from eventferry.changing.pointers import Documents, Pointer, parsed
from tests.support import examples

NAMES = st.sampled_from(["a", "b", "c", "", "é", 'q"', "x/y", "m~n", "0", "1", "\n"])
NUMBERS = st.sampled_from(["0", "-0", "1.0", "1e2", "1.50E+1", "12345678901234567890", "0.1000"])


def spelled(text: str, draw: Any) -> str:
    """A string in one of its spellings."""
    return "".join(
        rf"\u{ord(sign):04x}"
        if draw(st.integers(0, 5)) == 0 and ord(sign) < 0x10000
        else json.dumps(sign, ensure_ascii=False)[1:-1]
        for sign in text
    )


@st.composite
def values(draw: Any, depth: int = 3) -> str:
    """A compact JSON text: spelled as it likes, and with a key twice in an object here and there."""
    kind = draw(
        st.sampled_from(
            ["number", "string", "word", "array", "object", "object"]
            if depth
            else ["number", "string", "word"]
        )
    )
    if kind == "number":
        return str(draw(NUMBERS))
    if kind == "string":
        return f'"{spelled(draw(NAMES), draw)}"'
    if kind == "word":
        return str(draw(st.sampled_from(["null", "true", "false"])))
    if kind == "array":
        return "[" + ",".join(draw(st.lists(values(depth - 1), max_size=3))) + "]"
    members = draw(st.lists(st.tuples(NAMES, values(depth - 1)), max_size=4))
    return "{" + ",".join(f'"{spelled(name, draw)}":{value}' for name, value in members) + "}"


ONE = (0,)


def of_text(text: str) -> Documents:
    return of_texts([text])


def of_texts(texts: Sequence[str]) -> Documents:
    documents = Documents()
    documents.open({number: msgspec.Raw(text.encode()) for number, text in enumerate(texts)})
    return documents


def text_of(documents: Documents) -> bytes:
    return bytes(dict(documents.texts)[0])


pointers = st.lists(st.one_of(NAMES, st.just(None)), max_size=4).map(tuple)


class Twice:
    """An object as its members, with the keys that occur twice."""

    def __init__(self, members: list[tuple[str, Any]]) -> None:
        self.members = [list(member) for member in members]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Twice) and self.members == other.members

    def __repr__(self) -> str:
        return f"Twice({self.members})"


class Number(str):
    """A number as it is spelled."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Number) and str.__eq__(self, other)

    __hash__ = str.__hash__


def read(text: bytes) -> Any:
    """Everything that the text says, but for how strings are spelled."""
    return json.loads(text, object_pairs_hook=Twice, parse_int=Number, parse_float=Number)


def children(value: Any, token: str | None) -> Iterator[tuple[list[Any], int]]:
    """(list, index) of what a token stands for; of a member, the list is [name, value]."""
    if isinstance(value, Twice):
        for member in value.members:
            if token is None or member[0] == token:
                yield member, 1
    elif isinstance(value, list):
        for index in range(len(value)):
            if token is None or str(index) == token:
                yield value, index


def found(root: list[Any], pointer: Pointer) -> list[tuple[list[Any], int]]:
    places = [(root, 0)]
    for token in pointer:
        places = [child for holder, at in places for child in children(holder[at], token)]
    return places


def texts_left(text: bytes) -> list[bytes]:
    """The strings, numbers and words of a text as they are spelled, in order."""
    return re.findall(rb'"(?:[^"\\]|\\.)*"|[-+.0-9eEa-z]+', text)


@given(values(), pointers)
@settings(max_examples=examples(150))
@example('{"a":1,"\\u0061":2}', ("a",))
def test_a_value_is_replaced_where_the_pointer_finds_it(text: str, pointer: Pointer) -> None:
    document = of_text(text)
    expected = [read(text.encode())]
    places = found(expected, pointer)
    for holder, at in places:
        holder[at] = Number("17")
    assert document.replace(ONE, pointer, lambda _: msgspec.Raw(b"17")) == len(places)
    assert read(text_of(document)) == expected[0]


@given(values(), pointers)
@settings(max_examples=examples(150))
def test_what_is_replaced_by_itself_leaves_the_text_byte_for_byte(text: str, pointer: Pointer) -> None:
    document = of_text(text)
    document.replace(ONE, pointer, lambda value: value)
    assert text_of(document) == text.encode()


@given(values(), pointers)
@settings(max_examples=examples(150))
def test_all_text_but_that_which_is_replaced_stays_as_it_is_spelled(text: str, pointer: Pointer) -> None:
    document = of_text(text)
    taken: list[bytes] = []

    def mark(value: msgspec.Raw) -> msgspec.Raw:
        taken.append(bytes(value))
        return msgspec.Raw(b'"\x7fMARK\x7f"')

    document.replace(ONE, pointer, mark)
    parts = text_of(document).split(b'"\x7fMARK\x7f"')
    assert len(parts) == len(taken) + 1
    again = b"".join(part + value for part, value in zip(parts, [*taken, b""], strict=True))
    assert again == text.encode()


@given(values(), pointers.filter(bool))
@settings(max_examples=examples(150))
def test_members_and_elements_are_removed(text: str, pointer: Pointer) -> None:
    document = of_text(text)
    expected = [read(text.encode())]
    count = 0
    for holder, at in found(expected, pointer[:-1]):
        inner = holder[at]
        gone = [child for child, _ in children(inner, pointer[-1])] if isinstance(inner, Twice) else []
        if isinstance(inner, Twice):
            count += len(gone)
            inner.members = [member for member in inner.members if not any(member is each for each in gone)]
        elif isinstance(inner, list):
            indexes = [index for _, index in children(inner, pointer[-1])]
            count += len(indexes)
            holder[at] = [value for index, value in enumerate(inner) if index not in indexes]
    assert document.remove(ONE, pointer) == count
    assert read(text_of(document)) == expected[0]


@given(values(), pointers)
@settings(max_examples=examples(150))
def test_a_value_is_set_where_it_is_and_made_in_an_object_that_is_there(text: str, pointer: Pointer) -> None:
    document = of_text(text)
    expected = [read(text.encode())]
    places = found(expected, pointer)
    if not pointer:
        expected[0] = Number("17")
    for holder, at in found(expected, pointer[:-1]) if pointer else ():
        inner = holder[at]
        there = list(children(inner, pointer[-1]))
        for child, index in there:
            child[index] = Number("17")
        if not there and isinstance(inner, Twice) and pointer[-1] is not None:
            inner.members.append([pointer[-1], Number("17")])
            places.append((inner.members, 0))
    assert document.set(ONE, pointer, msgspec.Raw(b"17")) == len(places)
    assert read(text_of(document)) == expected[0]


@given(
    values(),
    st.lists(st.tuples(st.sampled_from(["replace", "remove", "set"]), pointers.filter(bool)), max_size=5),
)
@settings(max_examples=examples(100))
def test_several_edits_give_what_they_give_one_after_the_other(
    text: str, edits: list[tuple[str, Pointer]]
) -> None:
    together = of_text(text)
    alone = text
    for kind, pointer in edits:
        document = of_text(alone)
        for each in (together, document):
            if kind == "replace":
                each.replace(ONE, pointer, lambda _: msgspec.Raw(b"null"))
            elif kind == "remove":
                each.remove(ONE, pointer)
            else:
                each.set(ONE, pointer, msgspec.Raw(b'{"a":[1.0]}'))
        alone = text_of(document).decode()
    assert text_of(together) == alone.encode()


@given(st.lists(values(), max_size=4), pointers)
@settings(max_examples=examples(100))
def test_texts_that_are_taken_apart_together_become_what_each_becomes_alone(
    texts: list[str], pointer: Pointer
) -> None:
    together = of_texts(texts)
    together.replace(range(len(texts)), pointer, lambda _: msgspec.Raw(b"null"))
    alone = [of_text(text) for text in texts]
    for document in alone:
        document.replace(ONE, pointer, lambda _: msgspec.Raw(b"null"))
    assert [bytes(text) for _, text in together.texts] == list(map(text_of, alone))


def test_a_line_feed_between_tokens_does_not_mix_texts_up() -> None:
    together = of_texts(['{"x":[\n1]}', '{"a":2}', "3"])
    together.set((1,), ("a",), msgspec.Raw(b"4"))
    assert [bytes(text) for _, text in together.texts] == [b'{"x":[\n1]}', b'{"a":4}', b"3"]


def edited(text: str, name: str, *arguments: Any) -> str:
    document = of_text(text)
    getattr(document, name)(ONE, *arguments)
    return text_of(document).decode()


def test_a_value_is_copied_as_it_is_spelled() -> None:
    text = '{"from":{"n":1.50,"\\u0061":2},"to":0}'
    assert edited(text, "copy", (), ("from",), ("to",)) == text.replace(
        '"to":0', '"to":{"n":1.50,"\\u0061":2}'
    )
    assert edited(text, "copy", (), ("from", "n"), ("new",)) == text[:-1] + ',"new":1.50}'
    assert edited(text, "copy", (), ("missing",), ("new",)) == text


def test_values_are_copied_within_each_element() -> None:
    text = '{"items":[{"a":1},{"b":2},{"a":3}]}'
    assert (
        edited(text, "copy", ("items", None), ("a",), ("c",))
        == '{"items":[{"a":1,"c":1},{"b":2},{"a":3,"c":3}]}'
    )


def test_a_copy_does_not_change_with_what_it_was_copied_from() -> None:
    document = of_text('{"a":{"x":1}}')
    document.copy(ONE, (), ("a",), ("b",))
    document.set(ONE, ("a", "x"), msgspec.Raw(b"2"))
    assert text_of(document) == b'{"a":{"x":2},"b":{"x":1}}'


def test_a_member_is_renamed_in_its_place() -> None:
    assert edited('{"a":1,"b":2,"c":3}', "rename", (), "b", "x") == '{"a":1,"x":2,"c":3}'
    assert edited('{"a":1.0,"\\u0062":2}', "rename", (), "b", "x") == '{"a":1.0,"x":2}'
    assert edited('[{"a":1},{"b":2}]', "rename", (None,), "a", "x") == '[{"x":1},{"b":2}]'


def test_a_member_is_not_renamed_over_another() -> None:
    with pytest.raises(ChangeError, match="there is a member 'b' already"):
        edited('{"a":1,"b":2}', "rename", (), "a", "b")


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", ()),
        ("/", ("",)),
        ("/a/b", ("a", "b")),
        ("/a~1b/m~0n", ("a/b", "m~n")),
        ("/*/x", (None, "x")),
        ("/~01", ("~1",)),
    ],
)
def test_a_pointer_is_read_as_rfc_6901_says(text: str, tokens: Pointer) -> None:
    assert parsed(text) == tokens


@pytest.mark.parametrize("text", ["a", "a/b", "/a~", "/a~2", "/" * 501])
def test_what_is_no_pointer_is_refused(text: str) -> None:
    with pytest.raises(RulesError, match="JSON Pointer"):
        parsed(text)


def test_of_equal_keys_all_are_redacted() -> None:
    text = '{"email":"a@b","\\u0065mail":"c@d"}'
    assert (
        edited(text, "replace", ("email",), lambda _: msgspec.Raw(b"null"))
        == '{"email":null,"\\u0065mail":null}'
    )
