"""What each rule makes of an event; which events it is about; which rules are refused."""

from __future__ import annotations

import json
import operator
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventferry import ChangeError, Changes, InputError, RulesError, load_rules
from eventferry.changing.rules import Rule, Rules
from tests.support import examples, line, make_event

KEY = "0123456789abcdef"


def rules_of(folder: Path, text: str) -> Path:
    """A file of rules, and a key beside it."""
    (folder / "key").write_text(KEY)
    (folder / "rules.toml").write_text(text)
    return folder / "rules.toml"


def after(folder: Path, rules: str, payload: str = "null", **others: Any) -> dict[str, Any] | None:
    """What becomes of one event by the rules of a file, its payload as text; None if it is dropped."""
    changes = Changes(rules=rules_of(folder, rules))
    before = line(make_event(0, payload=0, **others)).replace(
        b'"payload":0}', b'"payload":%b}' % payload.encode()
    )
    text = changes.change(before).decode()
    if not text:
        return None
    event: dict[str, Any] = json.loads(text)
    return event | {"payload": text.partition('"payload":')[2][:-2]}


def test_a_file_of_rules_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text('[[rule]]\nredact = ["/a"]\n', encoding="utf-8-sig")
    assert len(load_rules(path).rules) == 1


PERSON = '{"name":"Ann","email":"ann@example.com","phone":"+33 612","age":1.50,"tags":["a","b"]}'


@pytest.mark.parametrize(
    ("rule", "payload"),
    [
        (
            'redact = ["/email", "/tags/0"]',
            PERSON.replace('"ann@example.com"', "null").replace('["a"', "[null"),
        ),
        ('redact = ["/tags/*"]\nredact_with = "gone"', PERSON.replace('"a","b"', '"gone","gone"')),
        ('redact = [""]\nredact_with = {a = 1}', '{"a":1}'),
        ('remove = ["/phone", "/tags/0"]', PERSON.replace('"phone":"+33 612",', "").replace('"a",', "")),
        (
            'set = {"/age" = 2, "/source" = "import"}',
            PERSON.replace("1.50", "2")[:-1] + ',"source":"import"}',
        ),
        ('set = {"/tags/1" = [true], "/tags/2" = 1}', PERSON.replace('"b"', "[true]")),
        ('copy = {"/age" = "/years"}', PERSON[:-1] + ',"years":1.50}'),
        ('rename_member = {"/age" = "/years"}', PERSON.replace("age", "years")),
        ('redact = ["/missing", "/name/x", "/tags/7", "/tags/x"]', PERSON),
    ],
)
def test_a_rule_changes_what_it_points_at_and_nothing_else(tmp_path: Path, rule: str, payload: str) -> None:
    event = after(tmp_path, f"[[rule]]\n{rule}\n", PERSON)
    assert event == make_event(0, payload=payload)


def test_a_rule_does_what_it_says_in_one_order_however_it_is_written(tmp_path: Path) -> None:
    rule = """
        [[rule]]
        remove = ["/a"]
        redact = ["/b"]
        set = {"/c" = "set"}
        copy = {"/a" = "/b", "/d" = "/c"}
    """
    event = after(tmp_path, rule, '{"a":1,"b":2,"c":3,"d":4}')
    assert event is not None
    assert event["payload"] == '{"b":null,"c":"set","d":4}'


