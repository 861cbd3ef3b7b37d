"""Whose process this is."""

from __future__ import annotations

import gc
import sys

is_ours = False
"""Whether only eventferry runs in this process. Then a store in a SQLite file may use a faster library than Python's:
see `eventferry.databases.sqlite.library`."""


def make_ours() -> None:
    """Say that only eventferry runs in this process, as its command does; before anything else of it is imported."""
    global is_ours
    is_ours = True
    # Rows come by the thousand and go by their count of references: to look for cycles among them every 700 objects
    # takes a tenth of an import.
    gc.set_threshold(50_000, 50, 50)
    # A database's thread has little to do in Python: to hand out rows or to take an answer. To wait five milliseconds
    # for the parser each time takes a twentieth of an import.
    sys.setswitchinterval(0.001)
