"""Snapshots, and the registry of subscribers."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from eventferry.errors import UsageError
from eventferry.facade.opened import Opened
from eventferry.lines.payload import encode_payload
from eventferry.operation_log import told
from eventferry.reading.arguments import text
from eventferry.results import Subscriber
from eventferry.state import owners, snapshots, subscribers

if TYPE_CHECKING:
    pass


class Records(Opened):
    """Small records of an application that stand beside its events, as in reSolve."""

    async def load_snapshot(self, key: str) -> str | None:
        """The snapshot under a key; None if there is none."""
        async with self._database.reading() as reading:
            return await snapshots.load(reading, text("key", key))

    @told("save-snapshot", logging.DEBUG)
    async def save_snapshot(self, key: str, content: str) -> None:
        """Store a snapshot. With `snapshot_bucket_size` n, only every nth call for a key stores it."""
        key, content = text("key", key), text("content", content)
        count = self._bucket_counts.get(key, 0) + 1
        if count < self._bucket_size:
            self._bucket_counts[key] = count
            return
        self._bucket_counts.pop(key, None)
        async with owners.writing(self._database, frozen="allow") as writing:
            await snapshots.save(writing, key, content)

    @told("drop-snapshot", logging.DEBUG)
    async def drop_snapshot(self, key: str) -> None:
        """Remove the snapshot under exactly this key, if there is one."""
        async with owners.writing(self._database, frozen="allow") as writing:
            await snapshots.drop(writing, text("key", key))

    @told("ensure-subscriber", logging.DEBUG)
    async def ensure_event_subscriber(
        self,
        application_name: str,
        event_subscriber: str,
        destination: Any = None,
        status: Any = None,
        update_only: bool = False,
    ) -> bool:
        """Register a read model, or with `update_only` change the status of a registered one.

        Returns:
            False if `update_only` is set and it is not registered.
        """
        if update_only == (destination is not None):
            raise UsageError("give either a destination or update_only")
        application_name = text("application_name", application_name)
        event_subscriber = text("event_subscriber", event_subscriber)
        destination_text, status_text = encode_payload(destination), encode_payload(status)
        async with owners.writing(self._database, frozen="allow") as writing:
            return await subscribers.save(
                writing,
                application_name,
                event_subscriber,
                None if update_only else destination_text,
                status_text,
            )

    @told("remove-subscriber", logging.DEBUG)
    async def remove_event_subscriber(self, application_name: str, event_subscriber: str) -> None:
        """Remove a read model from the registry, if it is there."""
        async with owners.writing(self._database, frozen="allow") as writing:
            await subscribers.drop(
                writing,
                text("application_name", application_name),
                text("event_subscriber", event_subscriber),
            )

    async def get_event_subscribers(
        self, application_name: str | None = None, event_subscriber: str | None = None
    ) -> list[Subscriber]:
        """The matching rows of the registry; all without arguments."""
        async with self._database.reading() as reading:
            return await subscribers.load(
                reading,
                None if application_name is None else text("application_name", application_name),
                None if event_subscriber is None else text("event_subscriber", event_subscriber),
            )
