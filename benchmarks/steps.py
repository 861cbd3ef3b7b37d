"""How long each step of an operation takes: each call of the boundary to a database (`database.py`), and what Python
does beside it.

Steps overlap where something is done beside something else, and some lie within another: their times are not parts of
a sum.
"""

from __future__ import annotations

import importlib
import inspect
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import wraps
from typing import Any

INSIDE = (
    ("eventferry.importing.resuming", "Consumed.add", "Python: hash"),
    ("eventferry.lines.blocks", "LineSplitter.feed", "Python: cut into lines"),
    ("eventferry.lines.blocks", "Lines.rows", "Python: parse and check"),
    ("eventferry.lines.blocks", "Lines.new_rows", "Python: parse and check"),
    ("eventferry.importing.batch", "Batch.wait_for_room", "the parser waits for the database"),
    ("eventferry.databases.postgresql.stage", "copied_rows", "Python: rows as COPY takes them"),
    ("eventferry.databases.postgresql.stage", "copied_new_rows", "Python: rows as COPY takes them"),
    ("eventferry.databases.mysql.stage", "_loaded", "Python: rows as LOAD DATA takes them"),
    ("eventferry.reading.pages", "Pages._lines", "Python: lines of a page, or its events"),
    ("eventferry.databases.sqlite.connection", "Connection.begin", "thread: BEGIN"),
    ("eventferry.databases.sqlite.save", "Saver.add", "thread: look and INSERT"),
    ("eventferry.databases.sqlite.connection", "Connection.commit", "thread: COMMIT"),
    ("eventferry.databases.postgresql.connection", "Connection.exchange", "round trip"),
)
"""Functions and methods below or above the boundary that are watched too: module, name, and what they are called."""

OPENINGS = ("reading", "writing")


class Steps:
    """Watches one store's database.

    Attributes:
        taken: of each step, how often it was taken and how many seconds that took together.
    """

    def __init__(self, database: Any) -> None:
        self.taken: defaultdict[str, list[float]] = defaultdict(lambda: [0, 0.0])
        for name in OPENINGS:
            setattr(database, name, self._opened(getattr(database, name)))
        database.save = self._watched("save", database.save)
        for module_name, path, label in INSIDE:
            owner: Any = importlib.import_module(module_name)
            *classes, name = path.split(".")
            for each in classes:
                owner = getattr(owner, each)
            setattr(owner, name, self._watched(label, getattr(owner, name)))

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            taken = self.taken[name]
            taken[0] += 1
            taken[1] += time.perf_counter() - start

    def _watched(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def wait(*args: Any, **kwargs: Any) -> Any:
                with self._step(name):
                    return await function(*args, **kwargs)

            return wait

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self._step(name):
                return function(*args, **kwargs)

        return call

    def _opened(self, opening: Callable[..., Any]) -> Callable[..., Any]:
        @asynccontextmanager
        async def opened(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            async with self._ended(opening(*args, **kwargs)) as transaction:
                yield _Watched(transaction, self)

        return opened

    @asynccontextmanager
    async def _ended(self, context: Any) -> AsyncIterator[Any]:
        with self._step("begin"):
            transaction = await context.__aenter__()
        try:
            yield transaction
        except BaseException as error:
            if not await context.__aexit__(type(error), error, error.__traceback__):
                raise
        else:
            with self._step("end"):
                await context.__aexit__(None, None, None)

    def watched(self, name: str, found: Any) -> Any:
        """A member of a transaction, as the transaction that is watched gives it."""
        return self._watched(name, found) if inspect.iscoroutinefunction(found) else found


class _Watched:
    def __init__(self, transaction: Any, steps: Steps) -> None:
        self._transaction = transaction
        self._steps = steps

    def __getattr__(self, name: str) -> Any:
        return self._steps.watched(name, getattr(self._transaction, name))