@pytest.mark.parametrize(
    ("rule", "aggregate"),
    [
        ('aggregate_prefix = "user-"\nrename_aggregate = "customer-"', "customer-17"),
        ('aggregate_prefix = ["use", "user-1"]\nrename_aggregate = "x"', "x7"),
        ('aggregate_id = "user-17"\nrename_aggregate = "all"', "all"),
        ('rename_aggregate = "all"', "all"),
        ('aggregate_prefix = "account-"\nrename_aggregate = "x"', "user-17"),
        ('aggregate_id = "user-1"\nrename_aggregate = "x"', "user-17"),
        (r"aggregate_pattern = '(\w+)-(\d+)'" + "\n" + r"rename_aggregate = '\2/\1'", "17/user"),
        ("aggregate_pattern = 'user-1'\nrename_aggregate = 'x'", "user-17"),
        ('aggregate_from = "/seat"', "user-17A12"),
        ("aggregate_pattern = '.*'\nrename_aggregate = '\\g<0>-'\naggregate_from = '/seat'", "user-17-A12"),
        ('rename_aggregate = "row-"\naggregate_from = "/row"', "row-12"),
        ('rename_aggregate = "row-"\naggregate_from = "/none"', "user-17"),
        ('rename_aggregate = "row-"\naggregate_from = "/list"', "user-17"),
    ],
)
def test_aggregates_get_other_names(tmp_path: Path, rule: str, aggregate: str) -> None:
    event = after(tmp_path, f"[[rule]]\n{rule}\n", '{"seat":"A12","row":12,"list":[]}', aggregateId="user-17")
    assert event is not None
    assert event["aggregateId"] == aggregate


def test_an_aggregate_gets_the_pseudonym_that_its_id_has_in_payloads(tmp_path: Path) -> None:
    rules = """
        pseudonyms = {key_file = "key"}
        [[rule]]
        aggregate_prefix = "user-"
        rename_aggregate = "customer-"
        pseudonym_aggregate = true
        pseudonym = ["/user", "/names/*"]
        pseudonym_prefix = ["user-", "customer-"]
    """
    event = after(
        tmp_path, rules, '{"user":17,"names":["user-17","u\\u0073er-17","user-",5]}', aggregateId="user-17"
    )
    assert event is not None
    payload = json.loads(event["payload"])
    pseudonym = payload["user"]
    assert payload["names"][:2] == [f"user-{pseudonym}"] * 2
    assert all(re.fullmatch("[0-9a-f]{32}", name) for name in payload["names"][2:])
    assert re.fullmatch("[0-9a-f]{32}", pseudonym)
    assert event["aggregateId"] == f"customer-{pseudonym}"


def test_a_type_that_only_some_events_get_is_what_the_next_rules_see(tmp_path: Path) -> None:
    rules = """
        [[rule]]
        type = "TYPE_0"
        aggregate_prefix = "user-"
        rename = "OF_USER"
        [[rule]]
        type = "TYPE_0"
        set = {"/seen" = "TYPE_0"}
        [[rule]]
        type = "OF_USER"
        set = {"/seen" = "OF_USER"}
    """
    for aggregate, seen in ("user-1", "OF_USER"), ("other", "TYPE_0"):
        event = after(tmp_path, rules, "{}", aggregateId=aggregate)
        assert event is not None
        assert (event["type"], event["payload"]) == (seen, f'{{"seen":"{seen}"}}')


def test_a_rule_sees_the_aggregate_that_the_rules_before_it_have_made(tmp_path: Path) -> None:
    rules = """
        [[rule]]
        rename_aggregate = "b"
        [[rule]]
        aggregate_id = "b"
        drop = true
    """
    assert after(tmp_path, rules) is None


