"""Rules made ready: for a type of event, what there is to do is looked up once."""

from __future__ import annotations

from collections.abc import Sequence

from eventferry.changing.rules import Rule, names
from eventferry.lines.decoder import Line

_TYPES_KNOWN = 10_000
"""Types for which it is remembered which rules are about them."""


class Step:
    """One rule, made ready."""

    def __init__(self, number: int, rule: Rule) -> None:
        self.number = number
        self.types = frozenset(names(rule.type))
        self._ids = frozenset(names(rule.aggregate_id))
        self._prefixes = names(rule.aggregate_prefix)
        self._rename = rule.rename
        self._drop = rule.drop

    def apply(self, line: Line) -> bool:
        """Change an event of a type that the rule is about; returns whether it stays."""
        if (self._ids or self._prefixes) and not (
            line.aggregate_id in self._ids or line.aggregate_id.startswith(self._prefixes)
        ):
            return True
        if self._drop:
            return False
        if self._rename is not None:
            line.type = self._rename
        return True


class Applied:
    """Rules, made ready."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._steps = [Step(number, rule) for number, rule in enumerate(rules, 1)]
        self._first: dict[str, tuple[Step, ...]] = {}

    def steps(self, event_type: str) -> tuple[Step, ...]:
        """The rules that are about a type, in order."""
        found = self._first.get(event_type)
        if found is None:
            if len(self._first) >= _TYPES_KNOWN:
                self._first.clear()
            found = self._first[event_type] = tuple(
                step for step in self._steps if not step.types or event_type in step.types
            )
        return found

    def apply(self, line: Line) -> bool:
        """Change an event; returns whether it stays."""
        done = 0
        steps = self.steps(line.type)
        while steps:
            event_type = line.type
            for step in steps:
                if step.number <= done:
                    continue
                if not step.apply(line):
                    return False
                done = step.number
                if line.type != event_type:
                    break
            else:
                return True
            steps = self.steps(line.type)
        return True
