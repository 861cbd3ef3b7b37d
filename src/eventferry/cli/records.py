"""How log records are printed; imported only if the log is wanted."""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from eventferry.cli.output import moment_text
from eventferry.cli.terminal import say


class Said(logging.Handler):
    """Prints each record to standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        say(self.format(record))


class _Json(logging.Formatter):
    """A record as one JSON object: the common fields, the traceback of an error, and its own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The JSON text."""
        own = {name: value for name, value in vars(record).items() if name not in _COMMON}
        fields: dict[str, Any] = {
            "time": moment_text(int(record.created * 1000)),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(fields | own, enc_hook=str).decode()


_COMMON = {*vars(logging.makeLogRecord({})), "message", "asctime"}

JSON = _Json()
TEXT = logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s")
