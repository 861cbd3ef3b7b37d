"""The Dog School of pyeventsourcing's tutorial: an application that the real library runs on a store of its own."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import UUID

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import Notification

# 32 bytes in base64; a key of the tests only.
CIPHER_KEY = "YWJjZGVmZ2hpamtsbW5vcGFiY2RlZmdoaWprbG1ub3A="

ZLIB = {"COMPRESSOR_TOPIC": "eventsourcing.compressor:ZlibCompressor"}
CIPHER = {"CIPHER_TOPIC": "eventsourcing.cryptography:AESCipher", "CIPHER_KEY": CIPHER_KEY}


class Dog(Aggregate):
    """A dog and its tricks, as in the tutorial; `Noted` takes whatever else an event may hold."""

    @event("Registered")
    def __init__(self, name: str) -> None:
        self.name = name
        self.tricks: list[str] = []
        self.notes: list[Any] = []

    @event("TrickAdded")
    def add_trick(self, trick: str) -> None:
        self.tricks.append(trick)

    @event("Noted")
    def note(self, note: Any) -> None:
        self.notes.append(note)


class DogSchool(Application[UUID]):
    """The tutorial's application: its name is the prefix of its tables on PostgreSQL."""

    def register_dog(self, name: str) -> UUID:
        dog = Dog(name)
        self.save(dog)
        return dog.id

    def add_trick(self, dog_id: UUID, trick: str) -> None:
        dog: Dog = self.repository.get(dog_id)
        dog.add_trick(trick)
        self.save(dog)

    def note(self, dog_id: UUID, *notes: Any) -> None:
        dog: Dog = self.repository.get(dog_id)
        for note in notes:
            dog.note(note)
        self.save(dog)

    def get_dog(self, dog_id: UUID) -> dict[str, Any]:
        dog: Dog = self.repository.get(dog_id)
        return {
            "name": dog.name,
            "tricks": tuple(dog.tricks),
            "notes": dog.notes,
            "version": dog.version,
            "modified": dog.modified_on,
        }


TABLE = "dogschool_events"
"""The events of `DogSchool` on PostgreSQL; on SQLite they are in `stored_events`."""


@dataclass
class Store:
    """A store of pyeventsourcing.

    Attributes:
        url: as eventferry takes it.
        environment: as the library takes it.
    """

    url: str
    environment: Mapping[str, str]

    def with_options(self, *options: Mapping[str, str]) -> Store:
        """The same place with other variables of the environment."""
        merged = dict(self.environment)
        for option in options:
            merged |= option
        return Store(self.url, merged)

    @property
    def tables(self) -> dict[str, str]:
        """The names of tables that a mapping needs."""
        return {} if self.url.startswith("sqlite:") else {"events": TABLE}

    @contextmanager
    def school(self) -> Iterator[DogSchool]:
        """The application on this store; it makes the tables where they are missing."""
        application = DogSchool(env=dict(self.environment))
        try:
            yield application
        finally:
            application.close()

    def notifications(self) -> list[Notification]:
        """All events, in the order in which the library itself reads them."""
        found: list[Notification] = []
        with self.school() as school:
            while page := school.recorder.select_notifications(found[-1].id + 1 if found else 1, 500):
                found += page
        return found

    def dogs(self) -> dict[UUID, dict[str, Any]]:
        """Each dog as the application loads it."""
        with self.school() as school:
            ids = {UUID(str(notification.originator_id)) for notification in self.notifications()}
            return {dog: school.get_dog(dog) for dog in sorted(ids, key=str)}


def on_sqlite(file: Path) -> Store:
    return Store(
        f"sqlite:///{file}",
        {
            "PERSISTENCE_MODULE": "eventsourcing.sqlite",
            "SQLITE_DBNAME": str(file),
            "SQLITE_LOCK_TIMEOUT": "60",
        },
    )


def on_postgresql(url: str) -> Store:
    address = urlsplit(url)
    return Store(
        url,
        {
            "PERSISTENCE_MODULE": "eventsourcing.postgres",
            "POSTGRES_DBNAME": address.path.removeprefix("/"),
            "POSTGRES_HOST": address.hostname or "",
            "POSTGRES_PORT": str(address.port or 5432),
            "POSTGRES_USER": unquote(address.username or ""),
            "POSTGRES_PASSWORD": unquote(address.password or ""),
        },
    )


NOTES: tuple[Any, ...] = (
    None,
    'Zürich, 東京, 🐕, \u2028, a\ttab and "quotes"',
    {"": {"nested": [1, 2.5, -0.0, 1e300, 10**30, True, False, None, [], {}]}},
    Decimal("20.50"),
    datetime.datetime(2024, 2, 29, 23, 59, 59, 999_999, tzinfo=datetime.UTC),
    UUID(int=7),
    "x" * 300_000,
)
"""What JSON can hold and what the library's transcoders make of more."""


def write(store: Store, *, dogs: int = 16, tricks: int = 5, writers: int = 4) -> None:
    """A history by concurrent writers: each has dogs of its own, and the first dog of all knows every note."""
    with store.school() as school:
        school.note(school.register_dog("Fido, born 東京"), *NOTES)

        def teach(writer: int) -> None:
            ids = [school.register_dog(f"dog {writer}-{i}") for i in range(dogs // writers)]
            for trick in range(tricks):
                for dog in ids:
                    school.add_trick(dog, f"trick {trick}")

        with ThreadPoolExecutor(writers) as pool:
            list(pool.map(teach, range(writers)))
