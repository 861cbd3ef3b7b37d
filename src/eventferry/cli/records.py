"""How a record of the log is said; loaded only where somebody asks for the log."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

import msgspec

from eventferry.cli.terminal import say


class Said(logging.Handler):
    """Says each record."""

    def emit(self, record: logging.LogRecord) -> None:
        """Say it."""
        say(self.format(record))


class _Json(logging.Formatter):
    """A record as one JSON object: what every record has, an error's traceback, and the fields of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """The object."""
        own = {name: value for name, value in vars(record).items() if name not in _COMMON}
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
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
