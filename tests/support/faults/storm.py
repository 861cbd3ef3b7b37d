"""The storm: round after round an operation runs in a child, is harmed, and what is left is looked at."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.faults.children import Child, make_ready
from tests.support.faults.operations import OPERATIONS, BrokenPromiseError, Operation, must
from tests.support.faults.worlds import ServerLostError, World, made

KILLS = ("kill", "server")
SERVER_SHARE = 0.06
"""How many of the kills are of the server: that costs a second each."""

HANGS = 60.0
"""Seconds after which a child hangs: nothing here takes a tenth of that."""

SHORT_PATIENCE = 0.2

NEARLY_FULL = 8 * 1024 * 1024

MOST_LOST = 5
"""How many servers an operation's rounds may lose."""


@dataclass
class Measure:
    """An undisturbed run of an operation.

    Attributes:
        seconds: from its beginning to its end.
        steps: that it told.
        bytes_sent: by the client to the server.
    """

    seconds: float
    steps: int
    bytes_sent: int


@dataclass
class Tally:
    """What became of an operation's rounds.

    Attributes:
        kills: of the client, while it was at work.
        server_kills: likewise of the server.
        others: faults of other kinds that met it at work.
        missed: faults that came too late.
        servers_lost: kills from which the server itself did not come back whole; nothing else is counted of these.
        outcomes: how often the old state was left, the new one, a part as promised.
    """

    kills: int = 0
    server_kills: int = 0
    others: int = 0
    missed: int = 0
    servers_lost: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)


@dataclass
class Strike:
    """A fault and its moment.

    Attributes:
        fault: one of the world's.
        moment: how the log tells it.
    """

    fault: str
    moment: dict[str, Any]


