"""Whose process this is, and what is left to it."""

from __future__ import annotations

import errno
import gc
import os
import sys

is_ours = False
"""Whether only eventferry runs in this process. Then a store in a SQLite file may use a faster library than Python's:
see `eventferry.databases.sqlite.library`."""


def make_ours() -> None:
    """Say that only eventferry runs in this process, as its command does; before anything else of it is imported."""
    global is_ours
    is_ours = True
    # A standard file that is closed leaves its number to whatever is opened next: to a store, which would then be
    # written over by what is meant for /dev/stdout. What takes its place can be neither read nor written.
    for number, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)
    # Rows come by the thousand and go by their count of references: to look for cycles among them every 700 objects
    # takes a tenth of an import.
    gc.set_threshold(50_000, 50, 50)
    # A database's thread has little to do in Python: to hand out rows or to take an answer. To wait five milliseconds
    # for the parser each time takes a twentieth of an import.
    sys.setswitchinterval(0.001)


def files_are_used_up() -> bool:
    """Whether the few files that opening a store takes cannot be opened, for want of numbers and not of rights."""
    opened: list[int] = []
    try:
        for _ in range(4):
            descriptor = os.open(os.devnull, os.O_RDONLY)
            opened.append(descriptor)
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return False
