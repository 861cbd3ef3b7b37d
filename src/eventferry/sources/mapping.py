"""Mappings: how a row of another product's table becomes an event.

A mapping is one SELECT with fixed output names, and beside it what SQL cannot say: how data is decoded, the zone of
times, which kind of position it is. It stands in a TOML file; those in the folder `presets` come with the package.
docs/mapping.md says how to write one.
"""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from collections.abc import Mapping as Mappings
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeAlias
from zoneinfo import ZoneInfo

import msgspec

from eventferry.errors import MappingError

OUTPUT = ("position", "aggregate", "version", "type", "time", "data", "metadata", "id", "kind", "transaction")
"""What a SELECT may give, and nothing else."""

NEEDED = ("position", "aggregate", "type", "data")

PositionKind: TypeAlias = Literal["sequence", "commit", "transaction", "none"]
RowKind: TypeAlias = Literal["event", "link", "snapshot", "archived", "deleted"]

ROW_KINDS: tuple[RowKind, ...] = ("event", "link", "snapshot", "archived", "deleted")
KEPT: frozenset[RowKind] = frozenset(("event", "archived"))
"""The kinds of rows that are events by default."""

STEPS = ("json", "base64", "hex", "zlib", "yaml")

_NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_NAME = re.compile(r"\{(\w+)\}")
_FUNCTION = re.compile(r"[\w.]+:[\w.]+")


