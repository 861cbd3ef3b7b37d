"""Rules: what is changed on the way, as a TOML file says it. docs/rules.md says how to write one."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import TypeAlias

import msgspec

from eventferry.errors import RulesError

Names: TypeAlias = str | tuple[str, ...]
"""One name or several."""


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """One rule: which events it is about, and what becomes of them. Without any of the first three it is about all.

    Attributes:
        type: of these types.
        aggregate_id: of these aggregates, or those of `aggregate_prefix`.
        aggregate_prefix: of aggregates whose ids begin so.
        rename: the type that they get.
        drop: they are left out.
    """

    type: Names = ()
    aggregate_id: Names = ()
    aggregate_prefix: Names = ()
    rename: str | None = None
    drop: bool = False


class Rules(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Rules in their order; each sees what those before it have made. See `load_rules`."""

    rules: tuple[Rule, ...] = msgspec.field(default=(), name="rule")


def load_rules(path: str | os.PathLike[str]) -> Rules:
    """Rules from a TOML file, checked.

    Raises:
        RulesError: the file cannot be read, or something in it is wrong.
    """
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise RulesError(f"the rules {os.fspath(path)} cannot be read: {error.strerror}") from None
    try:
        return msgspec.convert(tomllib.loads(text.decode()), Rules)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise RulesError(f"the rules {os.fspath(path)}: {error}") from None


def names(given: Names) -> tuple[str, ...]:
    """One name or several, as several."""
    return (given,) if isinstance(given, str) else given
