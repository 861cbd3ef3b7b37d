"""A selection judges events one by one, as the filters of an export do."""

from __future__ import annotations

from typing import Any

import pytest

from eventferry import UsageError
from eventferry.changing.selection import Selection


def taken(type: str = "BOOKED", aggregate_id: str = "user-1", timestamp: int = 10, **filters: Any) -> bool:
    return Selection.of(**filters).takes(type, aggregate_id, timestamp)


def test_without_a_filter_every_event_is_meant() -> None:
    assert Selection.of().is_all
    assert Selection.of(exclude_types=[]).is_all
    assert taken()


def test_with_any_filter_not_every_event_is_meant() -> None:
    filters: dict[str, Any]
    for filters in (
        {"event_types": []},
        {"exclude_types": ["A"]},
        {"aggregate_ids": []},
        {"aggregate_prefixes": ["a"]},
        {"start_time": 0},
        {"finish_time": 0},
    ):
        assert not Selection.of(**filters).is_all


def test_one_of_several_types_is_enough() -> None:
    assert taken(event_types=["PAID", "BOOKED"])
    assert not taken(event_types=["PAID", "BOOK", "booked"])


def test_an_excluded_type_is_left_out_whatever_else_is_said() -> None:
    assert not taken(exclude_types=["BOOKED"], event_types=["BOOKED"], aggregate_ids=["user-1"])
    assert taken(exclude_types=["PAID"])


def test_an_id_or_a_prefix_is_enough() -> None:
    assert taken(aggregate_ids=["user-1"], aggregate_prefixes=["flight-"])
    assert taken(aggregate_ids=["flight-1"], aggregate_prefixes=["order-", "user-"])
    assert not taken(aggregate_ids=["user"], aggregate_prefixes=["USER-", "er-1", "user-11"])


def test_the_kinds_of_filter_must_all_match() -> None:
    assert taken(event_types=["BOOKED"], aggregate_prefixes=["user-"], start_time=10, finish_time=10)
    assert not taken(event_types=["PAID"], aggregate_prefixes=["user-"])
    assert not taken(event_types=["BOOKED"], aggregate_prefixes=["order-"])


@pytest.mark.parametrize("times", [{"start_time": 11}, {"finish_time": 9}])
def test_times_are_inclusive(times: dict[str, Any]) -> None:
    assert taken(start_time=10, finish_time=10)
    assert not taken(**times)


@pytest.mark.parametrize(
    "filters", [{"event_types": []}, {"aggregate_ids": []}, {"aggregate_prefixes": []}], ids=str
)
def test_an_empty_list_matches_nothing(filters: dict[str, Any]) -> None:
    assert not taken(**filters)


def test_an_empty_list_of_ids_takes_nothing_from_the_prefixes() -> None:
    assert taken(aggregate_ids=[], aggregate_prefixes=["user-"])


def test_a_prefix_may_hold_any_character() -> None:
    for sign in ("%", "_", "\\", "é", "\U0001f600", "'"):
        assert taken(aggregate_id=f"a{sign}b", aggregate_prefixes=[f"a{sign}"])
        assert not taken(aggregate_id="axb", aggregate_prefixes=[f"a{sign}"])


@pytest.mark.parametrize(
    ("filters", "named"),
    [
        ({"aggregate_prefixes": ["a", ""]}, "aggregate_prefixes contains an empty string"),
        ({"aggregate_prefixes": "user-"}, "aggregate_prefixes must be a list"),
        ({"exclude_types": [1]}, "exclude_types must be a string"),
        ({"start_time": 2, "finish_time": 1}, "start_time is later"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_refused_by_name(filters: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        Selection.of(**filters)


def test_selections_of_one_meaning_are_equal() -> None:
    assert Selection.of(event_types=["A", "B", "A"]) == Selection.of(event_types=["B", "A"])
    assert Selection.of(aggregate_prefixes=["b", "a"]) == Selection.of(aggregate_prefixes=["a", "b", "a"])
