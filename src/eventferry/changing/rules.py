"""Rules: what is changed on the way, as a TOML file says it. docs/rules.md says how to write one."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from eventferry.changing.pointers import Pointer, parsed
from eventferry.changing.pseudonyms import KeyPlace
from eventferry.errors import InputError, RulesError
from eventferry.lines.files import from_anywhere
from eventferry.lines.limits import MAX_ID_LENGTH, check_text
from eventferry.lines.payload import encode_payload

Names: TypeAlias = str | tuple[str, ...]
"""One name or several."""

Pointers: TypeAlias = tuple[str, ...]


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """One rule: which events it is about, and what becomes of them. Without any of the first four it is about all.

    What it says is done in the order in which it stands here; pointers are JSON Pointers (RFC 6901) into the payload,
    in which `*` stands for every element or member.

    Attributes:
        type: of these types.
        aggregate_id: of these aggregates.
        aggregate_prefix: of aggregates whose ids begin so; with `aggregate_id`, of both.
        aggregate_pattern: of aggregates whose ids this regular expression matches from begin to end.
        drop: they are left out.
        rename: the type that they get.
        pseudonym_aggregate: the id of the aggregate, or what follows the prefix in it, gets its pseudonym.
        rename_aggregate: what the id becomes, or what stands for the prefix in it; with a pattern, its groups are \\1
            and so on.
        aggregate_from: a pointer to a string or number that is put behind the id.
        copy: from one pointer to another.
        rename_member: a pointer to a member, and one to the same place with its new name.
        set: a pointer, and the value that it gets; also where it is missing in an object that is there.
        pseudonym: pointers to values that become their pseudonyms, 32 hex digits.
        pseudonym_prefix: what these values keep if they begin so, such as the prefix of the aggregates that they name.
        pseudonym_email: the same for an e-mail address, which stays one.
        pseudonym_digits: the same with as many digits.
        redact: pointers to values that become null, or `redact_with`.
        redact_with: any JSON value.
        remove: pointers to what is taken out.
    """

    type: Names | None = None
    aggregate_id: Names | None = None
    aggregate_prefix: Names | None = None
    aggregate_pattern: str | None = None
    drop: bool = False
    rename: str | None = None
    pseudonym_aggregate: bool = False
    rename_aggregate: str | None = None
    aggregate_from: str | None = None
    copy: dict[str, str] = {}
    rename_member: dict[str, str] = {}
    set: dict[str, Any] = {}
    pseudonym: Pointers = ()
    pseudonym_prefix: Names = ()
    pseudonym_email: Pointers = ()
    pseudonym_digits: Pointers = ()
    redact: Pointers = ()
    redact_with: Any = None
    remove: Pointers = ()

    @property
    def types(self) -> tuple[str, ...]:
        """The types that it is about; none for all."""
        return _several(self.type)

    @property
    def ids(self) -> tuple[str, ...]:
        """The aggregates that it is about."""
        return _several(self.aggregate_id)

    @property
    def prefixes(self) -> tuple[str, ...]:
        """What the ids of aggregates that it is about begin with."""
        return _several(self.aggregate_prefix)

    @property
    def pseudonym_prefixes(self) -> tuple[str, ...]:
        """What values keep of themselves."""
        return _several(self.pseudonym_prefix)

    @property
    def has_pseudonyms(self) -> bool:
        """Whether it needs a key."""
        return self.pseudonym_aggregate or bool(
            self.pseudonym or self.pseudonym_email or self.pseudonym_digits
        )


class Rules(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Rules in their order; each sees what those before it have made. See `load_rules`.

    Attributes:
        pseudonyms: where their key is.
        rules: the rules.
    """

    pseudonyms: KeyPlace | None = None
    rules: tuple[Rule, ...] = msgspec.field(default=(), name="rule")

    def key(self) -> bytes | None:
        """The key of the pseudonyms; None if no rule makes any. Raises RulesError if it is missing or too short."""
        for number, rule in enumerate(self.rules, 1):
            if rule.has_pseudonyms:
                if self.pseudonyms is None:
                    raise RulesError(
                        f"rule {number} makes pseudonyms, and the rules do not say where the key is: [pseudonyms] with "
                        "key_file or key_env"
                    )
                return self.pseudonyms.key()
        return None


def load_rules(path: str | os.PathLike[str]) -> Rules:
    """Rules from a TOML file, checked. A `key_file` is looked for beside that file.

    Raises:
        RulesError: the file cannot be read, or something in it is wrong, or the key that it needs is.
    """
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise RulesError(f"the rules {os.fspath(path)} cannot be read: {error.strerror}") from None
    try:
        rules = msgspec.convert(tomllib.loads(text.decode("utf-8-sig")), Rules)
        place = rules.pseudonyms
        if place is not None and place.key_file is not None:
            # It is read once more where it is used, which may be in another folder.
            key_file = Path(from_anywhere(path)).parent / place.key_file
            beside = msgspec.structs.replace(place, key_file=str(key_file))
            rules = msgspec.structs.replace(rules, pseudonyms=beside)
        _check_rules(rules)
        rules.key()
    except (
        tomllib.TOMLDecodeError,
        UnicodeDecodeError,
        msgspec.ValidationError,
        RecursionError,
        RulesError,
    ) as error:
        raise RulesError(f"the rules {os.fspath(path)}: {error}") from None
    return rules


