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
import threading
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.servers import keep_servers

ROOT = Path(__file__).parents[2]
FAULTS = ROOT / "tests" / "mutants.toml"
COPIED = ("src", "tests", "pyproject.toml")
PATIENCE = 120
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


def changed(mutant: Mutant, path: Path) -> str:
    """The text of a file with the fault. Raises WrongEntryError."""
    text = path.read_text() if path.exists() else ""
    if (count := text.count(mutant.old)) != 1:
        raise WrongEntryError(f"the text stands {count} times in {mutant.file}")
    return text.replace(mutant.old, mutant.new)


class Tree:
    """A copy of the code and its tests, for one fault at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, folder / name)

    def run(self, test: tuple[str, ...]) -> int:
        """Run a test on this code; pytest's exit status."""
        words = [
            sys.executable,
            "-m",
            "pytest",
            "--quiet",
            "-x",
            "-p",
            "no:cacheprovider",
            "-m",
            ASKED,
            *test,
        ]
        environment = os.environ | {"PYTHONPATH": str(self._folder / "src")}
        with subprocess.Popen(
            words, cwd=self._folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as child:
            try:
                return child.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                child.kill()
                return FAILED

    @contextmanager
    def having(self, mutant: Mutant) -> Iterator[None]:
        """With a fault. Raises WrongEntryError where its text does not stand in its file exactly once."""
        path = self._folder / "src" / "eventferry" / mutant.file
        text = changed(mutant, path)
        right = path.read_text()
        self._write(path, text)
        try:
            yield
        finally:
            self._write(path, right)

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text)
        # Python would take what it compiled in the same second for that of this text.
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            compiled.unlink()


class Judge:
    """Judges faults, in several threads at once, each with a tree of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own = threading.local()
        self._passing: dict[tuple[str, ...], bool] = {}

    def __call__(self, mutant: Mutant) -> tuple[str | None, float]:
        """What is wrong with an entry, None for a fault that its test catches; and the seconds that it took."""
        begun = time.monotonic()
        return self._problem(mutant), time.monotonic() - begun

    @property
    def _tree(self) -> Tree:
        if not hasattr(self._own, "tree"):
            self._own.tree = Tree(self._folder / str(threading.get_ident()))
        tree: Tree = self._own.tree
        return tree

    def _problem(self, mutant: Mutant) -> str | None:
        tree, test = self._tree, mutant.test
        if test not in self._passing:
            self._passing[test] = tree.run(test) == 0
        if not self._passing[test]:
            return "its test does not pass without the fault"
        try:
            with tree.having(mutant):
                status = tree.run(test)
        except WrongEntryError as error:
            return str(error)
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
    wrong = 0
    keeper = keep_servers()  # for all of them: starting servers takes longer than most tests
    try:
        with (
            tempfile.TemporaryDirectory(prefix="eventferry-mutants-") as folder,
            ThreadPoolExecutor(os.cpu_count()) as pool,
        ):
            for mutant, (problem, seconds) in zip(chosen, pool.map(Judge(Path(folder)), chosen), strict=True):
                wrong += problem is not None
                print(f"{problem or 'caught'}: {mutant} {seconds:.0f} s", flush=True)
    finally:
        if keeper.stdin is not None:
            keeper.stdin.close()
    print(f"{len(chosen) - wrong} of {len(chosen)} caught")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
