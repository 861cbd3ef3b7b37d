"""Settings of the command's own process, which a caller's process must not get."""

from __future__ import annotations

import errno
import gc
import os
import sys

is_ours = False
"""Whether only eventferry runs in this process. Then a SQLite store may use a faster library than Python's: see
`eventferry.databases.sqlite.library`."""


def make_ours() -> None:
    """Set up a process in which only eventferry runs. Must be called before anything else of eventferry is imported."""
    global is_ours
    is_ours = True
    # If a standard file is closed, the next opened file gets its number: a store would be overwritten by output for
    # /dev/stdout. The replacement can be neither read nor written.
    for number, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)
    # Thousands of rows are created, and freed by reference counting: looking for cycles every 700 objects takes a tenth
    # of an import.
    gc.set_threshold(50_000, 50, 50)
    # The worker thread of a database needs Python only briefly, to pass rows or to receive a result. Waiting five
    # milliseconds for the parser each time takes a twentieth of an import.
    sys.setswitchinterval(0.001)


def files_are_used_up() -> bool:
    """Whether this process has too many open files, and cannot open the few that a store needs."""
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
