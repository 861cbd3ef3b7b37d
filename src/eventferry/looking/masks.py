"""Masks: what is shown on a screen in place of secrets, and of what else shall not be seen there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from eventferry.changing.pointers import Pointer, parsed
from eventferry.comparing.verifying import SideBySide
from eventferry.errors import RulesError, UsageError
from eventferry.lines.damaged import DamagedEvent
from eventferry.lines.event import Event
from eventferry.looking.differences import Change
from eventferry.looking.history import HistoryEntry
from eventferry.looking.tracing import TracedEvent, traced

MASK = "***"
"""Stands in the place of a value that is masked. A null stays one."""

_SECRET_ENDINGS = (
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "apikey",
    "accesskey",
    "privatekey",
    "secretkey",
    "credential",
    "credentials",
    "authorization",
    "cookie",
)


class Mask:
    """Masks secrets in payloads: members whose names end like those of passwords, tokens and keys.

    Args:
        pointers: JSON Pointers of what else is masked, such as /customer/email; `*` stands for each member or element.
        secrets: whether secrets are masked.
    """

    def __init__(self, pointers: Iterable[str] = (), *, secrets: bool = True) -> None:
        try:
            self._pointers: list[Pointer] = [parsed(pointer) for pointer in pointers]
        except RulesError as error:
            raise UsageError(f"mask: {error}") from None
        self._secrets = secrets

    def event(self, event: Event) -> Event:
        """An event with its payload masked; all of it where it cannot be read, and so not be looked through."""
        if isinstance(event, DamagedEvent):
            return msgspec.structs.replace(event, payload=MASK) if self._secrets or self._pointers else event
        return msgspec.structs.replace(event, payload=self._masked(event.payload, self._pointers))

    def change(self, change: Change) -> Change:
        """A change with its values masked."""
        pointers = self._pointers
        for token in parsed(change.path):
            if token is not None and self._is_secret(token):
                pointers = [()]
                break
            pointers = _behind(pointers, token)
        before, after = (self._masked(value, pointers) for value in (change.before, change.after))
        return msgspec.structs.replace(change, before=before, after=after)

    def entry(self, entry: HistoryEntry) -> HistoryEntry:
        """An entry of a history with its event and its changes masked. A change of a masked value is still told."""
        changes = list(map(self.change, entry.changes))
        return msgspec.structs.replace(entry, event=self.event(entry.event), changes=changes)

    def traced(self, traced_event: TracedEvent) -> TracedEvent:
        """An event of a trace, masked; its ids are those that its masked metadata show."""
        return traced(self.event(traced_event.event))

    def side_by_side(self, found: SideBySide) -> SideBySide:
        """A difference with both events and their changes masked."""
        event, other = (None if each is None else self.event(each) for each in (found.event, found.other))
        return SideBySide(found.difference, event, other, list(map(self.change, found.changes)))

    def _masked(self, value: Any, pointers: list[Pointer]) -> Any:
        if () in pointers and value is not None:
            return MASK
        if isinstance(value, dict):
            members: dict[str, Any] = {}
            for name, member in value.items():
                if self._is_secret(name) and member is not None:
                    members[name] = MASK
                else:
                    members[name] = self._masked(member, _behind(pointers, name))
            return members
        if isinstance(value, list):
            elements: list[Any] = []
            for place, element in enumerate(value):
                elements.append(self._masked(element, _behind(pointers, str(place))))
            return elements
        return value

    def _is_secret(self, name: str) -> bool:
        return self._secrets and "".join(filter(str.isalnum, name)).lower().endswith(_SECRET_ENDINGS)


def _behind(pointers: list[Pointer], token: str | None) -> list[Pointer]:
    """What is left of those that lead to a member or an element; one that ends before it covers it."""
    return [pointer[1:] for pointer in pointers if not pointer or pointer[0] is None or pointer[0] == token]
