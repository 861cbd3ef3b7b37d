"""-v and --log-format: the log of operations on standard error."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

import click
import msgspec

from eventferry.terminal import say

_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)
_TEXT = "%(asctime)s %(levelname)s %(name)s %(message)s"
_KEY = "eventferry.log"


class _Said(logging.Handler):
    """Says each record."""

    def emit(self, record: logging.LogRecord) -> None:
        """Say it."""
        say(self.format(record))


class _Json(logging.Formatter):
    """A record as one JSON object: what every record has, and the fields of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """The object."""
        own = {name: value for name, value in vars(record).items() if name not in _COMMON}
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        return msgspec.json.encode(fields | own, enc_hook=str).decode()


_COMMON = {*vars(logging.makeLogRecord({})), "message", "asctime"}


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
        handler.setLevel(level)
        logging.getLogger("eventferry").setLevel(level)


def _format(context: click.Context, _: click.Parameter, name: str | None) -> None:
    if name is not None:
        _handler(context).setFormatter(_Json() if name == "json" else logging.Formatter(_TEXT))


def _handler(context: click.Context) -> logging.Handler:
    """The handler of this run of the command line, made when it is first asked for."""
    root = context.find_root()
    if _KEY not in root.meta:
        log, handler = logging.getLogger("eventferry"), _Said(logging.WARNING)
        handler.setFormatter(logging.Formatter(_TEXT))
        log.addHandler(handler)
        root.meta[_KEY] = handler
        root.call_on_close(lambda: log.removeHandler(handler))
        root.call_on_close(lambda: log.setLevel(logging.NOTSET))
    found: logging.Handler = root.meta[_KEY]
    return found
