"""Writes docs/benchmarks.md from a run's results: python -m benchmarks.write_docs results.json."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"

HEAD = """# Benchmarks

Beside the real reSolve (`@resolve-js/eventstore-lite` 0.34.3), on the same events of about 320 bytes, in one run, in
turns. This page is written by the benchmark's own run; nobody types its numbers. To repeat it (it needs Node and npm):

    python -m benchmarks.first_word --json results.json && python -m benchmarks.write_docs results.json

What is measured, and how: [benchmarks/README.md](../benchmarks/README.md). Compare the ratios; the seconds are those of
one machine. Tuning to the limit, the other databases and their own bulk tools come with an issue of their own.
"""


def page(results: dict[str, Any]) -> str:
    """The page for one run's results."""
    measured = results["measurements"]
    rates = {
        (each["side"], each["operation"], each["stored"]): each["events_per_second"] for each in measured
    }
    rows = ["| operation | events stored | side | events/s | seconds | runs | peak MB | ours / theirs |"]
    rows.append("| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for each in measured:
        theirs = rates.get(("reSolve", each["operation"], each["stored"]))
        rate = each["events_per_second"]
        ratio = f"{rate / theirs:.1f}" if theirs and each["side"] != "reSolve" else ""
        cells = (
            each["operation"],
            f"{each['stored']:,}",
            each["side"],
            f"{rate:,}",
            f"{median(each['seconds']):.2f}",
            str(len(each["seconds"])),
            f"{each['peak_mb']:.0f}",
            ratio,
        )
        rows.append(f"| {' | '.join(cells)} |")
    targets = ["| target | wanted | measured | |", "| --- | ---: | ---: | --- |"]
    for target in results["targets"]:
        sign = "≥" if target["at_least"] else "≤"
        met = "met" if target["is_met"] else "**missed**"
        targets.append(
            f"| {target['words']} | {sign} {target['wanted']:g} | {target['measured']:.2f} | {met} |"
        )
    about = results["about"]
    where = (
        f"Measured {about['at'][:10]} on {about['cores']} cores, Python {about['python']}, SQLite {about['sqlite']}, "
        f"Node {about['node']}; load before it began: {about['load_before']:.1f}."
    )
    return "\n".join([HEAD, *rows, "", *targets, "", where, ""])


if __name__ == "__main__":
    PAGE.write_text(page(json.loads(Path(sys.argv[1]).read_text())))
