"""What differs between two JSON values, place by place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import msgspec

MOST_CHANGES = 1000
"""Changes that are told of one pair of values, at most; what lies behind is told as the change of the whole value."""

_NOTHING = msgspec.UNSET


class Change(msgspec.Struct, frozen=True):
    """What differs in one place.

    Attributes:
        path: where, as a JSON Pointer; empty for the whole value.
        kind: "added" and "removed" for a member of an object or an element of an array, else "changed".
        before: the value before; None for "added".
        after: the value after; None for "removed".
    """

    path: str
    kind: Literal["added", "removed", "changed"]
    before: Any = None
    after: Any = None


def changes_between(before: Any, after: Any) -> list[Change]:
    """What differs. Numbers of equal value are equal."""
    found: list[Change] = []
    for change in differences(before, after, _are_equal):
        found.append(change)
        if len(found) > MOST_CHANGES:
            return [Change("", "changed", before, after)]
    return found


def differences(before: Any, after: Any, are_equal: Callable[[Any, Any], bool]) -> Iterator[Change]:
    """What differs, in the order of the value after; what was removed comes behind its neighbours. Elements of arrays
    are compared by their places, and what is neither an object nor an array by `are_equal`."""
    waiting: list[Iterator[tuple[str, Any, Any]]] = [iter([("", before, after)])]
    while waiting:
        place = next(waiting[-1], None)
        if place is None:
            waiting.pop()
            continue
        path, old, new = place
        if old is _NOTHING:
            yield Change(path, "added", after=new)
        elif new is _NOTHING:
            yield Change(path, "removed", before=old)
        elif isinstance(old, dict) and isinstance(new, dict):
            waiting.append(_members(path, old, new))
        elif isinstance(old, list) and isinstance(new, list):
            waiting.append(_elements(path, old, new))
        elif not are_equal(old, new):
            yield Change(path, "changed", old, new)


def _members(path: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for name, value in new.items():
        yield f"{path}/{_token(name)}", old.get(name, _NOTHING), value
    for name, value in old.items():
        if name not in new:
            yield f"{path}/{_token(name)}", value, _NOTHING


def _elements(path: str, old: list[Any], new: list[Any]) -> Iterator[tuple[str, Any, Any]]:
    for place, value in enumerate(new):
        yield f"{path}/{place}", old[place] if place < len(old) else _NOTHING, value
    for place in range(len(new), len(old)):
        yield f"{path}/{place}", old[place], _NOTHING


def _token(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _are_equal(old: Any, new: Any) -> bool:
    return isinstance(old, bool) == isinstance(new, bool) and bool(old == new)
