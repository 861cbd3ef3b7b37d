"""Masks: no secret on a screen."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given

from eventferry import Event, HistoryEntry, Mask, UsageError
from eventferry.looking.differences import MOST_CHANGES, changes_between
from tests.support.incremental import JSON_VALUES

PAYLOAD: dict[str, Any] = {
    "user": {"name": "Ann", "Password": "p4ss", "api_key": "k3y", "emails": ["a@x.org", "b@x.org"]},
    "accessToken": {"value": "t0ken"},
    "RESET-TOKEN": None,
    "tokens": 3,
    "visits": [{"ip": "10.0.0.1", "page": "/"}],
}


def masked(payload: Any, *pointers: str, secrets: bool = True) -> Any:
    return Mask(pointers, secrets=secrets).event(Event(type="t", aggregate_id="a", payload=payload)).payload


def test_secrets_are_masked_by_their_names() -> None:
    assert masked(PAYLOAD) == {
        "user": {"name": "Ann", "Password": "***", "api_key": "***", "emails": ["a@x.org", "b@x.org"]},
        "accessToken": "***",
        "RESET-TOKEN": None,
        "tokens": 3,
        "visits": [{"ip": "10.0.0.1", "page": "/"}],
    }
    assert masked(PAYLOAD, secrets=False) == PAYLOAD
    assert masked("secret") == "secret"


def test_more_is_masked_by_pointers() -> None:
    shown = masked(PAYLOAD, "/user/emails/0", "/visits/*/ip", "/nothing/here")
    assert shown["user"]["emails"] == ["***", "b@x.org"]
    assert shown["visits"] == [{"ip": "***", "page": "/"}]
    assert masked({"a": 1}, "") == "***"
    with pytest.raises(UsageError, match="mask"):
        Mask(["user"])


def test_a_change_of_a_secret_is_told_without_it() -> None:
    after = {
        **PAYLOAD,
        "user": {**PAYLOAD["user"], "Password": "n3w", "name": "Eve"},
        "more": {"secret": "s"},
    }
    event = Event(type="t", aggregate_id="a", payload=after)
    entry = Mask(["/user/name"]).entry(HistoryEntry(event, 1, changes_between(PAYLOAD, after)))
    assert [(each.path, each.before, each.after) for each in entry.changes] == [
        ("/user/name", "***", "***"),
        ("/user/Password", "***", "***"),
        ("/more", None, {"secret": "***"}),
    ]
    assert "n3w" not in str(entry)


@given(JSON_VALUES, JSON_VALUES)
def test_only_what_differs_is_a_change(before: Any, after: Any) -> None:
    assert changes_between(before, before) == []
    for change in changes_between(before, after):
        if change.kind == "changed":
            assert msgspec.json.encode(change.before) != msgspec.json.encode(change.after)


def test_the_changes_of_a_large_payload_are_bounded() -> None:
    before, after = list(range(5000)), list(range(1, 5001))
    [change] = changes_between(before, after)
    assert (change.path, change.kind) == ("", "changed")
    assert len(changes_between(before[:MOST_CHANGES], after[:MOST_CHANGES])) == MOST_CHANGES


def test_deep_values_are_compared_and_masked() -> None:
    def nested(inner: Any) -> Any:
        for _ in range(490):
            inner = [inner]
        return inner

    assert len(changes_between(nested(1), nested(2))) == 1
    assert masked(nested({"secret": 1})) == nested({"secret": "***"})
