"""What was measured, and how a table tells it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from statistics import median

from benchmarks.targets import OURS, Rates


@dataclass
class Measurement:
    """One operation of one side on a store of one size.

    Attributes:
        stored: events in the store (for an import: after it).
        events: how many the operation moved.
        seconds: of each run.
        cpu_seconds: of each run's whole process, start and all; what a server does is not in it.
        peak_mb: the highest resident memory of a process of its runs, the server's not counted.
        bytes: of the lines that were moved, where that says something.
        parts: of each run of ours: seconds of CPU of our main thread, of our other threads, of the server.
        steps: of one more run of ours: how often each step was taken, and its seconds.
        steps_seconds: how long that run took.
        latencies: of each run that consists of many calls, seconds of one: the median, the 99th percentile.
    """

    database: str
    operation: str
    side: str
    stored: int
    events: int = 0
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    peak_mb: float = 0.0
    bytes: int = 0
    parts: list[tuple[float, float, float]] = field(default_factory=list)
    steps: dict[str, tuple[int, float]] = field(default_factory=dict)
    steps_seconds: float = 0.0
    latencies: list[tuple[float, float]] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Events per second, by the median."""
        return self.events / median(self.seconds)

    def with_more(self, other: Measurement) -> Measurement:
        """Both together: of one operation, side and size, in two runs. The steps are those of the other."""
        return replace(
            other,
            seconds=[*self.seconds, *other.seconds],
            cpu_seconds=[*self.cpu_seconds, *other.cpu_seconds],
            peak_mb=max(self.peak_mb, other.peak_mb),
            parts=[*self.parts, *other.parts],
            latencies=[*self.latencies, *other.latencies],
        )


HEAD = (
    *("database", "operation", "stored", "side", "events/s", "MB/s"),
    *("seconds", "spread", "cpu s", "runs", "peak MB", "ours by it"),
)
TEXTS = (0, 1, 3)
"""The columns that are no numbers."""


def cells(each: Measurement, rates: Rates) -> tuple[str, ...]:
    """A measurement as a row under `HEAD`."""
    middle = median(each.seconds)
    ratio = None if each.side == OURS else rates.ratio(each.database, each.operation, each.stored, each.side)
    return (
        each.database,
        each.operation,
        f"{each.stored:,}",
        each.side,
        f"{each.rate:,.0f}",
        f"{each.bytes / middle / 1e6:.0f}" if each.bytes else "",
        f"{middle:.2f}",
        f"{(max(each.seconds) - min(each.seconds)) / middle:.0%}",
        f"{median(each.cpu_seconds):.2f}",
        f"{len(each.seconds)}",
        f"{each.peak_mb:.0f}",
        f"{ratio:.2f}" if ratio is not None else "",
    )


LATENCY_HEAD = ("database", "operation", "stored", "side", "median ms", "99th percentile ms")
LATENCY_TEXTS = (0, 1, 3)


def latency_cells(each: Measurement) -> tuple[str, ...]:
    """How long one call took, as a row under `LATENCY_HEAD`: of all runs the median."""
    middle, last = (median(part) * 1000 for part in zip(*each.latencies, strict=True))
    return (each.database, each.operation, f"{each.stored:,}", each.side, f"{middle:.3f}", f"{last:.3f}")


PARTS_HEAD = ("database", "operation", "stored", "seconds", "main thread", "other threads", "server")
PARTS_TEXTS = (0, 1)


def part_cells(each: Measurement) -> tuple[str, ...]:
    """Where the time of an operation of ours went, as a row under `PARTS_HEAD`."""
    parts = [f"{median(part):.2f}" for part in zip(*each.parts, strict=True)]
    return (each.database, each.operation, f"{each.stored:,}", f"{median(each.seconds):.2f}", *parts)


STEPS_HEAD = ("database", "operation", "seconds", "step", "times", "its seconds")
STEPS_TEXTS = (0, 1, 3)
_SHORT = 0.02


def step_cells(each: Measurement) -> Iterator[tuple[str, ...]]:
    """The steps of an operation of ours that take a fiftieth of it or more, as rows under `STEPS_HEAD`."""
    steps = sorted(each.steps.items(), key=lambda step: step[1][1], reverse=True)
    begin: tuple[str, str, str] = (each.database, each.operation, f"{each.steps_seconds:.2f}")
    for name, (times, seconds) in steps:
        if seconds >= _SHORT * each.steps_seconds:
            yield (*begin, name, f"{times:,.0f}", f"{seconds:.3f}")
            begin = ("", "", "")
