"""What is changed on the way: the options of several commands, the report, and what a dry run tells."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import eventferry
from eventferry.cli.commands import section
from eventferry.cli.foreign import MomentOrMappingType
from eventferry.cli.options import (
    CHANGES,
    EVENTS,
    flag,
    kinds,
    kinds_of,
    option,
    refuse_overwriting,
    together,
    until_option,
)
from eventferry.cli.output import print_json, print_line
from eventferry.cli.terminal import Extent, Meter, counted, inform, say
from eventferry.errors import UsageError

if TYPE_CHECKING:
    from eventferry import ChangedEvent, ChangeReport, Changes

_SHOWN = 300
"""Characters of a value that a diff shows."""

_WARNINGS = 10

_DIFFERENCES = 20
"""Lines of the diff of one event."""

rule_options = section(
    CHANGES,
    option("--rules", "FILE", "Change events by the rules in this TOML file."),
    option(
        "--function",
        "MODULE:FUNCTION",
        "Then call this Python function for each event; it returns the event, none, or several.",
    ),
    option("--report", "FILE", "Write what was changed, with counts by type, to this file as JSON."),
)
keep_positions_option = section(
    CHANGES,
    flag(
        "--keep-positions",
        "Keep positions and versions; refused if an event is left out or becomes several. Without it, changed events "
        "are numbered anew, without gaps.",
    ),
)
from_option = section(
    EVENTS,
    option(
        "--from starts",
        "TIME|PRESET|FILE.toml",
        "Only events at or after this time. Or: read another product's tables by this mapping.",
        multiple=True,
        type=MomentOrMappingType(),
    ),
)
from_csv_option = section(
    EVENTS,
    option(
        "--from --mapping starts",
        "TIME|PRESET|FILE.toml",
        "Only events at or after this time. Or: read another product's tables by this mapping; with --format csv, a "
        "file.",
        multiple=True,
        type=MomentOrMappingType(),
    ),
)
change_options = together(kinds, until_option, rule_options)
dry_run_option = flag(
    "--dry-run",
    "Read all and store nothing: tell what would be changed, and show the first changes. With a mapping and nothing "
    "to change: what the source gives, and the first trouble in it.",
)


def beginnings(starts: tuple[Any, ...]) -> tuple[int | None, str | None]:
    """The time and the mapping that --from gives. Raises UsageError for two of a kind."""
    return time_and(starts, "--from is given once for a time, and once for a mapping")


def time_and(given: tuple[Any, ...], refusal: str) -> tuple[int | None, str | None]:
    """The time, and the text, among the values of an option that takes one of each. Raises UsageError for two of a
    kind."""
    times = [value for value in given if isinstance(value, int)]
    texts = [value for value in given if isinstance(value, str)]
    if len(times) > 1 or len(texts) > 1:
        raise UsageError(refusal)
    return next(iter(times), None), next(iter(texts), None)


class Changing:
    """The changes of a command, if there are any, and where their report goes."""

    def __init__(self, changes: Changes | None, report: str | None) -> None:
        self.changes = changes
        self._report = report

    @property
    def transforms(self) -> list[Changes]:
        """For a pipeline."""
        return [] if self.changes is None else [self.changes]

    @property
    def result(self) -> dict[str, Any]:
        """What to add to a result."""
        return {} if self.changes is None else {"changes": self.changes.report}

    @property
    def told(self) -> str:
        """The same in words."""
        return "" if self.changes is None else f"; {_told(self.changes.report)}"

    @asynccontextmanager
    async def reported(self) -> AsyncIterator[None]:
        """The report is written when the block ends, unless it raises. A file that cannot be written is refused
        before."""
        if self._report is None or self.changes is None:
            yield
            return
        import msgspec

        from eventferry.lines.files import FileSink

        sink = FileSink(self._report)
        try:
            await sink.write(b"")
            yield
            text = msgspec.json.format(msgspec.json.encode(self.changes.report), indent=2)
            await sink.write(text + b"\n")
            await sink.close()
        except BaseException as error:
            await sink.abort(error)
            raise

    def written(self, read: int) -> int:
        """How many events are left of those that were read."""
        return read if self.changes is None else self.changes.report.written

    def warn(self) -> None:
        """Say what of the rules was about nothing."""
        for name in () if self.changes is None else self.changes.report.never_matched[:_WARNINGS]:
            say(f"warning: {name} matched nothing")

    async def tell(self, blocks: AsyncIterator[bytes], extent: Extent, *, as_json: bool) -> None:
        """Read all of a source, and print what would be changed."""
        with Meter("reading", extent) as meter:
            await eventferry.pipeline(blocks, meter, *self.transforms, _Nowhere())
        if as_json:
            print_json(self.result | self.first_changed)
        else:
            self.print_changes()
            inform(f"nothing was stored{self.told}")
            self.warn()

    @property
    def first_changed(self) -> dict[str, Any]:
        """What a dry run adds to a result."""
        return {} if self.changes is None else {"firstChanged": self.changes.first_changed}

    def print_changes(self) -> None:
        """Print the first events that were changed, and how many events there are of each type."""
        if self.changes is None:
            return
        for changed in self.changes.first_changed:
            for line in _diff(changed):
                print_line(line)
        before, after = self.changes.report.types_before, self.changes.report.types_after
        print_line(f"{'before':>12} {'after':>12}")
        for name in {**before, **after}:
            print_line(f"{before.get(name, 0):>12,} {after.get(name, 0):>12,} {name}")


class _Nowhere:
    """A sink that keeps nothing."""

    async def write(self, block: bytes) -> None:
        """Drop a block."""

    async def close(self) -> None:
        """Nothing is left to do."""

    async def abort(self, error: BaseException | None = None) -> None:
        """Nothing is left to do."""


def has_filters(options: dict[str, Any]) -> bool:
    """Whether a filter is given, by a time or not."""
    is_timed = options["finish"] is not None or any(isinstance(start, int) for start in options["starts"])
    return is_timed or any(options[name] for name in ("types", "excluded", "ids", "prefixes"))


def has_rules(options: dict[str, Any]) -> bool:
    """Whether a value of `rule_options` is given."""
    return any(options.get(name) for name in ("rules", "function", "keep_positions", "report"))


def changing_of(
    options: dict[str, Any], start: int | None, *, dry_run: bool, ignore_unknown_keys: bool = False
) -> Changing:
    """Takes the values of `change_options` out of those of a command. A dry run counts as a change, of nothing. Raises
    UsageError and RulesError."""
    chosen = kinds_of(**{name: options.pop(name) for name in ("types", "excluded", "ids", "prefixes")})
    chosen |= {"start_time": start, "finish_time": options.pop("finish")}
    chosen |= {name: options.pop(name) for name in ("rules", "function")}
    chosen["keep_positions"] = options.pop("keep_positions", False)
    report = options.pop("report")
    if report == "-":
        raise UsageError("--report writes a file; --json prints the report as a part of the result")
    if report is not None:
        refuse_overwriting(report, "report")
    is_asked = dry_run or report is not None
    if not is_asked and all(value is None or value is False for value in chosen.values()):
        return Changing(None, None)
    return Changing(eventferry.Changes(**chosen, ignore_unknown_keys=ignore_unknown_keys), report)


def _told(report: ChangeReport) -> str:
    """What became of the events, in words."""
    parts = [f"{report.read:,} read"]
    for count, did in (
        (report.left_out, "left out by filters"),
        (report.dropped, "dropped"),
        (report.changed, "changed"),
        (report.split, "more by splitting"),
    ):
        if count:
            parts.append(f"{count:,} {did}")
    return ", ".join([*parts, f"{report.untouched:,} untouched"])


def _diff(changed: ChangedEvent) -> Iterator[str]:
    """An event before and after, as the members that differ."""
    before = changed.before
    place = (
        ""
        if before.thread_id < 0
        else f" at threadId {before.thread_id}, threadCounter {before.thread_counter}"
    )
    yield f"{before.type} of {before.aggregate_id!r}{place}"
    for number, after in enumerate(changed.after, 1):
        if len(changed.after) > 1:
            yield f"  becomes, {number} of {len(changed.after)}:"
        lines = list(_differences(_shape(before), _shape(after)))
        yield from lines[:_DIFFERENCES]
        if len(lines) > _DIFFERENCES:
            yield f"  … and {counted(len(lines) - _DIFFERENCES, 'more line')}"


def _shape(event: eventferry.Event) -> dict[str, Any]:
    """What of an event is compared: its place is given anew."""
    return {
        "type": event.type,
        "timestamp": event.timestamp,
        "aggregateId": event.aggregate_id,
        "payload": event.payload,
    }


def _differences(before: Any, after: Any) -> Iterator[str]:
    """What differs in two JSON values, as lines of a diff with JSON Pointers. Another spelling of a number differs."""
    from eventferry.looking.differences import differences

    for change in differences(before, after, lambda old, new: type(old) is type(new) and old == new):
        if change.kind != "added":
            yield f"  - {change.path} {_text(change.before)}"
        if change.kind != "removed":
            yield f"  + {change.path} {_text(change.after)}"


def _text(value: Any) -> str:
    from eventferry.lines.payload import encode_payload

    text = encode_payload(value).decode()
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
