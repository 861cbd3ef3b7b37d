"""Events over time as a line of blocks, and as an SVG picture."""

from __future__ import annotations

from eventferry.clock import iso
from eventferry.looking.counting import Timeline

_BLOCKS = "▁▂▃▄▅▆▇█"
_WIDTH, _HEIGHT, _BELOW, _LEFT = 800, 200, 30, 70
_MOST_BARS = 400


def bars(timeline: Timeline, most: int) -> list[int]:
    """The events of equal spans of time from the first point to the last, `most` of them at most."""
    if not timeline.points:
        return []
    first, last = timeline.points[0].start, timeline.points[-1].start
    count = (last - first) // timeline.span + 1
    together = -(-count // most)
    found = [0] * -(-count // together)
    for point in timeline.points:
        found[(point.start - first) // timeline.span // together] += point.events
    return found


def sparkline(timeline: Timeline, width: int) -> str:
    """Events over time in one line of at most so many characters. A span without events is a space."""
    heights = bars(timeline, width)
    highest = max(heights, default=0)
    return "".join(_BLOCKS[-(-each * len(_BLOCKS) // highest) - 1] if each else " " for each in heights)


def svg(timeline: Timeline) -> str:
    """Events over time as a picture, in light and dark."""
    heights = bars(timeline, _MOST_BARS)
    highest = max(heights, default=0)
    step = _WIDTH / max(len(heights), 1)
    drawn = [
        f'<rect x="{_LEFT + place * step:.2f}" y="{_HEIGHT * (1 - each / highest):.2f}" '
        f'width="{max(step * 0.9, 0.5):.2f}" height="{_HEIGHT * each / highest:.2f}"/>'
        for place, each in enumerate(heights)
        if each
    ]
    begin, end = ("", "")
    if timeline.points:
        begin, end = (_day(timeline.points[place].start) for place in (0, -1))
    events = sum(heights)
    right, bottom = _LEFT + _WIDTH, _HEIGHT + _BELOW
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 -10 {right + 10} {bottom + 10}" role="img">
<title>{events:,} events over time</title>
<style>text {{ font: 13px sans-serif; fill: #555 }} rect {{ fill: #2a6fb0 }} line {{ stroke: #999 }}
@media (prefers-color-scheme: dark) {{ text {{ fill: #bbb }} rect {{ fill: #6aaee6 }} }}</style>
<line x1="{_LEFT}" y1="{_HEIGHT}" x2="{right}" y2="{_HEIGHT}"/>
<text x="{_LEFT - 8}" y="5" text-anchor="end">{highest:,}</text>
<text x="{_LEFT - 8}" y="{_HEIGHT}" text-anchor="end">0</text>
<text x="{_LEFT}" y="{bottom - 10}">{begin}</text>
<text x="{right}" y="{bottom - 10}" text-anchor="end">{end}</text>
{"".join(drawn)}
</svg>
"""


def _day(milliseconds: int) -> str:
    try:
        return iso(milliseconds)[:16].replace("T", " ")
    except OverflowError:
        return str(milliseconds)
