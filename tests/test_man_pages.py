"""The manual pages: one for every command, without an error of roff, as `man` shows them."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from eventferry.cli import cli

MAN = Path(__file__).parent.parent / "man"
PAGES = sorted(MAN.glob("*.1"))


def test_every_command_has_a_page() -> None:
    assert {f"eventferry-{name}.1" for name in cli.commands} < {page.name for page in PAGES}


def test_the_pages_are_roff_without_a_warning() -> None:
    ended = subprocess.run(["groff", "-man", "-ww", "-Tutf8", *PAGES], capture_output=True, check=True)
    assert ended.stderr.decode() == ""
    assert "```" not in ended.stdout.decode()


def shown(page: str) -> str:
    """What `man` shows of a page."""
    ended = subprocess.run(
        ["man", "-l", str(MAN / f"{page}.1")],
        env=os.environ | {"MANWIDTH": "100", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        check=True,
    )
    return ended.stdout.decode()


def test_man_shows_what_the_reference_says() -> None:
    main, copy = shown("eventferry"), shown("eventferry-copy")
    assert "password_command = " in main
    assert re.search(r"141 +broken pipe", main)
    assert "eventferry-copy - Replace a store's events by another store's" in copy
    assert re.search(r"--replace\s+Allow replacing", copy)
    assert re.search(r"-q, --quiet\s+Say +nothing", copy)
    assert "$ eventferry copy store.db second.db --replace" in copy
