"""Two JSON texts have the same canonical form if, and only if, they are equal values."""

from __future__ import annotations

import json
import random
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from eventferry import InputError
from eventferry.comparing.canonical import canonical, is_equal

letters = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


@st.composite
def numbers(draw: st.DrawFn) -> str:
    """The spelling of a JSON number: leading minus, fraction, exponent, zeros anywhere they are allowed."""
    whole = draw(st.integers(0, 10**25) | st.sampled_from([0, 1, 10, 100, 1000]))
    text = draw(st.sampled_from(["", "-"])) + str(whole)
    if draw(st.booleans()):
        text += "." + draw(
            st.text("0123456789", min_size=1, max_size=20) | st.sampled_from(["0", "00", "10"])
        )
    if draw(st.booleans()):
        text += draw(st.sampled_from("eE")) + draw(st.sampled_from(["", "+", "-"]))
        text += draw(st.sampled_from(["", "0", "00"])) + str(draw(st.integers(0, 40)))
    return text


class Number:
    """A number as its exact value; never equal to anything but another number."""

    def __init__(self, text: str) -> None:
        self.value = Fraction(Decimal(text))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Number) and self.value == other.value

    def __hash__(self) -> int:
        return hash(self.value)


def reference(text: str) -> Any:
    """The value of a JSON text, by exact fractions and with types kept apart."""

    def tagged(value: Any) -> Any:
        if isinstance(value, dict):
            return ("object", frozenset((key, tagged(member)) for key, member in value.items()))
        if isinstance(value, list):
            return ("array", tuple(map(tagged, value)))
        return (type(value).__name__, value)

    return tagged(json.loads(text, parse_int=Number, parse_float=Number))


scalars = numbers() | st.sampled_from(["true", "false", "null"]) | letters.map(json.dumps)
# Few different leaves, so that equal values meet.
small = st.sampled_from(
    ["1", "1.0", "10e-1", "-0", "0", "0.0e5", "true", "false", "null", '"1"', '"n1e0"', '""']
)


def _object(members: list[tuple[str, str]]) -> str:
    return "{" + ",".join(f"{json.dumps(key)}:{value}" for key, value in dict(members).items()) + "}"


def nested(leaves: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]")
            | st.lists(st.tuples(st.sampled_from(["a", "b", "é"]) | letters, inner), max_size=3).map(_object)
        ),
        max_leaves=6,
    )


@given(nested(small), nested(small))
def test_equal_values_and_only_they_have_equal_forms(first: str, second: str) -> None:
    same = canonical(first.encode()) == canonical(second.encode())
    assert same == (reference(first) == reference(second))
    assert same == is_equal(first.encode(), second.encode())


@given(numbers(), numbers())
def test_numbers_are_equal_as_exact_decimals(first: str, second: str) -> None:
    same = is_equal(first.encode(), second.encode())
    assert same == (canonical(first.encode()) == canonical(second.encode()))
    assert same == (Fraction(Decimal(first)) == Fraction(Decimal(second)))


@given(numbers(), st.integers(0, 30))
def test_a_number_is_the_same_however_it_is_spelled(text: str, shift: int) -> None:
    value = Decimal(text)
    sign = "-" if value < 0 else ""
    digits = abs(int(Fraction(value) * 10**60)) if value else 0
    assert canonical(f"{sign}{digits}e-60".encode()) == canonical(text.encode())
    assert canonical(f"{sign}{digits * 10**shift}E-{60 + shift}".encode()) == canonical(text.encode())


@given(numbers())
def test_the_next_number_at_the_last_digit_is_another(text: str) -> None:
    value = Fraction(Decimal(text))
    assume(value >= 0)
    other = int(value * 10**60) + 1
    assert canonical(f"{other}e-60".encode()) != canonical(text.encode())


@given(nested(scalars), st.integers())
def test_key_order_white_space_and_escapes_do_not_matter(text: str, seed: int) -> None:
    chance = random.Random(seed)

    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            members = list(value.items())
            chance.shuffle(members)
            return {key: shuffled(member) for key, member in members}
        return [shuffled(member) for member in value] if isinstance(value, list) else value

    class Spelled(float):
        """A number that is written as it was read."""

        text = ""

        def __repr__(self) -> str:
            return self.text

    def spelled(number: str) -> Spelled:
        kept = Spelled(1)
        kept.text = number
        return kept

    value = shuffled(json.loads(text, parse_int=spelled, parse_float=spelled))
    for ensure_ascii in (True, False):
        other = _dumped(value, ensure_ascii=ensure_ascii, indent=chance.choice([None, 0, 3]))
        assert canonical(other.encode()) == canonical(text.encode())


