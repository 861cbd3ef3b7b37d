"""A chart of events over time: bars with their places and words, which a template draws as SVG."""

from __future__ import annotations

from dataclasses import dataclass

from eventferry import Timeline
from eventferry.clock import iso
from eventferry.lines.limits import MAX_SAFE_INTEGER

WIDTH, HEIGHT = 960, 160
"""Of the drawing, in its own units: a page scales it to its width."""

_DAY = 86_400_000


@dataclass(frozen=True, slots=True)
class Bar:
    """A span of time that has events.

    Attributes:
        x, y, width, height: where it is drawn.
        label: the time and the number, in words.
        start, finish: the span, as a page's address has it.
        events: how many there are.
    """

    x: float
    y: float
    width: float
    height: float
    label: str
    start: str
    finish: str
    events: int


@dataclass(frozen=True, slots=True)
class Chart:
    """Events over time.

    Attributes:
        bars: the spans that have events, in order.
        events: how many there are.
        highest: the most events of a span.
        begin, end: the times at the two ends, in words.
        span: the length of a span, in words.
        width, height: of the drawing.
    """

    bars: list[Bar]
    events: int
    highest: int
    begin: str
    end: str
    span: str
    width: int = WIDTH
    height: int = HEIGHT


def chart_of(timeline: Timeline) -> Chart | None:
    """The chart of a timeline; None without events."""
    if not timeline.points:
        return None
    span, first, last = timeline.span, timeline.points[0].start, timeline.points[-1].start
    highest = max(point.events for point in timeline.points)
    unit = WIDTH / ((last - first) // span + 1)
    bars = []
    for point in timeline.points:
        # What is there is seen, however little it is beside the highest.
        height = max(point.events / highest * HEIGHT, 2.0)
        bars.append(
            Bar(
                x=round((point.start - first) // span * unit, 2),
                y=round(HEIGHT - height, 2),
                width=round(max(unit * 0.9, 1.0), 2),
                height=round(height, 2),
                label=f"{_words(point.start, span)}: {point.events:,} event{'' if point.events == 1 else 's'}",
                start=_address(point.start),
                finish=_address(point.start + span - 1),
                events=point.events,
            )
        )
    events = sum(point.events for point in timeline.points)
    return Chart(bars, events, highest, _words(first, span), _words(last + span - 1, span), _length(span))


def _address(milliseconds: int) -> str:
    """A time as a page's address has it; a span may reach beyond what is one."""
    try:
        return iso(milliseconds)
    except OverflowError:
        return str(max(min(milliseconds, MAX_SAFE_INTEGER), -MAX_SAFE_INTEGER))


def _words(milliseconds: int, span: int) -> str:
    """A time, as exactly as spans of this length need it."""
    try:
        shown = iso(milliseconds).replace("T", " ")
    except OverflowError:
        return f"{milliseconds:,} ms"
    return shown[:10] if span >= _DAY else shown[:16] if span >= 60_000 else shown


def _length(span: int) -> str:
    """The length of a span in words."""
    for size, name in ((_DAY, "day"), (3_600_000, "hour"), (60_000, "minute"), (1000, "second")):
        if span % size == 0:
            count = span // size
            return name if count == 1 else f"{count:,} {name}s"
    return f"{span:,} ms"
