"""The Python library eventsourcing: the table of an application's events, on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from eventferry.errors import InputError, UsageError
from eventferry.lines.envelope import NULL, Original
from eventferry.lines.event import NumberedRow
from eventferry.lines.limits import ROOMY
from eventferry.targets.encoding import Encoder
from eventferry.targets.product import DatabaseKind, ProductRow, Table

_ID_TYPES = ("uuid", "text")
_DIGITS = 10
_NO_METADATA = (NULL, b"{}")


class PyEventSourcing:
    """An aggregate is an originator, a type a topic, and the state is the data. Nothing else has a column."""

    name = "pyeventsourcing"
    install = "construct the application once on this database: that makes its tables"
    limits = ROOMY
    clear = "copy into a database, or a table, of its own"

    def __init__(self, settings: dict[str, Any], database: DatabaseKind) -> None:
        self._database = database
        self._encode = Encoder(settings.pop("encode", ()))
        self._drop_metadata = _truth("drop_metadata", settings.pop("drop_metadata", False))
        self._id_type: str | None = settings.pop("originator_id_type", None)
        if self._id_type not in (None, *_ID_TYPES):
            raise UsageError(f"originator_id_type is uuid or text, not {self._id_type!r}")
        self._first = _whole("first_version", settings.pop("first_version", 1))
        name = str(settings.pop("events", "stored_events"))
        position = "rowid" if database == "sqlite" else "notification_id"
        self.table = Table(
            name=name,
            columns=(position, "originator_id", "originator_version", "topic", "state"),
            position=position,
            stream="originator_id",
            version="originator_version",
            first=self._first,
            channel=name.rpartition(".")[2],
        )
        self._has_uuids = self._id_type != "text"

    def meet(self, types: Mapping[str, str]) -> None:
        """On PostgreSQL the column says whether ids are UUIDs; on SQLite only the application knows."""
        if self._database == "sqlite":
            return
        found = types["originator_id"]
        if self._id_type not in (None, found):
            raise UsageError(
                f"originator_id_type is {self._id_type}, but the column originator_id is {found}"
            )
        self._has_uuids = found == "uuid"

    def row(self, event: NumberedRow, original: Original, position: int) -> ProductRow:
        """A stored event. Raises InputError."""
        if not self._drop_metadata:
            self._refuse_loss(original)
        _, _, _, _, aggregate_id, version, kind, _ = event
        originator = self._uuid(aggregate_id) if self._has_uuids else aggregate_id
        return position, originator, version - 1 + self._first, kind, self._encode(original.data)

    def _uuid(self, aggregate_id: str) -> str:
        try:
            uuid = UUID(aggregate_id)
        except ValueError:
            raise InputError(
                "must be a UUID, as the application's ids are (the option originator_id_type=text is for others)",
                field="aggregateId",
            ) from None
        return uuid.hex if self._database == "sqlite" else str(uuid)

    @staticmethod
    def _refuse_loss(original: Original) -> None:
        if original.id is not None or original.metadata not in _NO_METADATA:
            what = "metadata" if original.id is None else "id"
            raise InputError(
                f"meta.{what} has no place in {PyEventSourcing.name}, which would lose it (the option "
                "drop_metadata=true drops ids and metadata)",
                field="payload",
            )


def _whole(name: str, given: object) -> int:
    text = str(given)
    if not (text.isascii() and text.isdigit() and len(text) < _DIGITS):
        raise UsageError(f"{name} is a whole number, 0 or 1 as a rule, not {given!r}")
    return int(text)


def _truth(name: str, given: object) -> bool:
    found = {"true": True, "false": False}.get(str(given).lower())
    if found is None:
        raise UsageError(f"{name} is true or false, not {given!r}")
    return found
