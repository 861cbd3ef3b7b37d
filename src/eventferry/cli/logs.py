"""-v and --log-format: the operation log on standard error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from eventferry.cli.terminal import say

if TYPE_CHECKING:
    import logging

_LEVELS = ("WARNING", "INFO", "DEBUG")
_KEY = "eventferry.log"
_FORMAT = "eventferry.log-format"


def logged(command: click.Command) -> click.Command:
    """Add the log options to a command, or to all commands of a group."""
    command.params += [
        click.Option(
            ["-v", "--verbose"],
            count=True,
            expose_value=False,
            callback=_verbose,
            help="Log operations; -vv also logs when they begin, and saves.",
        ),
        click.Option(
            ["--log-format"],
            type=click.Choice(["text", "json"]),
            expose_value=False,
            callback=_format,
            help="Format of the log.",
        ),
    ]
    for each in command.commands.values() if isinstance(command, click.Group) else ():
        logged(each)
    return command


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
    """Print a message; as a log record if the log is in JSON."""
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
