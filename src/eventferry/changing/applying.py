"""Rules made ready: what there is to do with an event is looked up by its type, and worked out once."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from operator import length_hint, methodcaller
from typing import Any, TypeAlias

import msgspec
from msgspec.structs import replace

from eventferry.changing.pointers import Documents, parsed
from eventferry.changing.pseudonyms import Pseudonyms
from eventferry.changing.rules import Rule, Rules, divided
from eventferry.errors import ChangeError, InputError
from eventferry.lines.decoder import Line
from eventferry.lines.payload import encode_payload

_TYPES_KNOWN = 10_000
"""Types for which it is remembered what there is to do."""

_STRING_OR_NUMBER = b'"-0123456789'

Apply: TypeAlias = Callable[[Documents, Iterable[int]], int]
"""Changes some payloads; returns at how many places."""


_Found: TypeAlias = tuple[bool, bool, list[int]]


class _Edit:
    """A change of payloads.

    Attributes:
        name: what it is, in words.
        apply: makes it; returns at how many places.
        found: at how many it was made so far.
    """

    __slots__ = ("apply", "found", "name")

    def __init__(self, name: str, apply: Apply) -> None:
        self.name = name
        self.apply = apply
        self.found = 0


class _Step:
    """One rule, made ready.

    Attributes:
        number: the rule's, from 1.
        types: what it is about; none for all.
        matches: whether it is about an aggregate; None if it is about all.
        drops: whether it leaves events out.
        rename: the type that they get.
        changes_aggregate: whether they get another aggregate.
        edits: what is done to their payloads.
        needs_payload: whether it looks at payloads.
        is_met: whether there was an event that it is about.
    """

    def __init__(self, number: int, rule: Rule, pseudonyms: Pseudonyms | None) -> None:
        self.number = number
        self.types = frozenset(rule.types)
        self._prefixes = tuple(sorted(rule.prefixes, key=len, reverse=True))
        self._pattern = None if rule.aggregate_pattern is None else re.compile(rule.aggregate_pattern)
        self.matches = self._matcher(frozenset(rule.ids))
        self.drops = rule.drop
        self.rename = rule.rename
        self._rename_aggregate = rule.rename_aggregate
        self._names = pseudonyms if rule.pseudonym_aggregate else None
        self._behind = None if rule.aggregate_from is None else parsed(rule.aggregate_from)
        self._is_behind_found = False
        self.changes_aggregate = (
            rule.rename_aggregate is not None or rule.pseudonym_aggregate or self._behind is not None
        )
        self.edits = [_Edit(name, apply) for name, apply in _edits_of(rule, pseudonyms)]
        self.needs_payload = bool(self.edits) or self._behind is not None
        self.is_met = False

    def _matcher(self, ids: frozenset[str]) -> Callable[[str], bool] | None:
        prefixes, pattern = self._prefixes, self._pattern
        if pattern is not None:
            return lambda aggregate_id: pattern.fullmatch(aggregate_id) is not None
        if ids:
            return lambda aggregate_id: aggregate_id in ids or aggregate_id.startswith(prefixes)
        return methodcaller("startswith", prefixes) if prefixes else None

    def new_id(self, aggregate_id: str, documents: Documents, number: int) -> str:
        """The id that an aggregate gets by the event with the payload of this number. Where `aggregate_from` finds
        nothing, it keeps the one that it has."""
        behind = ""
        if self._behind is not None:
            value = documents.first(number, self._behind)
            if value is None or bytes(value)[0] not in _STRING_OR_NUMBER:
                return aggregate_id
            self._is_behind_found = True
            text = bytes(value)
            behind = msgspec.json.decode(text, type=str) if text.startswith(b'"') else text.decode()
        prefix = ""
        for each in self._prefixes:
            if aggregate_id.startswith(each):
                prefix = each
                break
        rest = aggregate_id[len(prefix) :]
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
    def found(self) -> _Found:
        """What it has found so far; one that is made ready in another process goes on from there."""
        return self.is_met, self._is_behind_found, [edit.found for edit in self.edits]

    @found.setter
    def found(self, found: _Found) -> None:
        self.is_met, self._is_behind_found, edits = found
        for edit, count in zip(self.edits, edits, strict=True):
            edit.found = count

    @property
    def never_matched(self) -> list[str]:
        """What of it has found nothing, in words."""
        if not self.is_met:
            return [f"rule {self.number}"]
        never = ["aggregate_from"] if self._behind is not None and not self._is_behind_found else []
        never += [edit.name for edit in self.edits if not edit.found]
        return [f"rule {self.number}: {name}" for name in never]


class _Run:
    """A rule, and those behind it that are about the same events: they are done in one go.

    Attributes:
        matches: whether they are about an aggregate; None if they are about all.
        drops: whether events are left out.
        rename: the type that they get.
        new_id: gives the id that their aggregates get; None if they keep theirs.
        edits: what is done to their payloads.
        needs_payload: whether their payloads are looked at.
        last: the number of a rule that renames only some of the events of a type, so that what is to be done next with
            these depends on their new type; 0 for others.
    """

    def __init__(self, step: _Step) -> None:
        self._steps = [step]
        self.matches = step.matches
        self.drops = step.drops
        self.rename = step.rename
        self.new_id = step.new_id if step.changes_aggregate else None
        self.edits = list(step.edits)
        self.needs_payload = step.needs_payload
        self.last = step.number if step.matches is not None and step.rename is not None else 0

    def add(self, step: _Step) -> bool:
        """Take one more rule in, which is about all aggregates; returns whether that can be."""
        if self.matches is not None or step.drops or step.changes_aggregate:
            return False
        self._steps.append(step)
        self.rename = self.rename if step.rename is None else step.rename
        self.edits += step.edits
        self.needs_payload |= step.needs_payload
        return True

    def meet(self) -> None:
        """There is an event that they are about."""
        for step in self._steps:
            step.is_met = True


class NotAppliedError(Exception):
    """An event cannot be changed as asked.

    Attributes:
        place: which of those that were given, from 0.
        error: why.
    """

    def __init__(self, place: int, error: ChangeError | InputError) -> None:
        super().__init__(place, error)
        self.place = place
        self.error = error


class _Block:
    """Events while rules are applied to them, by their places. What is done to many of them is done rule by rule, and
    payloads are taken apart and put together in one go: that is what makes it fast. Those that rules are about are
    copied: the others are the very same at the end."""

    def __init__(self, lines: Sequence[Line], concerned: Iterable[int]) -> None:
        self._lines = list(lines)
        for place in concerned:
            self._lines[place] = replace(lines[place])
        self._documents = Documents()
        self._dropped: list[int] = []

    def met_by(self, run: _Run, places: list[int]) -> list[int]:
        """Those that a run is about."""
        lines, matches = self._lines, run.matches
        if matches is None:
            return places
        return [place for place in places if matches(lines[place].aggregate_id)]

    def apply(self, run: _Run, places: Sequence[int]) -> None:
        """Do it with those that it is about. Raises NotAppliedError."""
        run.meet()
        lines, documents = self._lines, self._documents
        if run.drops:
            self._dropped += places
        if run.needs_payload:
            documents.open({place: lines[place].payload for place in places if place not in documents})
        walk = iter(places)
        try:
            if run.new_id is not None:
                for place in walk:
                    line = lines[place]
                    line.aggregate_id = run.new_id(line.aggregate_id, documents, place)
            for edit in run.edits:
                walk = iter(places)
                edit.found += edit.apply(documents, walk)
        except (ChangeError, InputError) as error:
            raise NotAppliedError(places[-1 - length_hint(walk)], error) from error
        if run.rename is not None:
            for place in places:
                lines[place].type = run.rename

    @property
    def became(self) -> list[Line | None]:
        """What has become of each: None where it is dropped."""
        for place, text in self._documents.texts:
            self._lines[place].payload = text
        became: list[Line | None] = [*self._lines]
        for place in self._dropped:
            became[place] = None
        return became


class Applied:
    """Rules, made ready for the events of one passage; they count what they find."""

    def __init__(self, rules: Rules, key: bytes | None) -> None:
        self._made_of = rules, key
        pseudonyms = None if key is None else Pseudonyms(key)
        self._steps = [_Step(number, rule, pseudonyms) for number, rule in enumerate(rules.rules, 1)]
        self._known: dict[tuple[str, int], tuple[_Run, ...]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Applied, self._made_of, [step.found for step in self._steps]

    def __setstate__(self, found: list[_Found]) -> None:
        for step, each in zip(self._steps, found, strict=True):
            step.found = each

    def runs(self, event_type: str, done: int = 0) -> tuple[_Run, ...]:
        """What there is to do with events of a type, in order, by the rules behind the first `done`."""
        found = self._known.get((event_type, done))
        if found is None:
            if len(self._known) >= _TYPES_KNOWN:
                self._known.clear()
            found = self._known[event_type, done] = tuple(self._runs(event_type, done))
        return found

    def _runs(self, event_type: str, done: int) -> list[_Run]:
        runs: list[_Run] = []
        for step in self._steps[done:]:
            if step.types and event_type not in step.types:
                continue
            if step.matches is not None or not runs or not runs[-1].add(step):
                runs.append(_Run(step))
            if step.matches is None:
                if step.drops:
                    break
                event_type = event_type if step.rename is None else step.rename
        return runs

    def apply(self, lines: Sequence[Line]) -> list[Line | None]:
        """What becomes of events: None of those that are dropped, and the very same of those of a type that no rule is
        about. These lines stay as they are. Raises NotAppliedError."""
        of_type: defaultdict[str, list[int]] = defaultdict(list)
        for place, line in enumerate(lines):
            of_type[line.type].append(place)
        # What is still to be done. A list, and no recursion, since there may be thousands of rules that rename some of
        # the events of a type.
        waiting = [(places, runs) for each, places in of_type.items() if (runs := self.runs(each))]
        block = _Block(lines, chain.from_iterable(places for places, _ in waiting))
        while waiting:
            places, runs = waiting.pop()
            for run in runs:
                if not (met := block.met_by(run, places)):
                    continue
                block.apply(run, met)
                if run.last and run.rename is not None:
                    waiting.append((met, self.runs(run.rename, run.last)))
                if run.last or run.drops:
                    places = sorted(set(places).difference(met))
        return block.became

    @property
    def never_matched(self) -> tuple[str, ...]:
        """The rules that no event met, and what of the others has found nothing, in words."""
        return tuple(name for step in self._steps for name in step.never_matched)


def _edit(method: Callable[..., int], *arguments: Any) -> Apply:
    return lambda documents, numbers: method(documents, numbers, *arguments)


def _edits_of(rule: Rule, pseudonyms: Pseudonyms | None) -> Iterator[tuple[str, Apply]]:
    """What a rule does to payloads, each with its name, in the order in which it is done."""
    for source, target in rule.copy.items():
        yield f"copy {source}", _edit(Documents.copy, *divided(source, target))
    for source, target in rule.rename_member.items():
        within, (old,), (new,) = divided(source, target)
        yield f"rename_member {source}", _edit(Documents.rename, within, old, new)
    for pointer, value in rule.set.items():
        yield f"set {pointer}", _edit(Documents.set, parsed(pointer), msgspec.Raw(encode_payload(value)))
    if pseudonyms is not None:
        for name, pointers, pseudonym in (
            ("pseudonym", rule.pseudonym, pseudonyms.behind(rule.pseudonym_prefixes)),
            ("pseudonym_email", rule.pseudonym_email, pseudonyms.email),
            ("pseudonym_digits", rule.pseudonym_digits, pseudonyms.digits),
        ):
            for pointer in pointers:
                yield f"{name} {pointer}", _edit(Documents.replace, parsed(pointer), pseudonym)
    redacted = msgspec.Raw(encode_payload(rule.redact_with))
    for pointer in rule.redact:
        yield f"redact {pointer}", _edit(Documents.replace, parsed(pointer), lambda _: redacted)
    for pointer in rule.remove:
        yield f"remove {pointer}", _edit(Documents.remove, parsed(pointer))
