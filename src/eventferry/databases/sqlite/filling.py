"""Filling a table in a SQLite file, in one transaction: there is but one writer."""

from __future__ import annotations

import os
import sqlite3
from functools import partial
from typing import Any

from eventferry.database import Progress
from eventferry.databases.sqlite import path_of
from eventferry.databases.sqlite.connection import Connection
from eventferry.databases.sqlite.file import File
from eventferry.databases.sqlite.library import code_of
from eventferry.databases.sqlite.tables import quoted
from eventferry.databases.thread import threaded
from eventferry.errors import StoreNotFoundError
from eventferry.importing.batch import Batch
from eventferry.lifecycle import to_the_end
from eventferry.targets.filling import Doubled, Misplaced, TargetPlace, foreign, full, missing
from eventferry.targets.product import Product, ProductRow


def place_of(address: str, settings: dict[str, Any]) -> TargetPlace:
    """A file at a URL without its query, or a plain path. Raises UsageError."""
    path = path_of(address)
    # A file's name may hold bytes that are no text.
    names = {"databaseFile": os.fsencode(path).decode(errors="replace")}
    return TargetPlace(partial(SqliteFilling.begin, path), path, names)


class SqliteFilling:
    """See `Filling`. Positions are row ids, behind the highest of which SQLite numbers new rows by itself."""

    def __init__(self, connection: Connection, place: str, product: Product) -> None:
        self.connection = connection
        self._place = place
        self._product = product
        self._shape = product.table
        self._table = quoted(product.table.name)

    @classmethod
    async def begin(cls, path: str, product: Product, busy_timeout: float) -> SqliteFilling:
        """Take the table, which must be the product's and empty."""
        filling = cls(Connection(File(path), "rw", busy_timeout), path, product)
        try:
            await filling._begin()
        except StoreNotFoundError:
            await to_the_end(filling.close())
            raise missing(path, product) from None
        except BaseException:
            await to_the_end(filling.close())
            raise
        return filling

    @threaded
    def _begin(self) -> None:
        self.connection.begin(write=True)
        sqlite = self.connection.sqlite
        types = {
            name: kind.lower()
            for _, name, kind, *_ in sqlite.execute(f"PRAGMA table_info({self._table})").fetchall()
        }
        if not types:
            raise missing(self._place, self._product)
        for column in self._shape.columns:
            if column != self._shape.position and column not in types:
                raise foreign(self._place, self._product, f"it has no column {column!r}")
        try:
            is_full = sqlite.execute(f"SELECT rowid FROM {self._table} LIMIT 1").fetchone() is not None
        except Exception as error:
            if code_of(error) != sqlite3.SQLITE_ERROR:
                raise
            raise foreign(
                self._place,
                self._product,
                "it has no row ids, so nothing tells in which order events were stored",
            ) from None
        if is_full:
            raise full(self._place, self._product)
        self._product.meet(types)

    @threaded
    def put(self, batch: Batch[ProductRow, Progress]) -> None:
        names = ", ".join(self._shape.columns)
        values = ", ".join("?" * len(self._shape.columns))
        statement = f"INSERT INTO {self._table}({names}) VALUES ({values})"
        for part in batch:
            try:
                self.connection.sqlite.executemany(statement, part)
            except Exception as error:
                if code_of(error) != sqlite3.SQLITE_CONSTRAINT:
                    raise
                (inserted,) = self.connection.sqlite.execute(f"SELECT count(*) FROM {self._table}").fetchone()
                is_position = str(error).endswith(f".{self._shape.position}")
                column = self._shape.position if is_position else self._shape.version
                raise Doubled(inserted + 1, column) from error

    @threaded
    def misplaced(self) -> Misplaced | None:
        found = self.connection.sqlite.execute(
            f"""SELECT (SELECT count(*) FROM {self._table} WHERE rowid <= at), stream, version, before
            FROM (SELECT rowid AS at, {self._shape.stream} AS stream, {self._shape.version} AS version,
                lag({self._shape.version}) OVER (PARTITION BY {self._shape.stream} ORDER BY rowid) AS before
              FROM {self._table})
            WHERE version <> coalesce(before + 1, {self._shape.first}) ORDER BY at LIMIT 1"""
        ).fetchone()
        return None if found is None else Misplaced(*found)

    @threaded
    def commit(self, last: int) -> None:
        self.connection.commit()

    async def close(self) -> None:
        await self.connection.close()
