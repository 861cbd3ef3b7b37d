"""Puts known faults into a copy of the code, one at a time, and expects the test that catches each to fail.

python -m tests.support.mutants [NAME …]. The faults stand in tests/mutants.toml; docs/guarantees.md tells of them.
A text that no longer stands in its file is an error: the entry has to follow the code.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FAULTS = ROOT / "tests" / "mutants.toml"
COPIED = ("src", "tests", "pyproject.toml")
PATIENCE = 300
"""Seconds for a test, which by a fault may wait for ever: that is caught too."""

ASKED = "not scale and not storm and not package"
"""What a test may be marked with to be run; an entry may say otherwise."""

FAILED = 1  # of pytest's exit statuses: tests ran, and some failed


@dataclass(frozen=True)
class Mutant:
    """A fault.

    Attributes:
        name: what it is called on the command line.
        fault: what is wrong, in words.
        file: below src/eventferry.
        old, new: the exact text, which stands there once, and what replaces it.
        test: pytest's words for the test that must fail.
    """

    name: str
    fault: str
    file: str
    old: str
    new: str
    test: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} ({self.fault})"


class WrongEntryError(Exception):
    """An entry does not fit the code."""


def read_mutants() -> list[Mutant]:
    """All entries, in the order of the file."""
    entries = tomllib.loads(FAULTS.read_text())
    return [Mutant(name, **entry | {"test": tuple(entry["test"])}) for name, entry in entries.items()]


def put_in(mutant: Mutant, tree: Path) -> None:
    """Replace the text. Raises WrongEntryError where it does not stand in its file exactly once."""
    path = tree / "src" / "eventferry" / mutant.file
    path.write_text(changed(mutant, path))


def changed(mutant: Mutant, path: Path) -> str:
    """The text of a file with the fault. Raises WrongEntryError."""
    text = path.read_text() if path.exists() else ""
    if (count := text.count(mutant.old)) != 1:
        raise WrongEntryError(f"the text stands {count} times in {mutant.file}")
    return text.replace(mutant.old, mutant.new)


def run(test: tuple[str, ...], tree: Path) -> int:
    """Run a test of a tree on that tree's code; pytest's exit status."""
    words = [sys.executable, "-m", "pytest", "--quiet", "-x", "-p", "no:cacheprovider", "-m", ASKED, *test]
    environment = os.environ | {"PYTHONPATH": str(tree / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        words, cwd=tree, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as child:
        try:
            return child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            child.kill()
            return FAILED


def copy(folder: Path) -> Path:
    """A copy of the code and its tests."""
    tree = folder / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tree / name)
    return tree


def judged(mutant: Mutant, folder: Path, passing: dict[tuple[str, ...], bool]) -> str | None:
    """What is wrong with an entry, if something is; None for a fault that its test catches."""
    tree = copy(folder)
    if mutant.test not in passing:
        passing[mutant.test] = run(mutant.test, tree) == 0
    if not passing[mutant.test]:
        return "its test does not pass without the fault"
    try:
        put_in(mutant, tree)
    except WrongEntryError as error:
        return str(error)
    status = run(mutant.test, tree)
    if status == 0:
        return "SURVIVED"
    return None if status == FAILED else f"pytest ended with status {status}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/mutants", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="these only")
    options = parser.parse_args()
    mutants = read_mutants()
    unknown = set(options.names) - {mutant.name for mutant in mutants}
    if unknown:
        parser.error(f"no such mutant: {', '.join(sorted(unknown))}")
    chosen = [mutant for mutant in mutants if not options.names or mutant.name in options.names]
    passing: dict[tuple[str, ...], bool] = {}
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="eventferry-mutants-") as folder:
        for mutant in chosen:
            begun = time.monotonic()
            problem = judged(mutant, Path(folder), passing)
            wrong += problem is not None
            print(f"{problem or 'caught'}: {mutant} {time.monotonic() - begun:.0f} s", flush=True)
    print(f"{len(chosen) - wrong} of {len(chosen)} caught")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