def test_what_has_found_nothing_is_reported(tmp_path: Path) -> None:
    rules = """
        [[rule]]
        type = "TYPE_0"
        redact = ["/number", "/amount"]
        [[rule]]
        type = "TIPE_0"
        redact = ["/number"]
        [[rule]]
        aggregate_from = "/number"
        copy = {"/none" = "/other"}
        [[rule]]
        aggregate_from = "/none"
    """
    changes = Changes(rules=rules_of(tmp_path, rules))
    changes.change(line(make_event(0)))
    assert changes.report.never_matched == (
        "rule 1: redact /amount",
        "rule 2",
        "rule 3: aggregate_from",
        "rule 3: copy /none",
        "rule 4: aggregate_from",
    )


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("", "rule 1: it says nothing to do"),
        ("type = []\ndrop = true", "rule 1: type: the list is empty"),
        ("aggregate_id = []\ndrop = true", "rule 1: aggregate_id: the list is empty"),
        ("aggregate_prefix = []\ndrop = true", "rule 1: aggregate_prefix: the list is empty"),
        ('type = "A"', "rule 1: it says nothing to do"),
        ('renam = "A"', "unknown field `renam`"),
        ('rename = "A"\ndrop = true', "drop: an event that is left out"),
        ('rename = "\\u0000"', "field rename: holds the character U"),
        (f'rename = "{"x" * 701}"', "longer than 700"),
        ('redact = ["email"]', "'email' is not a JSON Pointer"),
        ("redact_with = 1\ndrop = true", "redact_with: there is nothing to redact"),
        ("redact = ['/a']\nredact_with = 2026-01-01", "is not a JSON value"),
        ('set = {"a" = 1}', "'a' is not a JSON Pointer"),
        ('set = {"/a" = nan}', "nan is not a JSON value"),
        ('remove = [""]', "the whole payload cannot be removed"),
        ('copy = {"/*/a" = "/b"}', r"must have their \* at the same places"),
        ('rename_member = {"/a/b" = "/a/c/d"}', "must be '/a/b' but for its last part"),
        ('rename_member = {"/a" = "/a"}', "must be '/a' but for its last part"),
        ("aggregate_pattern = '('\ndrop = true", "aggregate_pattern, rename_aggregate: missing \\)"),
        ("aggregate_pattern = 'a'\nrename_aggregate = '\\1'", "invalid group reference"),
        ("aggregate_pattern = 'a'\naggregate_id = 'a'\ndrop = true", "say either a pattern"),
        ("aggregate_prefix = 'a'\naggregate_id = 'a'\nrename_aggregate = 'b'", "either aggregate_id or"),
        ("pseudonym_aggregate = true\naggregate_pattern = 'a'", "goes with a prefix"),
        ("pseudonym_aggregate = true\naggregate_from = '/a'", "a rule of its own"),
        ("pseudonym_prefix = 'a'\ndrop = true", "pseudonym_prefix: there is nothing"),
        ('pseudonym = ["/a"]', "rule 1 makes pseudonyms, and the rules do not say where the key is"),
    ],
)
def test_a_rule_that_cannot_be_is_refused_by_name(tmp_path: Path, rule: str, says: str) -> None:
    with pytest.raises(RulesError, match=says) as refused:
        load_rules(rules_of(tmp_path, f"[[rule]]\n{rule}\n"))
    assert "rules.toml: " in str(refused.value)


def test_a_file_that_is_missing_or_no_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RulesError, match=r"none\.toml cannot be read: No such file"):
        Changes(rules=tmp_path / "none.toml")
    with pytest.raises(RulesError, match=r"rules\.toml: "):
        Changes(rules=rules_of(tmp_path, "[[rule"))
    with pytest.raises(RulesError, match=r"rules\.toml: "):
        Changes(rules=rules_of(tmp_path, "a = " + 3000 * "[" + 3000 * "]"))


def test_rules_made_in_python_are_checked_too() -> None:
    with pytest.raises(RulesError, match="rule 2: it says nothing to do"):
        Changes(rules=Rules(rules=(Rule(drop=True), Rule())))


def change_among_others(folder: Path, rules: str, payload: str) -> None:
    """Change an event that stands between two others."""
    first, second, third = (line(make_event(number, type="T", payload=0)) for number in range(3))
    between = second.replace(b'"payload":0}', b'"payload":%b}' % payload.encode())
    Changes(rules=rules_of(folder, rules)).change(first + between + third)


def test_an_id_that_becomes_too_long_is_refused_by_its_event(tmp_path: Path) -> None:
    rules = '[[rule]]\naggregate_from = "/text"\n'
    with pytest.raises(
        InputError, match=r"line 2, byte [0-9]+, field aggregateId: the event at threadId 1, threadCounter 0 "
    ):
        change_among_others(tmp_path, rules, json.dumps({"text": "x" * 700}))


