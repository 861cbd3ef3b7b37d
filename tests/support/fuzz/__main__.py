"""The fuzzer: `python -m tests.support.fuzz TARGET [--runs N] [--seconds S] [--seed S]`, which `scripts/fuzz` runs.

It is atheris (libFuzzer for Python), which looks which branches of eventferry an input takes and changes those that
take new ones. What it finds stays in build/fuzz; `--keep` takes the fewest of these inputs that take all branches into
tests/fuzz/corpus. An input that fails stands there as crash-…: it goes into the corpus together with the correction.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore]

CORPUS = Path(__file__).parents[2] / "fuzz" / "corpus"
WORK = Path("build/fuzz")
LARGEST = 4096
"""Bytes in an input."""
MOST_FILES = 45
"""In the corpus of a target."""

with atheris.instrument_imports(include=["eventferry"]):
    from tests.support.fuzz.targets import TARGETS

WORDS = (
    *('"threadCounter":', '"threadId":', '"type":', '"timestamp":', '"aggregateId":', '"aggregateVersion":'),
    *(
        '"payload":',
        "null",
        "true",
        "1e400",
        "-0",
        "1.0",
        "\\\\u0000",
        "\\\\ud800",
        "\\\\udef3",
        "\\xef\\xbb\\xbf",
    ),
    *(
        '{"type":"T","timestamp":1,"aggregateId":"a","payload":',
        "\\x0a",
        "[[[[[[[[",
        "]]]]]]]]",
        "1e9999999999",
    ),
)


def main() -> None:
    """Fuzz a target."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.fuzz")
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--runs", type=int, default=-1, help="end after so many inputs")
    parser.add_argument("--seconds", type=int, default=0, help="end after so many seconds")
    parser.add_argument("--seed", type=int, default=0, help="repeats a run; it is printed if not given")
    parser.add_argument("--keep", action="store_true", help="take what was found into the corpus, and end")
    given = parser.parse_args()
    work = WORK / given.target
    work.mkdir(parents=True, exist_ok=True)
    if given.keep:
        keep(given.target, work)
        return
    seed = given.seed or random.randrange(1, 2**31)
    print(f"seed {seed}", file=sys.stderr, flush=True)
    words = WORK / "words"
    words.write_text("".join('"{}"\n'.format(word.replace('"', '\\"')) for word in WORDS))
    folders = [str(folder) for folder in (work, CORPUS / given.target) if folder.is_dir()]
    atheris.Setup(
        [
            sys.argv[0],
            *folders,
            f"-seed={seed}",
            f"-runs={given.runs}",
            f"-max_total_time={given.seconds}",
            f"-max_len={LARGEST}",
            f"-dict={words}",
            f"-artifact_prefix={work}/",
            "-timeout=20",
            "-rss_limit_mb=1024",
            "-print_final_stats=1",
            "-reload=0",
        ],
        TARGETS[given.target],
    )
    atheris.Fuzz()


def keep(target: str, work: Path) -> None:
    """Of all inputs take the fewest, and of those the shortest, that together take every branch."""
    inputs = [
        path.read_bytes()
        for folder in (CORPUS / target, work)
        if folder.is_dir()
        for path in folder.iterdir()
    ]
    branches = {
        data: branches_of(target, data) for data in sorted(set(inputs), key=len) if len(data) <= LARGEST
    }
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("[0-9][0-9]"):
        path.unlink()
    seen: set[Any] = set()
    for number in range(MOST_FILES):
        best = max(branches, key=lambda data: len(branches[data] - seen) / (20 + len(data)), default=b"")
        if not branches.get(best, set()) - seen:
            break
        seen |= branches[best]
        (folder / f"{number:02}").write_bytes(best)
    print(f"{target}: {len(branches)} inputs, {len(list(folder.iterdir()))} kept, {len(seen)} branches")


def branches_of(target: str, data: bytes) -> set[tuple[CodeType, int, int, int]]:
    """Which line of eventferry follows on which, and roughly how often."""
    found: Counter[tuple[CodeType, int, int]] = Counter()

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if "eventferry/" not in frame.f_code.co_filename:
            return None
        last = 0

        def step(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal last
            found[frame.f_code, last, frame.f_lineno] += 1
            last = frame.f_lineno
            return step

        return step

    sys.settrace(trace)
    try:
        TARGETS[target](data)
    finally:
        sys.settrace(None)
    return {(*branch, min(count.bit_length(), 4)) for branch, count in found.items()}


if __name__ == "__main__":
    main()
