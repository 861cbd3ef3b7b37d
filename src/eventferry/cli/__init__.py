"""The command line: a thin layer over the library, with the same names.

Data goes to standard output, messages to standard error. Exit status: 0 success; 1 failed, refused or unequal;
2 usage error; 3 success, but older events were skipped (--fail-if-skipped); 129, 130 and 143 ended by SIGHUP, Ctrl-C
and SIGTERM; 141 broken pipe.
"""

from __future__ import annotations

import io
import os
import sys

import click

import eventferry
from eventferry.cli import (
    archiving,
    backups,
    checks,
    completing,
    console,
    erasing,
    events,
    following,
    foreign,
    incremental,
    looking,
    parts,
    repositories,
    secrets,
    service,
    stores,
    syncing,
)
from eventferry.cli.commands import SETTINGS, Group
from eventferry.cli.completing import INSTRUCTION, complete
from eventferry.cli.logs import with_messages
from eventferry.cli.options import shown
from eventferry.cli.terminal import forget, say
from eventferry.errors import EventferryError, UsageError
from eventferry.visible import respelling


@click.group(cls=Group, context_settings=SETTINGS)
@click.version_option(eventferry.__version__)
def cli() -> None:
    """Move events between event stores without losing or duplicating any.

    A STORE is a URL (sqlite:///relative.db, sqlite:////absolute.db, postgresql://host/database,
    mysql://host/database), a path ending in .db, .sqlite or .sqlite3, or a name in the configuration file.
    SRC and DEST are JSON Lines files (.gz and .zst are compressed), or - for standard input and output.
    """


cli.add_section(
    "Events",
    events.export,
    events.import_,
    events.copy,
    incremental.incremental_import,
    incremental.incremental,
    parts.parts,
    syncing.sync,
    syncing.cutover,
    erasing.erase,
)
cli.add_section(
    "Look at events",
    looking.stats,
    events.events,
    following.follow,
    looking.tail,
    looking.show,
    looking.search,
    looking.trace,
    looking.find_poison,
    looking.mcp,
    checks.verify,
    looking.diff,
)
cli.add_section(
    "Stores",
    stores.init,
    stores.describe,
    stores.freeze,
    stores.unfreeze,
    stores.upgrade,
    stores.drop,
    stores.stores,
)
cli.add_section("Backups", backups.backup, repositories.restore, archiving.archive)
cli.add_section("Secrets", secrets.export_secrets, secrets.import_secrets)
cli.add_section("Over HTTP", service.serve, console.console, service.token)
cli.add_section("More", foreign.sources, completing.completion, checks.demo)
with_messages(cli)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit status. Never prints a traceback."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if INSTRUCTION in os.environ:
            return complete(cli, os.environ[INSTRUCTION])
        # Not cli.main(): that hides a broken pipe, and treats an end of file as Ctrl-C.
        with cli.make_context("eventferry", list(given)) as context:
            cli.invoke(context)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except (KeyboardInterrupt, click.exceptions.Abort):
        say("eventferry: interrupted")
        return 130
    except click.ClickException as error:
        words = io.StringIO()
        error.show(words)
        for message in words.getvalue().rstrip("\n").split("\n"):
            say(_without_passwords(message, given))
        return error.exit_code
    except BrokenPipeError:
        forget(sys.stdout)
        return 141
    except (OSError, EventferryError) as error:
        if isinstance(error, OSError):
            forget(sys.stdout)
        _tell(error, given)
        return 2 if isinstance(error, UsageError) else 1
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except Exception as error:
        if os.environ.get("EVENTFERRY_TRACEBACK"):
            raise
        say(
            f"eventferry: this should not happen: {type(error).__name__}: {_without_passwords(str(error), given)} "
            "(please report it; EVENTFERRY_TRACEBACK=1 shows the traceback)"
        )
        return 1
    return 0


_FLAGS = ("replace", "freeze", "resume", "allow_empty", "without_erasures")
_OPTIONS = {
    "start_time": "--from",
    "finish_time": "--until",
    "event_types": "--type",
    "exclude_types": "--exclude-type",
    "aggregate_ids": "--aggregate-id",
    "aggregate_prefixes": "--aggregate-prefix",
    "keep_positions": "--keep-positions",
    "ignore_unknown_keys": "--ignore-unknown-keys",
}
_respelled = respelling(
    {f"{name}=True": f"--{name.replace('_', '-')}" for name in _FLAGS}
    | _OPTIONS
    | {f"{name}=True": option for name, option in _OPTIONS.items()}
    | {"mode='merge'": "--merge", "same_aggregate=": "--same-aggregate="}
)
"""Spells the library's parameters in a message as the command's options."""


def _without_passwords(message: str, given: list[str]) -> str:
    """A message that may repeat arguments, whoever wrote it: without what may be a password in them."""
    for argument in given:
        # Of an option and its value in one word, the value is repeated.
        values = (argument, argument.partition("=")[2], argument[2:]) if argument[:1] == "-" else (argument,)
        for value in values:
            if (instead := shown(value)) != value:
                message = message.replace(value, instead).replace(repr(value)[1:-1], instead)
    return message


def _tell(error: Exception, given: list[str]) -> None:
    """Print an error, and what else went wrong because of it, with the command's options in place of the library's
    parameters."""
    # A note of several lines is the traceback of a function of the user's.
    notes = [note for note in getattr(error, "__notes__", ()) if "\n" not in note]
    for message in (str(error), *notes):
        say(f"eventferry: {_respelled(_without_passwords(message, given))}")
