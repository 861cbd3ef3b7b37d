"""message-db (Eventide): the table `messages`, on PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eventferry.errors import UsageError
from eventferry.lines.envelope import NULL, Original
from eventferry.lines.event import NumberedRow
from eventferry.lines.limits import ColumnLimits
from eventferry.targets.identity import utc_of, uuid_of
from eventferry.targets.product import ProductRow, Table


class MessageDb:
    """Data and metadata are jsonb there; a stream is an aggregate, and its positions begin at 0. What stands in its
    name before the first - is its category, by which messages are read across streams."""

    name = "message-db"
    install = "install message-db in this database first (database/install.sh of the npm package @eventide/message-db)"
    clear = "clear them first (database/clear-messages.sh), or copy into a database of its own"

    def __init__(self, settings: dict[str, Any]) -> None:
        from eventferry.databases.postgresql.payloads import all_survive, refuse_payload

        self.limits = ColumnLimits(refuse_payload=refuse_payload, all_survive=all_survive)
        category = str(settings.pop("category", ""))
        if "-" in category:
            raise UsageError(f"category must not contain a -, which ends it: {category!r}")
        self._prefix = f"{category}-" if category else ""
        self.table = Table(
            name=str(settings.pop("messages", "message_store.messages")),
            columns=("global_position", "position", "time", "stream_name", "type", "data", "metadata", "id"),
            position="global_position",
            stream="stream_name",
            version="position",
            first=0,
        )

    def meet(self, types: Mapping[str, str]) -> None:
        """Nothing depends on them."""

    def row(self, event: NumberedRow, original: Original, position: int) -> ProductRow:
        """A message. Raises InputError."""
        _, _, _, timestamp, aggregate_id, version, kind, _ = event
        return (
            position,
            version - 1,
            utc_of(original, timestamp),
            self._prefix + aggregate_id,
            kind,
            _json(original.data),
            _json(original.metadata),
            uuid_of(original, aggregate_id, version),
        )


def _json(text: bytes) -> str | None:
    return None if text == NULL else text.decode()
