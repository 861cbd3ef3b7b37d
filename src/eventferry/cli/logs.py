"""The options of every command: -q, and the operation log on standard error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from eventferry.cli.commands import GENERAL, Option
from eventferry.cli.terminal import QUIET, say

if TYPE_CHECKING:
    import logging

_LEVELS = ("WARNING", "INFO", "DEBUG")
_KEY = "eventferry.log"
_FORMAT = "eventferry.log-format"


def with_messages(command: click.Command) -> click.Command:
    """Add these options to a command, or to all commands of a group."""
    added = [
        Option(
            ["-q", "--quiet"],
            is_flag=True,
            expose_value=False,
            callback=_quiet,
            help="Say nothing unless something is wrong, and show no progress. Data and --json are printed.",
        ),
        Option(
            ["-v", "--verbose"],
            count=True,
            expose_value=False,
            callback=_verbose,
            help="Log operations; -vv also logs when they begin, and saves.",
        ),
        Option(
            ["--log-format"],
            type=click.Choice(["text", "json"]),
            expose_value=False,
            callback=_format,
            help="Format of the log.",
        ),
    ]
    for each in added:
        each.section = GENERAL
    command.params += added
    for below in command.commands.values() if isinstance(command, click.Group) else ():
        with_messages(below)
    return command


def _quiet(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        context.find_root().meta[QUIET] = True


def _verbose(context: click.Context, _: click.Parameter, count: int) -> None:
    if count:
        handler = _handler(context)
        level = _LEVELS[min(count, len(_LEVELS) - 1)]
        import logging

        handler.setLevel(level)
        logging.getLogger("eventferry").setLevel(level)


def _format(context: click.Context, _: click.Parameter, name: str | None) -> None:
    if name is not None:
        context.find_root().meta[_FORMAT] = name
        _handler(context).setFormatter(formatter(context))


def formatter(context: click.Context) -> logging.Formatter:
    """The log formatter of this run."""
    from eventferry.cli.records import JSON, TEXT

    return JSON if context.find_root().meta.get(_FORMAT) == "json" else TEXT


def announce(context: click.Context, message: str) -> None:
    """Print a message, with --quiet too; as a log record if the log is in JSON."""
    if context.find_root().meta.get(_FORMAT) == "json":
        import logging

        message = formatter(context).format(
            logging.LogRecord("eventferry", logging.INFO, "", 0, message, None, None)
        )
    say(message)


def _handler(context: click.Context) -> logging.Handler:
    """The log handler of this run, created at first use."""
    root = context.find_root()
    if _KEY not in root.meta:
        import logging

        from eventferry.cli.records import Said

        log, handler = logging.getLogger("eventferry"), Said(logging.WARNING)
        handler.setFormatter(formatter(context))
        log.addHandler(handler)
        root.meta[_KEY] = handler
        root.call_on_close(lambda: log.removeHandler(handler))
        root.call_on_close(lambda: log.setLevel(logging.NOTSET))
    found: logging.Handler = root.meta[_KEY]
    return found
