"""The command line: a thin layer over the library, with the same words.

Data goes to standard output, words to standard error. Exit status: 0 done; 1 failed, refused or unequal;
2 wrong usage; 3 done, but older events were skipped (--fail-if-skipped); 129, 130 and 143 ended by SIGHUP, Ctrl-C and
SIGTERM; 141 the reader of a pipe has gone.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys

import click

import eventferry
from eventferry.cli import checks, events, incremental, secrets, service, stores
from eventferry.cli.logs import logged
from eventferry.cli.terminal import say
from eventferry.errors import EventferryError, UsageError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(eventferry.__version__)
def cli() -> None:
    """Move events between event stores, without losing or doubling one.

    A STORE is a URL (sqlite:///relative.db, sqlite:////absolute.db, postgresql://host/database,
    mysql://host/database) or a path ending in .db, .sqlite or .sqlite3.
    SRC and DEST are files of lines (.gz and .zst are packed and unpacked), or - for standard input and output.
    """


for command in (
    stores.init,
    stores.drop,
    stores.describe,
    stores.freeze,
    stores.unfreeze,
    stores.upgrade,
    events.events,
    events.export,
    events.import_,
    events.copy,
    incremental.incremental_import,
    incremental.incremental,
    secrets.export_secrets,
    secrets.import_secrets,
    checks.verify,
    service.serve,
    service.token,
    checks.demo,
):
    cli.add_command(command)
logged(cli)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status. Never a traceback."""
    try:
        # Not cli.main(): that keeps a closed pipe to itself, and takes an end of file for Ctrl-C.
        with cli.make_context(
            "eventferry", sys.argv[1:] if arguments is None else list(arguments)
        ) as context:
            cli.invoke(context)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except (KeyboardInterrupt, click.exceptions.Abort):
        return _interrupted()
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        for words in shown.getvalue().rstrip("\n").split("\n"):
            say(words)
        return error.exit_code
    except UsageError as error:
        _tell(error)
        return 2
    except BrokenPipeError:
        _forget_output()
        return 141
    except OSError as error:
        _forget_output()
        _tell(error)
        return 1
    except EventferryError as error:
        _tell(error)
        return 1
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except Exception as error:
        if os.environ.get("EVENTFERRY_TRACEBACK"):
            raise
        say(
            f"eventferry: this should not happen: {type(error).__name__}: {error} "
            "(EVENTFERRY_TRACEBACK=1 shows where; please report it)"
        )
        return 1
    return 0


_OPTIONS = {
    "ignore_unknown_keys drops such keys": "--ignore-unknown-keys drops such keys",
    "allow_empty (--allow-empty) empties it": "--allow-empty empties it",
    "with freeze to keep writers out": "with --freeze to keep writers out",
    "without resume to begin anew": "without --resume to begin anew",
    "start_time is later than finish_time": "--from is later than --until",
    "each of event_types holds": "--type holds",
    "each of aggregate_ids holds": "--aggregate-id holds",
    " (the setting max_line_bytes)": "",
}
"""Words of the library's errors that name an option of its own, and those that name the command's."""


def _tell(error: Exception) -> None:
    words = str(error)
    for ours, theirs in _OPTIONS.items():
        words = words.replace(ours, theirs)
    say(f"eventferry: {words}")


def _forget_output() -> None:
    """Nobody takes the output any more: what Python would still flush at its end goes nowhere."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _interrupted() -> int:
    say("eventferry: interrupted")
    return 130
