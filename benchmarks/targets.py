"""What is wanted of the figures: each a ratio of two measurements of one run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

OURS, LIBRARY, TOOL, RESOLVE = "eventferry", "as library", "bulk tool", "reSolve"
WITHOUT_AWAIT, PYEVENTSOURCING, MESSAGE_DB = "without await", "pyeventsourcing", "message-db"
TWO_WORKERS = "pg_restore -j 2"
BARE = "bare Python"
"""The drivers that ours uses, with nothing parsed or checked: what could be reached in Python at most."""
COUNTED = "insert with counter"
"""The least that keeps reSolve's tables on a server: the row, and the counter of its thread."""


class Measured(Protocol):
    """What a measurement must tell."""

    @property
    def database(self) -> str: ...
    @property
    def operation(self) -> str: ...
    @property
    def side(self) -> str: ...
    @property
    def stored(self) -> int: ...
    @property
    def rate(self) -> float: ...


class Rates:
    """Events per second by what was measured."""

    def __init__(self, measurements: Sequence[Measured]) -> None:
        self._rates = {
            (each.database, each.operation, each.stored, each.side): each.rate for each in measurements
        }
        self.sizes = sorted({each.stored for each in measurements})

    def of(self, database: str, operation: str, stored: int, side: str = OURS) -> float | None:
        """One rate, None where it was not measured."""
        return self._rates.get((database, operation, stored, side))

    def ratio(self, database: str, operation: str, stored: int, side: str, ours: str = OURS) -> float | None:
        """Ours by another side's."""
        one, other = (self.of(database, operation, stored, each) for each in (ours, side))
        return one / other if one and other else None


@dataclass(frozen=True)
class Target:
    """`at_least`: the ratio is to be that high; otherwise at most that high. `bare`: how high it would be with the
    drivers alone, if that was measured."""

    words: str
    wanted: float
    measured: float
    at_least: bool = True
    bare: float | None = None

    @property
    def is_met(self) -> bool:
        """Whether it is."""
        return self.measured >= self.wanted if self.at_least else self.measured <= self.wanted


BESIDE_THE_TOOL: tuple[tuple[str, str, float], ...] = (
    ("sqlite", "export", 0.9),
    ("postgresql", "export", 0.95),
    ("mariadb", "export", 1.0),
    ("postgresql", "import", 0.95),
    ("mariadb", "import", 1.0),
    ("postgresql", "copy", 0.6),
    ("sqlite", "saves", 0.85),
    ("postgresql", "saves", 0.8),
    ("mariadb", "saves", 0.8),
    *((database, "aggregate of 100", 0.5) for database in ("sqlite", "postgresql", "mariadb")),
    ("postgresql", "saves of 100 clients", 3.0),
)
BESIDE_PEERS: tuple[tuple[str, str, str], ...] = (
    *(
        (database, operation, PYEVENTSOURCING)
        for database in ("sqlite", "postgresql")
        for operation in ("saves", "appends of 10", "import", "pages", "aggregate of 100")
    ),
    *(("postgresql", operation, MESSAGE_DB) for operation in ("saves", "pages", "aggregate of 100")),
)
"""What another would be chosen for: there we are to be ahead."""

SQLITE_IMPORT: dict[int, float] = {100_000: 0.9, 1_000_000: 1.0}
"""A large import on SQLite spends less of its time on its own start and end."""

NEW_HALF: dict[str, float] = {"sqlite": 0.25, "postgresql": 0.5}
SPREAD: dict[str, float] = {"sqlite": 3.0, "postgresql": 1.5}
GROWTH: dict[tuple[int, int], float] = {(100_000, 1_000_000): 1.2, (100_000, 10_000_000): 1.5}
GROWING = ("import", "export", "pages", "incremental", "saves")
DATABASES = ("sqlite", "postgresql", "mariadb")


def targets(measurements: Sequence[Measured]) -> list[Target]:
    """Those for which there are measurements."""
    return list(_targets(Rates(measurements)))


def _targets(rates: Rates) -> Iterator[Target]:
    beside_tools = [
        (database, operation, stored, least, TOOL)
        for database, operation, least in BESIDE_THE_TOOL
        for stored in rates.sizes
        if stored >= 100_000
    ]
    for database, operation, stored, least, side in (
        *beside_tools,
        *(
            (database, operation, stored, 1.0, side)
            for database, operation, side in BESIDE_PEERS
            for stored in rates.sizes
            if stored >= 100_000
        ),
    ):
        ratio = rates.ratio(database, operation, stored, side)
        if ratio is not None:
            words = f"{database}, {operation} at {stored:,}: rate by that of {side}"
            bare = rates.ratio(database, operation, stored, side, BARE)
            yield Target(words, least, ratio, bare=bare)
    for stored, least in SQLITE_IMPORT.items():
        ratio = rates.ratio("sqlite", "import", stored, TOOL)
        if ratio is not None:
            words = f"sqlite, import at {stored:,}: rate by that of {TOOL}"
            yield Target(words, least, ratio, bare=rates.ratio("sqlite", "import", stored, TOOL, BARE))
    for stored in rates.sizes:
        for database, least in NEW_HALF.items():
            ratio = rates.ratio(database, "incremental", stored, TOOL)
            if ratio is not None:
                # The tool puts in the new half only; its rate is reckoned as if it had been given all of it.
                words = (
                    f"{database}, incremental at {stored:,}: time of a bare insert of the new half by ours"
                )
                yield Target(words, least, ratio)
        for database in DATABASES:
            pages, export = (rates.of(database, each, stored) for each in ("pages", "export"))
            if pages and export and stored >= 100_000:
                words = f"{database}, pages at {stored:,}: rate by that of the export"
                bare = rates.of(database, "pages", stored, BARE)
                yield Target(words, 0.7, pages / export, bare=bare and bare / export)
    for database, most in SPREAD.items():
        few, many = (rates.of(database, "incremental of 10,000", each) for each in (10_000, 1_000_000))
        if few and many:
            words = f"{database}, incremental of 10,000: time into 1,000,000 by that into 10,000"
            yield Target(words, most, few / many, at_least=False)
    for (small, large), most in GROWTH.items():
        for database in DATABASES:
            for operation in GROWING:
                before, after = (rates.of(database, operation, each) for each in (small, large))
                if before and after:
                    words = f"{database}, {operation}: cost per event at {large:,} by that at {small:,}"
                    yield Target(words, most, before / after, at_least=False)
