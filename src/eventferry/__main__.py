"""The command `eventferry`, also `python -m eventferry`."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn


def run() -> None:
    """Run the command line and exit with its exit status."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        # The first process of a container has no default action for signals: without a handler it would ignore them.
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _end)
    try:
        from eventferry.processes import own

        own.make_ours()
        from eventferry.cli import main

        status = main()
    except KeyboardInterrupt:
        status = 130
    except ImportError as error:
        if error.name != "click":
            raise
        sys.exit("eventferry: the command line needs the extra 'cli': pip install 'eventferry[cli]'")
    _leave()
    sys.exit(status)


def _end(number: int, _: object) -> NoReturn:
    _leave()
    sys.exit(128 + number)


def _leave() -> None:
    """From now on a signal ends the process at once: an exception would be printed by whatever is being cleared up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, _: os._exit(128 + number))


if __name__ == "__main__":
    run()
