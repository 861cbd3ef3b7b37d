"""The command `eventferry`, also `python -m eventferry`."""

from __future__ import annotations

import signal
import sys


def run() -> None:
    """Run the command line and exit with its exit status."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        # The first process of a container has no default action for signals: without a handler it would ignore them.
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, lambda number, _: sys.exit(128 + number))
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
    sys.exit(status)


if __name__ == "__main__":
    run()
