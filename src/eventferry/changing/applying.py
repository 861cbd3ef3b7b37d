"""Rules made ready: what there is to do with an event is looked up by its type, and worked out once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from operator import methodcaller
from typing import TypeAlias

import msgspec

from eventferry.changing.pointers import Document, parsed
from eventferry.changing.pseudonyms import Pseudonyms
from eventferry.changing.rules import Rule, Rules, divided
from eventferry.errors import ChangeError
from eventferry.lines.decoder import Line
from eventferry.lines.payload import encode_payload

_TYPES_KNOWN = 10_000
"""Types for which it is remembered which rules are about them."""

_STRING_OR_NUMBER = b'"-0123456789'

Edit: TypeAlias = Callable[[Document], int]
"""Changes a payload; returns at how many places."""


class _Edits:
    """What a rule does to payloads, one after the other, and how often each has found something."""

    def __init__(self, edits: list[tuple[str, Edit]]) -> None:
        self._edits = [edit for _, edit in edits]
        self._names = [name for name, _ in edits]
        self._found = [0] * len(edits)

    def apply(self, document: Document) -> None:
        for place, edit in enumerate(self._edits):
            self._found[place] += edit(document)

    @property
    def never_matched(self) -> list[str]:
        return [name for name, found in zip(self._names, self._found, strict=True) if not found]


class _Step:
    """One rule, made ready."""

    def __init__(self, number: int, rule: Rule, pseudonyms: Pseudonyms | None) -> None:
        self.number = number
        self.types = frozenset(rule.types)
        self._ids = frozenset(rule.ids)
        self._prefixes = tuple(sorted(rule.prefixes, key=len, reverse=True))
        self._pattern = (
            None if rule.aggregate_pattern is None else re.compile(rule.aggregate_pattern, re.DOTALL)
        )
        self._is_about_all = not (self._ids or self._prefixes or self._pattern)
        self.drops = rule.drop
        self._rename = rule.rename
        self._rename_aggregate = rule.rename_aggregate
        self._names = pseudonyms if rule.pseudonym_aggregate else None
        self._behind = None if rule.aggregate_from is None else parsed(rule.aggregate_from)
        self._changes_aggregate = (
            rule.rename_aggregate is not None or rule.pseudonym_aggregate or self._behind is not None
        )
        edits = list(_edits_of(rule, pseudonyms))
        self._edits = _Edits(edits) if edits else None
        self._applied = self._appended = 0

    def is_about(self, aggregate_id: str) -> bool:
        """Whether it is about the events of an aggregate, if it is about their type."""
        if (
            self._is_about_all
            or aggregate_id in self._ids
            or aggregate_id.startswith(self._prefixes)
            or (self._pattern is not None and self._pattern.fullmatch(aggregate_id) is not None)
        ):
            self._applied += 1
            return True
        return False

    def apply(self, line: Line, document: Document | None) -> Document | None:
        """Change an event that it is about. Its payload is that of the document once there is one. Raises ChangeError
        where it cannot be changed so."""
        if self._rename is not None:
            line.type = self._rename
        if self._behind is not None or self._edits is not None:
            document = document or Document(line.payload)
        if self._changes_aggregate:
            line.aggregate_id = self._renamed(line.aggregate_id, document)
        if self._edits is not None and document is not None:
            try:
                self._edits.apply(document)
            except ChangeError as error:
                raise ChangeError(f"rule {self.number}: {error}") from None
        return document

    def _renamed(self, aggregate_id: str, document: Document | None) -> str:
        behind = ""
        if self._behind is not None and document is not None:
            value = document.first(self._behind)
            if value is None or bytes(value)[0] not in _STRING_OR_NUMBER:
                return aggregate_id
            self._appended += 1
            text = bytes(value)
            behind = msgspec.json.decode(text, type=str) if text.startswith(b'"') else text.decode()
        prefix = next(filter(aggregate_id.startswith, self._prefixes), "")
        rest = aggregate_id.removeprefix(prefix)
        if self._names is not None:
            rest = self._names.of_text(rest)
        if self._rename_aggregate is None:
            return prefix + rest + behind
        if self._pattern is not None and (match := self._pattern.fullmatch(aggregate_id)) is not None:
            return match.expand(self._rename_aggregate) + behind
        if self._prefixes or self._names is not None:
            return self._rename_aggregate + rest + behind
        return self._rename_aggregate + behind

    @property
    def never_matched(self) -> list[str]:
        """What of it has found nothing, in words."""
        if not self._applied:
            return [f"rule {self.number}"]
        never = [] if self._edits is None else self._edits.never_matched
        if self._behind is not None and not self._appended:
            never = ["aggregate_from", *never]
        return [f"rule {self.number}: {name}" for name in never]


class Applied:
    """Rules, made ready for the events of one passage; they count what they find."""

    def __init__(self, rules: Rules, key: bytes | None) -> None:
        pseudonyms = None if key is None else Pseudonyms(key)
        self._steps = [_Step(number, rule, pseudonyms) for number, rule in enumerate(rules.rules, 1)]
        self._known: dict[str, tuple[_Step, ...]] = {}

    def steps(self, event_type: str) -> tuple[_Step, ...]:
        """The rules that are about a type, in order."""
        found = self._known.get(event_type)
        if found is None:
            if len(self._known) >= _TYPES_KNOWN:
                self._known.clear()
            found = self._known[event_type] = tuple(
                step for step in self._steps if not step.types or event_type in step.types
            )
        return found

    def apply(self, line: Line) -> bool:
        """Change an event; returns whether it stays. Raises ChangeError where it cannot be changed so."""
        document: Document | None = None
        done = 0
        event_type: str | None = None
        while line.type != event_type:
            event_type = line.type
            for step in self.steps(event_type):
                if step.number > done and step.is_about(line.aggregate_id):
                    if step.drops:
                        return False
                    document = step.apply(line, document)
                    done = step.number
                    if line.type != event_type:  # other rules are about it now
                        break
        if document is not None:
            line.payload = document.text
        return True

    @property
    def never_matched(self) -> tuple[str, ...]:
        """The rules that no event met, and what of the others has found nothing, in words."""
        return tuple(name for step in self._steps for name in step.never_matched)


def _edits_of(rule: Rule, pseudonyms: Pseudonyms | None) -> Iterator[tuple[str, Edit]]:
    """What a rule does to payloads, each with its name, in the order in which it is done."""
    for source, target in rule.copy.items():
        yield f"copy {source}", methodcaller("copy", *divided(source, target))
    for source, target in rule.rename_member.items():
        within, (old,), (new,) = divided(source, target)
        yield f"rename_member {source}", methodcaller("rename", within, old, new)
    for pointer, value in rule.set.items():
        yield f"set {pointer}", methodcaller("set", parsed(pointer), msgspec.Raw(encode_payload(value)))
    if pseudonyms is not None:
        for name, pointers, value in (
            ("pseudonym", rule.pseudonym, pseudonyms.plain),
            ("pseudonym_email", rule.pseudonym_email, pseudonyms.email),
            ("pseudonym_digits", rule.pseudonym_digits, pseudonyms.digits),
        ):
            for pointer in pointers:
                yield f"{name} {pointer}", methodcaller("replace", parsed(pointer), value)
    redacted = msgspec.Raw(encode_payload(rule.redact_with))
    for pointer in rule.redact:
        yield f"redact {pointer}", methodcaller("replace", parsed(pointer), lambda _: redacted)
    for pointer in rule.remove:
        yield f"remove {pointer}", methodcaller("remove", parsed(pointer))