class Storm:
    """The rounds of one operation on one database.

    Args:
        world: the database.
        make: makes what is harmed.
        seed: all chance follows from it, the operation, the database and the number of the round.
        log: takes one record for each round.
    """

    def __init__(
        self,
        world: World,
        make: Callable[[], Operation],
        seed: int,
        log: Callable[[dict[str, Any]], None],
    ) -> None:
        self._world = world
        self._make = make
        self._operation = make()
        self._seed = seed
        self._log = log
        self.tally = Tally()

    async def run(self, kills: int, only: int | None = None) -> None:
        """Go on until so many kills have met the operation at work; `only`: that round and no other.

        Raises:
            BrokenPromiseError: a promise was broken. The log has the round as its last.
        """
        await self._operation.set_up()
        measure = await self._measure()
        if only is not None:
            await self._round(only, measure)
            return
        number = 0
        while self.tally.kills + self.tally.server_kills < kills:
            number += 1
            must(number <= 5 * kills + 20, "most faults come too late")
            try:
                await self._round(number, measure)
            except ServerLostError:
                self.tally.servers_lost += 1
                must(self.tally.servers_lost <= MOST_LOST, "too many servers do not come back")
                await asyncio.to_thread(self._world.start_anew)
                self._operation = self._make()
                await self._operation.set_up()

    async def _measure(self) -> Measure:
        """The second of two runs: the first pays for what is cold."""
        for turn in range(2):
            chance = self._chance(-turn)
            await self._operation.prepare(chance)
            sent = 0

            def count(data: bytes) -> bool:
                nonlocal sent
                sent += len(data)
                return False

            async with contextlib.AsyncExitStack() as stack:
                through: Callable[[str], str] = _same
                if "cut" in self._world.faults:
                    proxy, through = await self._behind_a_proxy(stack)
                    proxy.cut_after = count
                child = Child(self._operation.name, *self._operation.arguments(through))
                must(await child.until_over(HANGS), "hangs although nothing was done to it")
            must(
                child.ended == "well" and child.begun_at and child.done_at, f"fails by itself: {child.error}"
            )
            await self._world.settle(self._operation.url)
            await self._operation.look(child)
            await self._operation.go_on(child, chance)
        assert child.begun_at is not None
        assert child.done_at is not None
        return Measure(child.done_at - child.begun_at, len(child.said), sent)

    def _chance(self, number: int) -> random.Random:
        return random.Random(f"{self._seed} {self._world.database} {self._operation.name} {number}")

    async def _behind_a_proxy(self, stack: contextlib.AsyncExitStack) -> tuple[Any, Callable[[str], str]]:
        proxy, url = await stack.enter_async_context(self._world.proxied(self._operation.url))
        before = self._operation.url.split("@")[1].split("/")[0]
        after = url.split("@")[1].split("/")[0]
        return proxy, lambda each: each.replace(f"@{before}/", f"@{after}/")

    def _strike(self, number: int, measure: Measure, chance: random.Random) -> Strike:
        faults = self._world.faults
        others = [fault for fault in faults if fault not in KILLS]
        if number % 4 == 0:
            fault = others[number // 4 % len(others)]
        else:
            fault = "server" if "server" in faults and chance.random() < SERVER_SHARE else "kill"
        if fault == "read-only" and self._world.database == "sqlite":
            return Strike(fault, {"before": True})  # who has a file open may go on writing
        draw = chance.random()
        if fault == "cut" and draw < 0.5:
            return Strike(
                fault, {"bytes": chance.randrange(measure.bytes_sent), "answered": chance.random() < 0.5}
            )
        if draw < 0.75:
            fraction = chance.random() * 1.02
            return Strike(
                fault, {"fraction": round(fraction, 4), "seconds": round(fraction * measure.seconds, 5)}
            )
        return Strike(fault, {"step": chance.randrange(measure.steps)})

    async def _round(self, number: int, measure: Measure) -> None:
        begun = time.perf_counter()
        chance = self._chance(number)
        strike = self._strike(number, measure, chance)
        record: dict[str, Any] = {
            "number": number,
            "database": self._world.database,
            "operation": self._operation.name,
            "fault": strike.fault,
            "moment": strike.moment,
        }
        try:
            await self._operation.prepare(chance)
            child, met = await self._harmed(strike, chance)
            record |= {"met": met, "client": child.ended or "gone"}
            if child.error is not None:
                record["error"] = child.error[:400]
            self._check_end(strike, child, met=met)
            async with asyncio.timeout(HANGS):
                await self._world.settle(self._operation.url)
                record["outcome"] = await self._operation.look(child)
            async with asyncio.timeout(HANGS):
                record["next"] = await self._operation.go_on(child, chance)
            self._count(strike, record["outcome"], met=met)
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
            if isinstance(error, ServerLostError) or self._world.is_damaged(said):
                record["server lost"] = said
                raise ServerLostError(said) from error
            record["violation"] = said
            raise
        finally:
            record["ms"] = round((time.perf_counter() - begun) * 1000)
            self._log(record)

    def _count(self, strike: Strike, outcome: str, *, met: bool) -> None:
        self.tally.outcomes[outcome] += 1
        if not met:
            self.tally.missed += 1
        elif strike.fault == "kill":
            self.tally.kills += 1
        elif strike.fault == "server":
            self.tally.server_kills += 1
        else:
            self.tally.others += 1

    @staticmethod
    def _check_end(strike: Strike, child: Child, *, met: bool) -> None:
        """How a child may end that met this fault: only by errors that have a name of ours."""
        must(child.ended != "broken", f"an error without a name: {child.error}")
        if strike.fault == "kill":
            allowed: tuple[str | None, ...] = (None, "well")
        elif strike.fault == "interrupt":
            allowed = (None, "interrupted", "well") if child.is_done else ("interrupted", "well")
        else:
            # A disk that is only nearly full may be full enough before the fault.
            allowed = ("well", "refused") if met or strike.fault == "full disk" else ("well",)
        must(child.ended in allowed, f"the client ended {child.ended or 'unheard'}: {child.error}")

    async def _harmed(self, strike: Strike, chance: random.Random) -> tuple[Child, bool]:
        """Run the operation and harm it; the child, which has ended, and whether it was still at work."""
        world, operation = self._world, self._operation
        async with contextlib.AsyncExitStack() as stack:
            through: Callable[[str], str] = _same
            proxy = None
            if strike.fault == "cut":
                proxy, through = await self._behind_a_proxy(stack)
            elif strike.fault == "lock":

                def through(url: str) -> str:
                    return world.with_option(url, f"busy_timeout={SHORT_PATIENCE}")

            if strike.fault == "full disk":
                assert world.disk is not None
                world.disk.fill(NEARLY_FULL)  # so that the rest is filled in a moment
                stack.push_async_callback(world.start_server)
                stack.callback(world.disk.free)
            before: bool = strike.moment.get("before", False)
            if before:
                world.forbid_writing(operation.url)
                stack.callback(world.allow_writing, operation.url)
            if proxy is not None and "bytes" in strike.moment:
                left = strike.moment["bytes"]

                def is_enough(data: bytes) -> bool:
                    nonlocal left
                    left -= len(data)
                    return bool(left < 0)

                proxy.cut_after = is_enough
                proxy.passes_on = strike.moment["answered"]
            child = Child(operation.name, *operation.arguments(through), privileged=not before)
            if before:
                met = True
            elif proxy is not None and "bytes" in strike.moment:
                must(await child.until_over(HANGS), "hangs after its connection was cut")
                met = bool(proxy.cuts)
            else:
                await child.until_begun()
                if "step" in strike.moment:
                    await child.until_step(strike.moment["step"])
                else:
                    await child.until_moment(strike.moment["seconds"])
                met = not child.is_done and child.ended is None
                await self._do(strike.fault, child, proxy, chance, stack)
            must(await child.until_over(HANGS), f"hangs after {strike.fault}")
        return child, met

    async def _do(
        self,
        fault: str,
        child: Child,
        proxy: Any,
        chance: random.Random,
        stack: contextlib.AsyncExitStack,
    ) -> None:
        """The harm itself. What must be made good again when the child has ended is left to the stack."""
        world, url = self._world, self._operation.url
        match fault:
            case "kill":
                child.signal(signal.SIGKILL)
            case "interrupt":
                child.signal(signal.SIGINT)
            case "server":
                await world.kill_server()
                await asyncio.sleep(chance.choice((0, 0, 0.3)))
                await world.start_server()
            case "cut":
                proxy.cut_all()
            case "full disk":
                assert world.disk is not None
                world.disk.fill(chance.choice((0, 0, 20_000, 200_000)))
            case "read-only":
                stack.callback(world.allow_writing, url)
                await asyncio.to_thread(world.forbid_writing, url)
            case "lock":
                seconds, how = chance.random() * 3 * SHORT_PATIENCE, chance.randrange(6)
                await asyncio.to_thread(self._hold, url, how, seconds)
            case _:
                raise AssertionError(fault)

    def _hold(self, url: str, how: int, seconds: float) -> None:
        # A table to be locked may just be away: then nobody is in the way.
        with contextlib.suppress(Exception), self._world.locked(url, how):
            time.sleep(seconds)


def _same(url: str) -> str:
    return url


async def storm(
    database: str,
    operations: list[str],
    kills: int,
    seed: int,
    log: Callable[[dict[str, Any]], None],
    only: int | None = None,
) -> dict[str, Tally]:
    """All rounds of some operations on one database; a tally for each operation.

    Raises:
        BrokenPromiseError: a promise was broken.
    """
    make_ready()
    tallies = {}
    with made(database) as world, tempfile.TemporaryDirectory(prefix="eventferry-storm-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for operation in operations:
            each = Storm(world, functools.partial(OPERATIONS[operation], world, folder), seed, log)
            try:
                await each.run(kills, only)
            except BrokenPromiseError as violation:
                raise BrokenPromiseError(f"{database}, {operation}: {violation}") from violation
            tallies[operation] = each.tally
    return tallies
