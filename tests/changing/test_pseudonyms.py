"""Pseudonyms: the same in, the same out, in every run; another key gives others; and a key there must be."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventferry import Changes, RulesError, load_rules
from eventferry.changing.pseudonyms import KeyPlace, Pseudonyms
from eventferry.changing.rules import Rule, Rules
from tests.support import line, make_event

KEY = b"0123456789abcdef"
PLAIN = re.compile('"[0-9a-f]{32}"')


def pseudonym(kind: str, value: str, key: bytes = KEY) -> str:
    return bytes(getattr(Pseudonyms(key), kind)(msgspec.Raw(value.encode()))).decode()


def test_a_pseudonym_is_the_hmac_of_the_value_with_the_key() -> None:
    for key in (KEY, b"k" * 64, b"long" * 50):
        expected = hmac.digest(key, b"plain\0Zo\xc3\xab", hashlib.sha256).hex()[:32]
        assert pseudonym("plain", '"Zoë"', key) == f'"{expected}"'


def test_pseudonyms_of_this_version_are_those_of_every_version() -> None:
    assert pseudonym("plain", '"17"') == '"de3f2ab2130e33928866391a28b82da9"'
    assert (
        pseudonym("email", '"ann@example.com"')
        == '"f1a80cbfbfaefa5fe461bb72aae3dad8@0fe855acc78c0311.invalid"'
    )
    assert pseudonym("digits", '"+33 612-34"') == '"+58 637-50"'


@pytest.mark.parametrize("other", ['"\\u0031\\u0037"', "17", "17.0", "1.7e1", "170E-1"])
def test_a_value_has_one_pseudonym_however_it_is_spelled(other: str) -> None:
    assert pseudonym("plain", other) == pseudonym("plain", '"17"')


@pytest.mark.parametrize("value", ['"a"', "1", "true", "1.5", '{"a":1}', "[]", '"a@b"'])
def test_another_key_gives_other_pseudonyms(value: str) -> None:
    for kind in ("plain", "email", "digits"):
        assert pseudonym(kind, value) != pseudonym(kind, value, b"another key of 16")


@pytest.mark.parametrize("value", ["null", '""'])
def test_what_says_nothing_stays(value: str) -> None:
    for kind in ("plain", "email", "digits"):
        assert pseudonym(kind, value) == value


def test_an_address_stays_one_and_its_domain_has_others() -> None:
    ann, bob, far = (
        pseudonym("email", f'"{address}"') for address in ("ann@a.org", "bob@a.org", "ann@b.org")
    )
    assert re.fullmatch(r'"[0-9a-f]{32}@[0-9a-f]{16}\.invalid"', ann)
    assert ann.partition("@")[2] == bob.partition("@")[2] != far.partition("@")[2]
    assert len({text.partition("@")[0] for text in (ann, bob, far)}) == 3


@pytest.mark.parametrize("value", ['"ann"', '"@a"', '"a@"', "17", '{"a":"b@c"}'])
def test_what_is_no_address_gets_a_plain_pseudonym(value: str) -> None:
    assert pseudonym("email", value) == pseudonym("plain", value)
    assert PLAIN.fullmatch(pseudonym("email", value))


@given(
    st.text("0123456789 +-()./", min_size=1, max_size=200).filter(lambda text: any(map(str.isdigit, text)))
)
def test_digits_become_others_and_what_stands_between_them_stays(text: str) -> None:
    found = json.loads(pseudonym("digits", json.dumps(text)))
    assert re.sub("[0-9]", "0", found) == re.sub("[0-9]", "0", text)
    assert found == json.loads(pseudonym("digits", json.dumps(text)))


@given(st.integers(-(10**30), 10**30))
def test_a_number_becomes_one_of_as_many_digits(number: int) -> None:
    found = pseudonym("digits", str(number))
    assert len(found) == len(str(number))
    assert str(json.loads(found)) == found or found == "-0"


def test_a_number_has_the_same_digits_however_it_is_grouped() -> None:
    grouped = json.loads(pseudonym("digits", '"+33 (0)6-12"'))
    assert re.sub("[^0-9]", "", grouped) == json.loads(pseudonym("digits", '"330612"'))


@pytest.mark.parametrize("value", ['"Rue 5"', '"none"', "1.5", "1e5", "true", "[1]", '"١٢"'])
def test_what_is_not_just_digits_gets_a_plain_pseudonym(value: str) -> None:
    assert pseudonym("digits", value) == pseudonym("plain", value)


def by(place: KeyPlace) -> Changes:
    return Changes(rules=Rules(pseudonyms=place, rules=(Rule(pseudonym=("/number",)),)))


def test_the_key_comes_from_a_file_or_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_bytes(KEY + b"\n")
    monkeypatch.setenv("OUR_KEY", KEY.decode())
    by_file, by_variable = by(KeyPlace(key_file=str(tmp_path / "key"))), by(KeyPlace(key_env="OUR_KEY"))
    assert by_file.change(line(make_event(7))) == by_variable.change(line(make_event(7)))
    assert by_file.digest == by_variable.digest
    monkeypatch.setenv("OUR_KEY", "another key of 16")
    assert by(KeyPlace(key_env="OUR_KEY")).digest != by_file.digest


def test_a_key_that_is_missing_or_short_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text('pseudonyms = {key_file = "own.key"}\n[[rule]]\npseudonym = ["/a"]\n')
    with pytest.raises(RulesError, match=r"own\.key, which holds the key, cannot be read: No such file"):
        load_rules(rules)
    (tmp_path / "own.key").write_text("SHORT-SECRET\n")
    with pytest.raises(RulesError, match=r"own\.key has 12 bytes, and needs 16 or more") as refused:
        load_rules(rules)
    assert "SHORT" not in str(refused.value)
    with pytest.raises(RulesError, match="NO_SUCH_KEY, which holds the key, is not set"):
        by(KeyPlace(key_env="NO_SUCH_KEY"))
    monkeypatch.setenv("EMPTY_KEY", "")
    with pytest.raises(RulesError, match="EMPTY_KEY has 0 bytes"):
        by(KeyPlace(key_env="EMPTY_KEY"))
    for place in (KeyPlace(), KeyPlace(key_file="a", key_env="b")):
        with pytest.raises(RulesError, match="either key_file or key_env"):
            by(place)
    with pytest.raises(RulesError, match="cannot be read: embedded null byte"):
        by(KeyPlace(key_file="a\0b"))


def test_the_key_is_found_when_the_process_has_gone_to_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_bytes(KEY)
    (tmp_path / "rules.toml").write_text('pseudonyms = {key_file = "key"}\n[[rule]]\npseudonym = ["/a"]\n')
    monkeypatch.chdir(tmp_path)
    rules = load_rules("rules.toml")
    monkeypatch.chdir("/")
    assert rules.key() == KEY


def test_nothing_shows_the_key(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(KEY)
    rules = tmp_path / "rules.toml"
    rules.write_text('pseudonyms = {key_file = "key"}\n[[rule]]\npseudonym = ["/a"]\n')
    changes = Changes(rules=rules)
    changes.change(line(make_event(0)))
    shown = [load_rules(rules), changes, changes.report, changes.digest]
    assert KEY.decode() not in "".join(map(repr, shown))
    assert KEY.hex() not in "".join(map(repr, shown))