class Position(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is known of positions.

    Attributes:
        kind: "sequence": numbers are drawn before the commit, so that one may appear below others that were there
            before. "commit": they appear in their order, since each writer holds a lock. "transaction": the SELECT also
            gives `transaction`, an xid8 of PostgreSQL, and the order is by that first. "none": positions give an order
            and nothing else: they can be read, and not followed.
        table: where the numbers of a "sequence" stand; with `column`, this finds the sequence itself.
        column: its column.
    """

    kind: PositionKind = "sequence"
    table: str = ""
    column: str = ""


class Version(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is known of versions. `first` is the one with which an aggregate begins in the source."""

    first: int = 1


class Time(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How times are read.

    Attributes:
        zone: of times that say none themselves, such as "UTC" or "Europe/Paris".
        unit: of times that are numbers since 1970.
        pointer: a JSON Pointer (RFC 6901) to the time in the decoded data, where the SELECT gives none.
    """

    zone: str | None = None
    unit: Literal["s", "ms", "us", "ns"] | None = None
    pointer: str | None = None

    @property
    def nanoseconds(self) -> int | None:
        """Of one unit."""
        return None if self.unit is None else _NANOSECONDS[self.unit]


class Decoding(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a column becomes JSON: steps from left to right, each a name in `STEPS` or a function "module:function"."""

    decode: tuple[str, ...] = ()


class Aggregate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What stands before the id of each aggregate."""

    prefix: str = ""


class Csv(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a CSV file is spelled. `delimiter` is what stands between fields."""

    delimiter: str = ","


class Mapping(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How rows become events; see `load_mapping`.

    Attributes:
        name: for messages.
        select: the SELECT; or one for each scheme of a URL that the mapping is good for.
        about: what it reads, in one sentence.
        checked: "store": tested with stores that the product itself wrote; "schema": with tables of its schema; "own":
            not one of the presets.
        tables: names that stand in braces in the SELECT, and what they are there, without quotes.
        columns: of a CSV file, which column is which output; there is no SELECT then.
    """

    name: str = ""
    select: str | dict[str, str] = ""
    about: str = ""
    checked: Literal["store", "schema", "own"] = "own"
    tables: dict[str, str] = {}
    columns: dict[str, str] = {}
    position: Position = Position()
    version: Version = Version()
    time: Time = Time()
    data: Decoding = Decoding()
    metadata: Decoding = Decoding()
    aggregate: Aggregate = Aggregate()
    csv: Csv = Csv()

    def with_tables(self, changes: Mappings[str, str]) -> Mapping:
        """The mapping with other names of tables. Raises MappingError for one that it does not have."""
        if unknown := sorted(changes.keys() - self.tables.keys()):
            known = ", ".join(sorted(self.tables)) or "none"
            raise MappingError(f"the mapping {self.name} has no table named {unknown[0]!r}; it has {known}")
        return msgspec.structs.replace(self, tables=self.tables | dict(changes))

    def statement(self, scheme: str) -> str:
        """The SELECT for a database, by the scheme of its URL. Raises MappingError if there is none."""
        scheme = {"postgres": "postgresql", "mariadb": "mysql"}.get(scheme, scheme)
        chosen = self.select if isinstance(self.select, str) else self.select.get(scheme, "")
        if not chosen.strip():
            known = (
                "" if isinstance(self.select, str) else f"; it has one for {', '.join(sorted(self.select))}"
            )
            raise MappingError(f"the mapping {self.name} has no SELECT for {scheme}{known}")
        return self.filled(chosen, scheme).strip().rstrip(";").rstrip()

    def filled(self, text: str, scheme: str) -> str:
        """A text of the mapping with the names of tables, quoted as the database quotes them."""
        mark = "`" if scheme == "mysql" else '"'

        def quoted(found: re.Match[str]) -> str:
            name = self.tables.get(found[1])
            if name is None:  # not ours: '{}' may stand in SQL for other reasons
                return found[0]
            return ".".join(f"{mark}{part.replace(mark, 2 * mark)}{mark}" for part in name.split("."))

        return _NAME.sub(quoted, text)

    @property
    def digest(self) -> str:
        """What it depends on which event a row becomes, in hex: another mapping has another one."""
        meant = msgspec.structs.replace(self, name="", about="", checked="own")
        return hashlib.blake2b(msgspec.json.encode(meant, order="sorted"), digest_size=8).hexdigest()


def presets() -> list[Mapping]:
    """The mappings that come with the package, by name."""
    return [load_mapping(name) for name in _preset_names()]


def load_mapping(mapping: str | os.PathLike[str] | Mapping) -> Mapping:
    """A mapping, checked as far as it can be without a database.

    Args:
        mapping: the name of a preset, or the path of a TOML file, which ends in .toml. A file may begin with `extends`
            and a preset's name: then it says only what is different.

    Raises:
        MappingError: there is no such preset or file, or something in it is wrong.
    """
    if isinstance(mapping, Mapping):
        return _checked(mapping)
    place = os.fspath(mapping)
    if place.endswith(".toml"):
        try:
            text = Path(place).read_bytes()
        except OSError as error:
            raise MappingError(f"the mapping {place} cannot be read: {error.strerror}") from None
        return _parsed(place, text)
    if place not in _preset_names():
        raise MappingError(
            f"{place!r} is neither a preset nor a file that ends in .toml; the presets are "
            f"{', '.join(_preset_names())}"
        )
    return _parsed(place, (_PRESETS / f"{place}.toml").read_bytes())


_PRESETS = resources.files("eventferry.sources") / "presets"


def _preset_names() -> list[str]:
    return sorted(
        file.name.removesuffix(".toml") for file in _PRESETS.iterdir() if file.name.endswith(".toml")
    )


def _parsed(name: str, text: bytes) -> Mapping:
    try:
        mapping = msgspec.convert(_fields(text), Mapping)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError, RecursionError) as error:
        raise MappingError(f"the mapping {name}: {error}") from None
    return _checked(msgspec.structs.replace(mapping, name=name))


def _fields(text: bytes) -> dict[str, Any]:
    """What a file says, with what it takes over from a preset: key by key, also within a table of TOML."""
    fields = tomllib.loads(text.decode("utf-8-sig"))
    extended = fields.pop("extends", None)
    if extended is None:
        return fields
    if not isinstance(extended, str) or extended not in _preset_names():
        known = ", ".join(_preset_names())
        raise msgspec.ValidationError(f"extends: {extended!r} is no preset; they are {known}")
    whole = _fields((_PRESETS / f"{extended}.toml").read_bytes())
    del whole["checked"]
    for name, value in fields.items():
        both = isinstance(value, dict) and isinstance(whole.get(name), dict)
        whole[name] = whole[name] | value if both else value
    return whole


def _checked(mapping: Mapping) -> Mapping:
    def refuse(reason: str) -> MappingError:
        return MappingError(f"the mapping {mapping.name}: {reason}")

    if not mapping.select and not mapping.columns:
        raise refuse("select is missing: one SELECT that gives position, aggregate, type and data")
    if unknown := sorted(mapping.columns.keys() - set(OUTPUT)):
        raise refuse(f"columns: {unknown[0]!r} is none of {', '.join(OUTPUT)}")
    if len(mapping.csv.delimiter) != 1 or mapping.csv.delimiter in '"\r\n':
        raise refuse(
            f"csv.delimiter: {mapping.csv.delimiter!r} is not one character that can separate fields"
        )
    for place, decoding in (("data", mapping.data), ("metadata", mapping.metadata)):
        for step in decoding.decode:
            if step not in STEPS and _FUNCTION.fullmatch(step) is None:
                raise refuse(f"{place}.decode: {step!r} is none of {', '.join(STEPS)}, nor module:function")
    if mapping.time.zone is not None:
        try:
            ZoneInfo(mapping.time.zone)
        except (ValueError, OSError):  # a zone that is not known is one of these
            raise refuse(f"time.zone: there is no time zone {mapping.time.zone!r}") from None
    if mapping.time.pointer is not None and not mapping.time.pointer.startswith("/"):
        raise refuse(f"time.pointer: {mapping.time.pointer!r} is not a JSON Pointer such as /timestamp")
    return mapping
