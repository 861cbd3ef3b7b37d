"""-v and --log-format: the log of operations on standard error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import logging

_LEVELS = ("WARNING", "INFO", "DEBUG")
_KEY = "eventferry.log"


def logged(command: click.Command) -> click.Command:
    """Give a command, and those of a group, the options of the log."""
    command.params += [
        click.Option(
            ["-v", "--verbose"],
            count=True,
            expose_value=False,
            callback=_verbose,
            help="Log operations; twice: their beginnings and saves too.",
        ),
        click.Option(
            ["--log-format"],
            type=click.Choice(["text", "json"]),
            expose_value=False,
            callback=_format,
            help="How the log is written.",
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
        from eventferry.cli.records import JSON, TEXT

        _handler(context).setFormatter(JSON if name == "json" else TEXT)


def _handler(context: click.Context) -> logging.Handler:
    """The handler of this run of the command line, made when it is first asked for."""
    root = context.find_root()
    if _KEY not in root.meta:
        import logging

        from eventferry.cli.records import TEXT, Said

        log, handler = logging.getLogger("eventferry"), Said(logging.WARNING)
        handler.setFormatter(TEXT)
        log.addHandler(handler)
        root.meta[_KEY] = handler
        root.call_on_close(lambda: log.removeHandler(handler))
        root.call_on_close(lambda: log.setLevel(logging.NOTSET))
    found: logging.Handler = root.meta[_KEY]
    return found
