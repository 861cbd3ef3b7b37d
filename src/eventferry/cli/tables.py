"""Tables for people, on standard output."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Iterable, Sequence

from eventferry.cli.output import print_data
from eventferry.visible import visible

WIDE = 160
"""Columns where standard output is no terminal."""


def width() -> int:
    """The columns of a line."""
    return shutil.get_terminal_size().columns if is_shown() else WIDE


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table. Numbers stand at the right; what does not fit is cut."""
    # Imported only here: it takes longer than many commands.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = list(rows)
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for place, name in enumerate(columns):
        is_number = bool(rows) and all(isinstance(row[place], int) for row in rows)
        table.add_column(name, justify="right" if is_number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(f"{cell:,}" if isinstance(cell, int) else visible(str(cell))) for cell in row))
    drawn = io.StringIO()
    Console(file=drawn, force_terminal=is_shown(), width=width()).print(table)
    for line in drawn.getvalue().split("\n"):
        print_data(line.rstrip().encode())


def is_shown() -> bool:
    """Whether standard output is a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()
