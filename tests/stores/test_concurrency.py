"""Writers, readers, exporters, importers and freezers in several processes on one store, and a model of what must come
out.

Each step of a random series gives several processes something to do at the same time. Whatever they answered, the
store is compared with the model after it.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from eventferry import open_store
from tests.support import LONG_AGO, exported
from tests.support.crowd import Act, Command, Crowd
from tests.support.places import DATABASES, Places

pytestmark = pytest.mark.slow

T = TypeVar("T")

SIZE = 4
AGGREGATES = 3
BATCHES = 6
PARTS = 3

ALLOWED = {
    "save": {"ConcurrentError", "StoreFrozenError"},
    "merge": {"StoreFrozenError"},
    "begin": {"StoreFrozenError", "ImportOpenError"},
    "push": {"StoreFrozenError", "ImportNotFoundError"},
    "commit": {"StoreFrozenError", "ImportNotFoundError"},
    "roll back": {"ImportNotFoundError"},
    "freeze": {"AlreadyFrozenError"},
    "unfreeze": {"NotFrozenError"},
    "export": set(),
    "read": set(),
}
"""The errors that a call may be refused with; any other is a failure."""

WRITES = {"save", "merge", "begin", "push", "commit"}

COMMANDS = st.one_of(
    st.tuples(st.just("save"), st.integers(0, AGGREGATES - 1), st.integers(1, 8)),
    st.tuples(st.just("save"), st.integers(0, AGGREGATES - 1), st.integers(1, 8)),
    st.tuples(st.just("merge"), st.integers(0, BATCHES - 1)),
    st.tuples(st.just("begin")),
    st.tuples(st.just("push"), st.integers(0, PARTS - 1), st.integers(0, BATCHES - 1)),
    st.tuples(st.just("commit")),
    st.tuples(st.just("roll back")),
    st.tuples(st.just("freeze")),
    st.tuples(st.just("unfreeze")),
    st.tuples(st.just("export"), st.booleans()),
    st.tuples(st.just("read")),
)


def batch(number: int) -> list[dict[str, Any]]:
    """Events of an incremental import. Each has some in common with the next, and some are there twice."""
    first = number * 20
    return [
        {
            "type": "M",
            "timestamp": LONG_AGO + i // 4,
            "aggregateId": f"merged-{i // 2 % 5}",
            "payload": {"number": i // 2},
        }
        for i in range(first, first + 40)
    ]


def content(event: dict[str, Any]) -> tuple[Any, ...]:
    return event["timestamp"], event["aggregateId"], event["payload"]["number"]


def contents(number: int) -> Counter[tuple[Any, ...]]:
    return Counter(map(content, batch(number)))


class Together(RuleBasedStateMachine):
    """The model.

    Attributes:
        saved: where each version of each aggregate was acknowledged.
        merged: how often each event of the batches must be there.
        open: the id of the open import; None where none is.
        parts: the batch that each part of it holds.
        frozen: whether a user has frozen the store.
        met: what the reader has met.
    """

    crowd: Crowd
    places: Places
    failures: list[AssertionError]

    @initialize()
    def make(self) -> None:
        self.url = self.places.new_url()
        self.saved: dict[str, dict[int, tuple[int, int]]] = {f"saved-{i}": {} for i in range(AGGREGATES)}
        self.merged: Counter[tuple[Any, ...]] = Counter()
        self.open: str | None = None
        self.parts: dict[str, int] = {}
        self.frozen = False
        self.cursor: str | None = None
        self.met: set[tuple[int, int]] = set()
        self.lines: list[bytes] = []
        self._run(self._init())

    @rule(wanted=st.lists(COMMANDS, min_size=2, max_size=SIZE))
    def together(self, wanted: list[tuple[Any, ...]]) -> None:
        commands = self._commands(wanted)
        answers = self.crowd.do(self.url, commands)
        try:
            self._check(commands, answers)
        except AssertionError as error:
            # The same series again may well go well, and then this is all that there is to see.
            print(f"{error}\n", *zip(commands, answers, strict=True), sep="\n")
            self.failures.append(error)
            raise

    def _check(self, commands: list[Command], answers: list[list[Act]]) -> None:
        acts = [act for answer in answers for act in answer]
        before, self.lines = self.lines, self._run(self._export())
        self._check_refusals(acts)
        self._check_freezes(acts)
        for command, answer in zip(commands, answers, strict=True):
            if command[0] == "save":
                self._note_saves(command[1], answer)
        merges = self._note_merges(commands, acts)
        self._check_store()
        for act in acts:
            if act.name == "export":
                self._check_export(act.value, before, merges)
            elif act.name == "read":
                self._note_read(act)

    def teardown(self) -> None:
        if not hasattr(self, "url"):
            return
        [[last]] = self.crowd.do(self.url, [("read", self.cursor)])
        self._note_read(last)
        assert self.met == {
            (event["threadId"], event["threadCounter"]) for event in map(json.loads, self.lines)
        }

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run(work)

    async def _init(self) -> None:
        async with open_store(self.url) as store:
            await store.init()

    async def _export(self) -> list[bytes]:
        async with open_store(self.url) as store:
            description = await store.describe()
            assert (description.frozen_by is not None) <= (description.frozen_by == "user"), (
                "a freeze is stuck"
            )
            self.is_frozen = description.is_frozen
            self.is_open = None if description.open_import is None else description.open_import.id
            return (await exported(store)).splitlines()

    def _commands(self, wanted: list[tuple[Any, ...]]) -> list[Command]:
        commands: list[Command] = []
        pushed: set[int] = set()
        reads = False
        for name, *rest in wanted:
            if name == "save":
                aggregate = f"saved-{rest[0]}"
                commands.append((name, aggregate, len(self.saved[aggregate]) + 1, rest[1]))
            elif name == "merge":
                commands.append((name, batch(rest[0])))
            elif name == "push" and rest[0] not in pushed:  # of two at once nobody knows which is the last
                pushed.add(rest[0])
                commands.append((name, self.open or "nobody's", str(rest[0]), batch(rest[1])))
            elif name in ("commit", "roll back"):
                commands.append((name, self.open or "nobody's"))
            elif name == "read" and not reads:
                reads = True
                commands.append((name, self.cursor))
            elif name not in ("push", "read"):
                commands.append((name, *rest))
        return commands

    def _check_refusals(self, acts: list[Act]) -> None:
        names = {act.name for act in acts}
        may_freeze = (
            self.frozen or "freeze" in names or any(act.name == "export" and act.asked for act in acts)
        )
        for act in acts:
            assert act.error is None or act.error in ALLOWED[act.name], f"{act.name}: {act.error} {act.value}"
            assert act.error != "StoreFrozenError" or may_freeze, "refused as frozen, and nobody froze"
            if act.name in WRITES and self.frozen and "unfreeze" not in names:
                assert act.error == "StoreFrozenError", f"a frozen store did not refuse to {act.name}"

    def _check_freezes(self, acts: list[Act]) -> None:
        """Nothing that begins after a freeze has been answered comes in before an unfreeze has begun."""
        turns = [act for act in acts if act.name in ("freeze", "unfreeze")]
        for freeze in acts:
            if freeze.name != "freeze" or freeze.error is not None:
                continue
            lifted = [act.begun for act in acts if act.name == "unfreeze" and act.ended > freeze.ended]
            until = min(lifted, default=float("inf"))
            for act in acts:
                if act.name in WRITES and act.begun > freeze.ended and act.ended < until:
                    assert act.error == "StoreFrozenError", f"{act.name} came in behind a freeze"
        if not turns:
            assert self.is_frozen == self.frozen
        done = [act.name for act in turns if act.error is None]
        if len(set(done)) == 1:
            assert self.is_frozen == (done[0] == "freeze")
        turned = done.count("freeze") - done.count("unfreeze")
        # An unfreeze may have lifted the freeze of an export, which is none of the user's.
        lifts = any(act.name == "export" and act.asked for act in acts)
        assert turned == self.is_frozen - self.frozen or (lifts and turned < self.is_frozen - self.frozen)
        self.frozen = self.is_frozen

    def _note_saves(self, aggregate: str, acts: list[Act]) -> None:
        for act in acts:
            if act.error is None:
                assert act.asked not in self.saved[aggregate], (
                    "two writers were told that a version is theirs"
                )
                self.saved[aggregate][act.asked] = act.value

    def _note_merges(self, commands: list[Command], acts: list[Act]) -> list[int]:
        """What each merge that came in brought; the model of the open import."""
        before = self.merged.total()
        brought = []
        began = [act.value for act in acts if act.name == "begin" and act.error is None]
        for command, act in zip(
            (command for command in commands if command[0] == "merge"),
            (act for act in acts if act.name == "merge"),
            strict=True,
        ):
            if act.error is None:
                report = act.value
                assert report.imported + report.skipped_existing == len(command[1])
                assert report.skipped_older == 0
                self.merged |= Counter(map(content, command[1]))
                brought.append(report.imported)
        pushes = {command[2]: command[3] for command in commands if command[0] == "push"}
        for act in acts:
            if act.name == "push" and act.error is None:
                assert self.open is not None, "a stranger's push was taken"
                self.parts[act.asked] = pushes[act.asked][0]["payload"]["number"] // 10
        ends = [act for act in acts if act.name in ("commit", "roll back") and act.error is None]
        assert len(ends) <= (self.open is not None), "an import ended twice"
        for act in ends:
            if act.name == "commit":
                whole: Counter[tuple[Any, ...]] = sum(map(contents, self.parts.values()), Counter())
                report = act.value
                assert report.imported + report.skipped_existing == whole.total()
                self.merged |= whole
                brought.append(report.imported)
            self.open, self.parts = None, {}
        assert len(began) <= (self.open is None), "two imports were opened"
        if began:
            [self.open] = began
            self.parts = {}
        assert self.is_open == self.open
        assert sum(brought) == self.merged.total() - before, "the reports don't add up"
        return brought

    def _check_store(self) -> None:
        """Every acknowledged event once, where it was acknowledged, and nothing else."""
        heads: Counter[int] = Counter()
        saved: dict[str, dict[int, tuple[int, int]]] = {name: {} for name in self.saved}
        merged: Counter[tuple[Any, ...]] = Counter()
        versions: dict[str, list[int]] = {}
        for event in sorted(map(json.loads, self.lines), key=lambda event: event["threadCounter"]):
            thread, counter = event["threadId"], event["threadCounter"]
            assert counter == heads[thread], "a gap in a thread"
            heads[thread] += 1
            if event["type"] == "S":
                assert event["payload"] == [event["aggregateId"], event["aggregateVersion"]]
                assert event["aggregateVersion"] not in saved[event["aggregateId"]]
                saved[event["aggregateId"]][event["aggregateVersion"]] = thread, counter
            else:
                merged[content(event)] += 1
                versions.setdefault(event["aggregateId"], []).append(event["aggregateVersion"])
        assert saved == self.saved
        assert merged == self.merged
        for found in (*versions.values(), *saved.values()):
            assert sorted(found) == list(range(1, len(found) + 1)), "a gap in the versions"

    def _check_export(self, lines: list[bytes], before: list[bytes], merges: list[int]) -> None:
        """One state of the store that there was between the beginning and the end of the step."""
        got = set(lines)
        assert len(got) == len(lines)
        assert set(before) <= got <= set(self.lines)
        heads: Counter[int] = Counter()
        versions: dict[str, list[int]] = {}
        came = 0
        new = got - set(before)
        for text in lines:
            event = json.loads(text)
            assert event["threadCounter"] == heads[event["threadId"]]
            heads[event["threadId"]] += 1
            if event["type"] == "S":
                versions.setdefault(event["aggregateId"], []).append(event["aggregateVersion"])
            else:
                came += text in new
        # An aggregate's versions were saved one after another, and a merge comes in as a whole.
        assert all(sorted(found) == list(range(1, len(found) + 1)) for found in versions.values())
        possible = {0}
        for count in merges:
            possible |= {count + other for other in possible}
        assert came in possible, "an export holds a part of a merge"

    def _note_read(self, act: Act) -> None:
        found, self.cursor = act.value
        assert len(set(found)) == len(found)
        assert not self.met & set(found), "a reader met an event again"
        self.met |= set(found)


@pytest.fixture(scope="module")
def crowd() -> Iterator[Crowd]:
    with Crowd(SIZE) as processes:
        yield processes


def storm(crowd: Crowd, database: str, folder: Path, examples: int, steps: int) -> None:
    with Places(database, folder) as places:

        class Here(Together):
            pass

        Here.crowd, Here.places, Here.failures = crowd, places, []
        try:
            run_state_machine_as_test(
                Here,
                settings=settings(
                    max_examples=examples,
                    stateful_step_count=steps,
                    deadline=None,
                    database=None,
                    # What processes do at the same time is not the same twice: there is nothing to shrink.
                    phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                ),
            )
        except Flaky as flaky:
            raise (Here.failures[0] if Here.failures else flaky) from None


@pytest.mark.parametrize("database", DATABASES)
def test_whatever_processes_do_to_a_store_at_once_every_answer_holds(
    crowd: Crowd, tmp_path: Path, database: str
) -> None:
    storm(crowd, database, tmp_path, examples=5, steps=10)


@pytest.mark.storm
@pytest.mark.parametrize("database", DATABASES)
def test_every_answer_holds_through_a_long_storm(crowd: Crowd, tmp_path: Path, database: str) -> None:
    storm(crowd, database, tmp_path, examples=60, steps=50)