def rules_of(given: Rules | str | os.PathLike[str]) -> Rules:
    """Rules, or those of a TOML file, checked. Raises RulesError."""
    if not isinstance(given, Rules):
        return load_rules(given)
    _check_rules(given)
    return given


def _check_rules(rules: Rules) -> None:
    """Refuses a rule that says nothing, or what cannot be. Raises RulesError."""
    for number, rule in enumerate(rules.rules, 1):
        try:
            _check(rule)
        except (RulesError, InputError) as error:
            raise RulesError(f"rule {number}: {error}") from None


def divided(source: str, target: str) -> tuple[Pointer, Pointer, Pointer]:
    """What two pointers have in common, and the rest of each. Raises RulesError where a `*` is in the rest."""
    one, other = parsed(source), parsed(target)
    common = 0
    while common < min(len(one), len(other)) and one[common] == other[common]:
        common += 1
    if None in (*one[common:], *other[common:]):
        raise RulesError(f"{source!r} and {target!r} must have their * at the same places")
    return one[:common], one[common:], other[common:]


def _check(rule: Rule) -> None:
    for name in ("type", "aggregate_id", "aggregate_prefix"):
        if getattr(rule, name) is not None and not _several(getattr(rule, name)):
            raise RulesError(
                f"{name}: the list is empty, and so the rule would be about no event; leave it out for all"
            )
    done = [name for name in _ACTIONS if getattr(rule, name)]
    if not done and rule.rename is None and rule.rename_aggregate is None:
        raise RulesError("it says nothing to do")
    if rule.drop and (len(done) > 1 or rule.rename is not None or rule.rename_aggregate is not None):
        raise RulesError("drop: an event that is left out cannot be changed as well")
    for name, text in (("rename", rule.rename), ("rename_aggregate", rule.rename_aggregate)):
        if text is not None:
            check_text(name, text)
            if len(text) > MAX_ID_LENGTH:
                raise RulesError(f"{name}: is longer than {MAX_ID_LENGTH} characters")
    _check_aggregates(rule)
    for pointer in _pointers(rule):
        parsed(pointer)
    if "" in rule.remove:
        raise RulesError("remove: the whole payload cannot be removed; redact makes it null")
    for source, target in rule.copy.items():
        divided(source, target)
    for source, target in rule.rename_member.items():
        _, old, new = divided(source, target)
        if len(old) != 1 or len(new) != 1:
            raise RulesError(f"rename_member: {target!r} must be {source!r} but for its last part")
    for value in (*rule.set.values(), rule.redact_with):
        encode_payload(value)
    if rule.redact_with is not None and not rule.redact:
        raise RulesError("redact_with: there is nothing to redact")
    if rule.pseudonym_prefix and not rule.pseudonym:
        raise RulesError("pseudonym_prefix: there is nothing that gets a pseudonym")


_ACTIONS = (
    "drop",
    "pseudonym_aggregate",
    "aggregate_from",
    "copy",
    "rename_member",
    "set",
    "pseudonym",
    "pseudonym_email",
    "pseudonym_digits",
    "redact",
    "remove",
)


def _check_aggregates(rule: Rule) -> None:
    if rule.aggregate_pattern is not None:
        if rule.aggregate_id or rule.aggregate_prefix:
            raise RulesError("aggregate_pattern: say either a pattern, or ids and prefixes")
        if rule.pseudonym_aggregate:
            raise RulesError("pseudonym_aggregate: goes with a prefix; with a pattern, make two rules")
        try:
            # Where a template has a group that the pattern lacks, that is an error even if nothing matches.
            re.compile(rule.aggregate_pattern).sub(rule.rename_aggregate or "", "")
        except (re.error, IndexError) as error:
            raise RulesError(f"aggregate_pattern, rename_aggregate: {error}") from None
    changes_ids = rule.rename_aggregate is not None or rule.pseudonym_aggregate
    if changes_ids and rule.aggregate_id and rule.aggregate_prefix:
        raise RulesError("the aggregates get other names: say either aggregate_id or aggregate_prefix")
    if rule.pseudonym_aggregate and rule.aggregate_from is not None:
        raise RulesError("pseudonym_aggregate: what aggregate_from adds needs a rule of its own")


def _pointers(rule: Rule) -> Iterator[str]:
    for several in (
        rule.set,
        rule.pseudonym,
        rule.pseudonym_email,
        rule.pseudonym_digits,
        rule.redact,
        rule.remove,
    ):
        yield from several
    if rule.aggregate_from is not None:
        yield rule.aggregate_from


def _several(given: Names | None) -> tuple[str, ...]:
    return () if given is None else (given,) if isinstance(given, str) else given
