"""The options of a read or a write, as Spark gives them: texts, under names in which case does not count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from eventferry.errors import UsageError
from eventferry.importing.merge import Older


class ReadOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is read.

    Attributes:
        url: of a store, or with `mapping` of a database that holds another product's tables.
        mapping: the option `from`: the name of a preset, or the path of a TOML file.
        repository: a backup repository, instead of `url`.
        chain: of the repository, where it holds several stores.
        manifest: the state of the repository at the end of this run; by default of the last one.
        identities: files of keys, separated by commas, for a repository that is encrypted. Every worker reads them.
        num_partitions: maximum number of tasks, and so of connections; not with `mapping`, which one task reads.
        since: of a store: only what comes behind this bookmark. For a stream also `now`.
        until: of a store: only what this bookmark has read. By default, what the store holds when the data frame is
            made.
        max_events_per_trigger: of a stream: about how many events a batch has at most.
    """

    url: str | None = None
    mapping: str | None = None
    repository: str | None = None
    chain: str | None = None
    manifest: int | None = None
    identities: Sequence[str] = ()
    num_partitions: int | None = None
    since: str | None = None
    until: str | None = None
    max_events_per_trigger: int | None = None


class WriteOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where events are written to.

    Attributes:
        url: of a store.
        older: when adding to it: what to do with events older than its latest: `skip`, `reject` or `accept`.
        repository: a backup repository, instead of `url`.
        name: of what is written, among what Spark writes there.
        recipients: public keys to encrypt to, or files of them, separated by commas. The driver reads them.
        single_writer: allow a storage that ignores conditions. The caller promises that only one write or backup runs.
    """

    url: str | None = None
    older: Older | None = None
    repository: str | None = None
    name: str | None = None
    recipients: Sequence[str] = ()
    single_writer: bool = False


_NAMES = {
    "url": "url",
    "from": "mapping",
    "repository": "repository",
    "chain": "chain",
    "manifest": "manifest",
    "identities": "identities",
    "numPartitions": "num_partitions",
    "since": "since",
    "until": "until",
    "maxEventsPerTrigger": "max_events_per_trigger",
    "older": "older",
    "name": "name",
    "recipients": "recipients",
    "singleWriter": "single_writer",
}
_LISTS = frozenset(("identities", "recipients"))
_NUMBERS = frozenset(("manifest", "numPartitions", "maxEventsPerTrigger"))

_Options = TypeVar("_Options", ReadOptions, WriteOptions)


def read_options(given: Mapping[str, str]) -> ReadOptions:
    """Those of a read. Raises UsageError."""
    options = _options(given, ReadOptions)
    if (options.url is None) == (options.repository is None):
        raise UsageError(
            "give either the option url, of a store or of another product's database, or repository"
        )
    if options.repository is None:
        _refuse(options, "belongs to repository", "chain", "manifest", "identities")
    if options.repository is not None or options.mapping is not None:
        _refuse(options, "is only for a store", "since", "until", "max_events_per_trigger")
    if options.repository is not None:
        _refuse(options, "is only for a database", "mapping")
    if options.mapping is not None:
        _refuse(options, "does not go with from: one task reads another product's tables", "num_partitions")
    return options


def write_options(given: Mapping[str, str]) -> WriteOptions:
    """Those of a write. Raises UsageError."""
    options = _options(given, WriteOptions)
    if (options.url is None) == (options.repository is None):
        raise UsageError("give either the option url, of the store that events are written to, or repository")
    if options.repository is None:
        _refuse(options, "belongs to repository", "name", "recipients", "single_writer")
    else:
        _refuse(options, "is only for a store", "older")
    if options.older not in (None, "skip", "reject", "accept"):
        raise UsageError(f"the option older must be skip, reject or accept, not {options.older!r}")
    return options


def _options(given: Mapping[str, str], kind: type[_Options]) -> _Options:
    allowed = {name for name, field in _NAMES.items() if field in kind.__struct_fields__}
    known = {name.lower(): name for name in allowed}
    values: dict[str, Any] = {}
    for key, text in given.items():
        name = known.get(key.lower())
        if name is None:
            raise UsageError(f"there is no option {key!r} here, but {', '.join(sorted(allowed))}")
        values[_NAMES[name]] = _value(name, text)
    return kind(**values)


def _value(name: str, text: str) -> Any:
    if name in _LISTS:
        if not (found := [each.strip() for each in text.split(",") if each.strip()]):
            raise UsageError(f"the option {name} is empty")
        return found
    if name == "singleWriter":
        if text.lower() not in ("true", "false"):
            raise UsageError(f"the option {name} must be true or false, not {text!r}")
        return text.lower() == "true"
    if name not in _NUMBERS:
        return text
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 10**9):
        raise UsageError(f"the option {name} must be an integer of at least 1, not {text!r}")
    return int(text)


def _refuse(options: ReadOptions | WriteOptions, why: str, *fields: str) -> None:
    for name, field in _NAMES.items():
        if field in fields and getattr(options, field):
            raise UsageError(f"the option {name} {why}")
