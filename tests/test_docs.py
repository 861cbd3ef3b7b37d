"""The examples of the documentation run, so they cannot rot.

The convention, for every fenced block of docs/*.md and README.md:

- The blocks of one page share one fresh directory and run in their order. Between blocks only files last.
- A block marked `python` is a whole script, run as a process of its own. A block marked `output` right behind it is
  what it prints.
- A block marked `console` is one session of bash: lines behind `$ ` are commands, lines behind `> ` go on with the
  command above, and the rest is what the command prints, standard output and standard error together. Variables last
  to the end of the block. Every command must end with status 0; with `console status=1` the last one with 1.
- In what is shown, `...` stands for anything within its line; a line of only `...` for any lines, or none.
- Blocks with other marks (`sh`, `text`, `json`) are for the reader and do not run.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [page for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))] if page.exists()]
ABOUT_PRODUCTS = {f"moving-from-{product}.md" for product in ("castore", "emmett", "message-db")}
"""Pages that need a store of another product, at the place that the variable SOURCE names: tests/interop runs them."""

ABOUT_SPARK = "spark.md"
"""It needs PySpark and Java: tests/spark runs it."""

PATIENCE = 600
END = "\x1e end of a command, status"
FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass
class Block:
    """A fenced block: its mark, its text, and the page's line where it begins."""

    info: list[str]
    text: str
    line: int

    @property
    def language(self) -> str:
        return self.info[0] if self.info else ""


@dataclass
class Command:
    """A command of a console block and what the page says it prints."""

    text: str
    shown: str = ""
    status: int = 0


@dataclass
class Outcome:
    """What came of a command."""

    status: int
    printed: str


def blocks_of(page: str) -> Iterator[Block]:
    """The fenced blocks of a page."""
    for match in FENCE.finditer(page):
        yield Block(match["info"].split(), match["text"], page.count("\n", 0, match.start()) + 1)


def commands_of(block: Block) -> list[Command]:
    """The commands of a console block."""
    commands: list[Command] = []
    for line in block.text.splitlines(keepends=True):
        if line.startswith("$ "):
            commands.append(Command(line.removeprefix("$ ")))
        elif line.startswith("> ") and commands and not commands[-1].shown:
            commands[-1].text += line.removeprefix("> ")
        else:
            assert commands, f"line {block.line}: a console block begins with a command"
            commands[-1].shown += line
    for mark in block.info[1:]:
        name, _, value = mark.partition("=")
        assert name == "status", f"line {block.line}: {mark!r} is no mark of a console block"
        commands[-1].status = int(value)
    return commands


def pattern(shown: str) -> re.Pattern[str]:
    """What matches the output that a page shows."""
    parts = []
    for line in shown.splitlines():
        if line == "...":
            parts.append(r"(?:[^\n]*\n)*?")
        else:
            parts.append("[^\n]*".join(map(re.escape, line.split("..."))) + "\n")
    return re.compile("".join(parts))


def environment() -> dict[str, str]:
    """The caller's, with this Python and its commands first."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EVENTFERRY_")}
    folder = str(Path(sys.executable).parent)
    return kept | {"PATH": f"{folder}{os.pathsep}{kept.get('PATH', '')}", "PYTHONIOENCODING": "utf-8"}


def run(arguments: list[str], directory: Path, script: str = "") -> subprocess.CompletedProcess[str]:
    """A process with both outputs in one."""
    return subprocess.run(
        arguments,
        cwd=directory,
        env=environment(),
        input=script,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=PATIENCE,
    )


def outcomes_of(commands: list[Command], directory: Path) -> list[Outcome]:
    """Run the commands one after another in one bash, each with nothing on its standard input."""
    script = "exec 2>&1\n" + "".join(
        f"eval {shlex.quote(command.text)} </dev/null\necho {shlex.quote(END)} $?\n" for command in commands
    )
    printed = run(["bash", "-c", script], directory).stdout
    pieces = re.split(rf"{END} (\d+)\n", printed)
    return [Outcome(int(status), text) for text, status in zip(pieces[::2], pieces[1::2], strict=False)]


def check_output(place: str, shown: str, printed: str) -> None:
    whole = f"{printed}\n" if printed and not printed.endswith("\n") else printed
    if not pattern(shown).fullmatch(whole):
        pytest.fail(f"{place}: the page shows\n{shown}\nbut it printed\n{printed}", pytrace=False)


def run_python(block: Block, directory: Path) -> str:
    script = directory / f"line_{block.line}.py"
    script.write_text(block.text, encoding="utf-8")
    try:
        ended = run([sys.executable, script.name], directory)
    finally:
        script.unlink()
    if ended.returncode:
        pytest.fail(f"line {block.line}: status {ended.returncode}\n{ended.stdout}", pytrace=False)
    return ended.stdout


def run_console(block: Block, directory: Path) -> None:
    commands = commands_of(block)
    outcomes = outcomes_of(commands, directory)
    assert len(outcomes) == len(commands), f"line {block.line}: the session ended early"
    for command, outcome in zip(commands, outcomes, strict=True):
        place = f"line {block.line}: $ {command.text.rstrip()}"
        check_output(place, command.shown, outcome.printed)
        if outcome.status != command.status:
            pytest.fail(f"{place}: status {outcome.status}, not {command.status}", pytrace=False)


def test_the_references_say_what_the_code_does() -> None:
    checked = run([sys.executable, str(ROOT / "scripts" / "write-docs"), "--check"], ROOT)
    assert checked.returncode == 0, f"{checked.stdout}Run: .venv/bin/python scripts/write-docs"


def test_links_between_pages_lead_somewhere() -> None:
    anchors = {page: anchors_of(page.read_text(encoding="utf-8")) for page in PAGES}
    for page in PAGES:
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if "://" not in link:
                name, _, anchor = link.partition("#")
                target = (page.parent / name).resolve() if name else page
                assert target.exists(), f"{page.name}: {link}"
                assert not anchor or anchor in anchors.get(target, ()), f"{page.name}: {link}"


def test_every_page_is_in_the_index_and_in_the_navigation() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    for page in sorted((ROOT / "docs").glob("*.md")):
        if page.name != "index.md":
            assert f"({page.name})" in index, page.name
        assert re.search(rf"[\s\[]{re.escape(page.name)}\b", navigation), page.name


def anchors_of(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#+ (.*)$", FENCE.sub("", page), re.MULTILINE):
        anchor = re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        found[anchor] = found.get(anchor, -1) + 1
        if found[anchor]:
            found[f"{anchor}-{found[anchor]}"] = 0
    return set(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.name not in ABOUT_PRODUCTS | {ABOUT_SPARK}],
    ids=lambda page: page.name,
)
def test_the_examples_of_a_page_run_and_print_what_it_shows(page: Path, tmp_path: Path) -> None:
    run_page(page, tmp_path)


def run_page(page: Path, directory: Path) -> None:
    """Run the examples of a page in a fresh directory."""
    printed: str | None = None  # by the Python block right above, where there is one
    for block in blocks_of(page.read_text(encoding="utf-8")):
        if block.language == "output":
            assert printed is not None, f"line {block.line}: output without a Python block above"
            check_output(f"line {block.line}", block.text, printed)
        printed = None
        if block.language == "python":
            printed = run_python(block, directory)
        elif block.language == "console":
            run_console(block, directory)