def _dumped(value: Any, *, ensure_ascii: bool, indent: int | None) -> str:
    """json.dumps, but numbers by their repr (it would use float's own)."""
    gap = "" if indent is None else "\n" + " " * indent

    def write(part: Any) -> str:
        if isinstance(part, dict):
            members = [f"{json.dumps(k, ensure_ascii=ensure_ascii)}:{gap}{write(v)}" for k, v in part.items()]
            return "{" + gap + f",{gap}".join(members) + gap + "}"
        if isinstance(part, list):
            return "[" + gap + f"{gap},".join(map(write, part)) + gap + "]"
        return repr(part) if isinstance(part, float) else json.dumps(part, ensure_ascii=ensure_ascii)

    return write(value)


def test_types_are_told_apart() -> None:
    different = [
        "1",
        "true",
        '"1"',
        '"true"',
        "null",
        '"null"',
        "[1]",
        '{"1":1}',
        "0",
        "false",
        '""',
        "[]",
        "{}",
    ]
    different += ['"n1e0"', '"s"', '"s1"', '{"a":null}', "[null]", "[[]]", '{"a":"1"}', '{"a":1}']
    assert len({canonical(text.encode()) for text in different}) == len(different)


def test_a_number_that_a_float_cannot_hold_is_compared_exactly() -> None:
    assert canonical(b"12345678901234567890") != canonical(b"12345678901234567000")
    assert canonical(b"0.1") != canonical(b"0.1000000000000000055511151231257827")
    assert canonical(b"1e400") != canonical(b"1e401")
    assert canonical(b"1e400") == canonical(b"10e399")


@pytest.mark.parametrize("digits", range(16, 23))
def test_long_whole_numbers_are_equal_however_they_are_spelled(digits: int) -> None:
    """Where they stop being written out, forms of two kinds must not meet."""
    number = "123456789012345678901234567890"[:digits]
    spelled = [number, f"{number}.0", f"{number}0e-1", f"{number[0]}.{number[1:]}e{digits - 1}"]
    assert len({canonical(f"[{text}]".encode()) for text in spelled}) == 1
    assert all(is_equal(text.encode(), number.encode()) for text in spelled)
    assert not is_equal(f"{int(number) + 1}".encode(), spelled[3].encode())
    round_one = f"1{'0' * digits}"
    assert is_equal(round_one.encode(), f"1e{digits}".encode())
    assert not is_equal(round_one.encode(), f"1e{digits + 1}".encode())


def test_half_a_character_is_refused_and_not_taken_for_another() -> None:
    with pytest.raises(InputError, match="lone surrogate"):
        is_equal(b'"\\ud800"', b'"\\ud801"')


def test_the_zeros_are_one() -> None:
    assert {canonical(text) for text in (b"0", b"-0", b"0.0", b"-0.00e10", b"0e-5", b"0E+999999")} == {
        canonical(b"0")
    }


@pytest.mark.parametrize(
    ("first", "second"), [(b"1e999999999", b"10e999999998"), (b"1e-999999999", b"0.1e-999999998")]
)
def test_enormous_exponents_are_compared_without_their_digits(first: bytes, second: bytes) -> None:
    assert canonical(first) == canonical(second)
    assert canonical(first) != canonical(second.replace(b"8", b"7"))


def test_a_number_of_many_digits_is_compared() -> None:
    digits = b"7" * 50_000
    assert canonical(digits) == canonical(digits + b".0")
    assert canonical(digits) != canonical(digits[:-1] + b"8")


def test_of_a_doubled_key_the_last_one_counts() -> None:
    assert canonical(b'{"a":1,"a":2}') == canonical(b'{"a":2}')


def test_order_within_an_array_matters() -> None:
    assert canonical(b"[1,2]") != canonical(b"[2,1]")


def test_letters_are_compared_by_code_point_and_not_by_looks() -> None:
    assert canonical(b'"\\u00e9"') == canonical('"é"'.encode())
    assert canonical(b'"e\\u0301"') != canonical('"é"'.encode())
    assert canonical(b'"\\ud83d\\udef3"') == canonical('"🛳"'.encode())
    assert canonical(b'"a"') != canonical(b'"A"')