def test_a_payload_that_becomes_too_deep_is_refused_by_its_event(tmp_path: Path) -> None:
    rules = '[[rule]]\ncopy = {"/deep" = "/a/a/a/a"}\n'
    deep = "[" * 498 + "]" * 498
    with pytest.raises(
        InputError, match=r"line 2, .* field payload: the event at .*: nests more than 500 levels deep"
    ):
        change_among_others(
            tmp_path, rules, f'{{"deep":{deep},"a":{{"a":{{"a":{{}}}}}},"text":"{"x" * 1000}"}}'
        )


def test_an_element_of_an_array_has_no_name_that_could_be_another(tmp_path: Path) -> None:
    event = after(tmp_path, '[[rule]]\nrename_member = {"/a/0" = "/a/1"}\n', '{"a":[1,2]}')
    assert event is not None
    assert event["payload"] == '{"a":[1,2]}'


def test_a_member_that_would_stand_twice_is_refused_by_its_event(tmp_path: Path) -> None:
    with pytest.raises(ChangeError, match="threadId 1, threadCounter 0: a member 'a' cannot be renamed"):
        change_among_others(tmp_path, '[[rule]]\nrename_member = {"/a" = "/b"}\n', '{"a":1,"b":2}')


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc*"), inner, max_size=3),
    max_leaves=12,
)
pointers = st.lists(st.sampled_from(["a", "b", "*", "0", "1"]), min_size=1, max_size=3).map(
    lambda tokens: "".join(f"/{token}" for token in tokens)
)


@given(values, st.lists(st.tuples(st.sampled_from(["redact", "remove", "set"]), pointers), max_size=4))
@settings(max_examples=examples(100))
def test_rules_after_one_another_give_what_each_gives_alone(
    payload: Any, edits: list[tuple[str, str]]
) -> None:
    made = [
        msgspec.convert({kind: {pointer: 1} if kind == "set" else [pointer]}, Rule) for kind, pointer in edits
    ]
    text = line(make_event(0, payload=payload))
    together = Changes(rules=Rules(rules=tuple(made))).change(text)
    for rule in made:
        text = Changes(rules=Rules(rules=(rule,))).change(text)
    assert together == text


TYPES = st.sampled_from(["A", "B"])
CONDITIONS: list[dict[str, Any]] = [
    {},
    {"type": "A"},
    {"type": ["A", "B"]},
    {"aggregate_prefix": "a"},
    {"aggregate_id": "b-1"},
    {"type": "B", "aggregate_prefix": ["a", "b"]},
]
ACTIONS: list[dict[str, Any]] = [
    {"set": {"/a": 1}},
    {"set": {"/b": 2}},
    {"copy": {"/a": "/b"}},
    {"remove": ["/a"]},
    {"rename": "A"},
    {"rename": "B", "set": {"/c": 3}},
    {"aggregate_from": "/a"},
    {"rename_aggregate": "a-"},
    {"drop": True},
]
any_rules = st.lists(
    st.builds(operator.or_, st.sampled_from(CONDITIONS), st.sampled_from(ACTIONS)), min_size=1, max_size=6
)


@given(any_rules, st.lists(st.tuples(TYPES, st.sampled_from(["a-1", "b-1"])), min_size=1, max_size=4))
@settings(max_examples=examples(200))
def test_rules_together_give_what_they_give_one_after_the_other(
    given_rules: list[dict[str, Any]], events: list[tuple[str, str]]
) -> None:
    made = [msgspec.convert(rule, Rule) for rule in given_rules]
    together = Changes(rules=Rules(rules=tuple(made)))
    text = b"".join(
        line(make_event(i, type=event_type, aggregateId=aggregate_id, payload={"a": i}))
        for i, (event_type, aggregate_id) in enumerate(events)
    )
    at_once = together.change(text)
    for rule in made:
        text = Changes(rules=Rules(rules=(rule,))).change(text)
    assert at_once == text
