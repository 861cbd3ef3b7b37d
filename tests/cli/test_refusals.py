"""What the command line refuses: stores that are not there, and wrong words of every kind."""

from __future__ import annotations

import contextlib
import gzip
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventferry.cli import main
from tests.support import line, make_event, make_lines
from tests.support.cli import CURSOR_LENGTH, Ferry, new_ferry, process

ferry = pytest.fixture(new_ferry)

CURSOR = "A" * CURSOR_LENGTH
SECRET = "hunter2"
STORES = {"full.db", "frozen.db", "busy.db", "empty.db", "foreign.db"}


def _make_world(directory: Path) -> None:
    """Files and stores of every kind, right and wrong."""

    def file(name: str, content: bytes) -> str:
        (directory / name).write_bytes(content)
        return str(directory / name)

    def run(*words: str) -> None:
        assert main(list(words)) == 0

    lines = make_lines(5)
    source = file("lines.jsonl", lines)
    for name in ("full", "frozen", "busy"):
        run("import", source, str(directory / f"{name}.db"))
    run("freeze", str(directory / "frozen.db"))
    run("incremental", "begin", str(directory / "busy.db"))
    run("init", str(directory / "empty.db"))
    run("export", str(directory / "full.db"), str(directory / "good.zst"))
    packed = (directory / "good.zst").read_bytes()
    file("bad.jsonl", make_lines(2) + b"{oops}\n")
    file("cut.jsonl", lines[:-9])
    file("empty.jsonl", b"")
    file("future.jsonl", line(make_event(5)))
    file("secrets.jsonl", b'{"secret":"hunter2","id":"z","idx":0}\n')
    file("plain.gz", lines)
    file("cut.gz", gzip.compress(lines)[:-12])
    file("flipped.gz", gzip.compress(lines)[:-6] + b"\0\0\0\0\0\0")
    file("plain.zst", lines)
    file("cut.zst", packed[:-5])
    file("nul.jsonl", b"\0" * 100)
    file("text.db", b"this is no database at all" * 100)
    file("torn.db", (directory / "full.db").read_bytes()[:6000])
    file("zero.db", b"")
    foreign = sqlite3.connect(directory / "foreign.db")
    foreign.execute("CREATE TABLE customers(name TEXT)")
    foreign.close()
    (directory / "folder").mkdir()
    (directory / "folder.db").mkdir()
    (directory / "folder.gz").mkdir()


@pytest.fixture(scope="module")
def made_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("world")
    _make_world(directory)
    return directory


@pytest.fixture
def world(made_world: Path, ferry: Ferry) -> Iterator[dict[str, object]]:
    """A copy of the world to stand in; whatever is refused must leave it as it was."""
    shutil.copytree(made_world, ferry.directory, dirs_exist_ok=True)
    before = _contents(ferry.directory)
    yield before
    assert _contents(ferry.directory) == before


def _contents(directory: Path) -> dict[str, object]:
    """The bytes of each file, but of a store its tables and rows: what was staged and dropped moves pages."""
    return {
        path.name: _dump(path)
        for path in directory.iterdir()
        if path.is_file() and not path.name.startswith("torn.db-")  # SQLite's own, beside what it cannot read
    }


def _dump(path: Path) -> object:
    if path.name not in STORES:
        return path.read_bytes()
    with contextlib.closing(sqlite3.connect(path)) as file:
        return list(file.iterdump())


WRONG: list[tuple[int, str, str]] = [
    # status, what the words on stderr must say, the command
    (2, "Usage", ""),
    (2, "nonsense", "nonsense"),
    (2, "nonsense", "incremental nonsense full.db"),
    (2, "STORE", "init"),
    (2, "--nonsense", "init new.db --nonsense"),
    (2, "other.db", "init new.db other.db"),
    (2, "lines.jsonl", "init lines.jsonl"),
    (2, "lines.jsonl", "copy lines.jsonl new.db"),
    (2, "lines.jsonl", "copy full.db lines.jsonl"),
    (2, "'-'", "describe -"),
    (2, "oracle", "init oracle://host/db"),
    (2, "file", "describe file:///full.db"),
    (2, "sqlite:///", "init sqlite://new.db"),
    (2, "sqlite:///", "init sqlite:///"),
    (2, "sqlite:///", "describe sqlite://"),
    (2, "nonsense", "describe sqlite:///full.db?nonsense=1"),
    (2, "events_table_name", "describe sqlite:///full.db?events_table_name"),
    (2, "name", "describe sqlite:///full.db?events_table_name="),
    (2, "busy_timeout", "freeze sqlite:///full.db?busy_timeout=soon"),
    (2, "busy_timeout", "freeze sqlite:///full.db?busy_timeout=nan"),
    (2, "busy_timeout", "freeze sqlite:///full.db?busy_timeout=-1"),
    (2, "journal_mode", "freeze sqlite:///full.db?journal_mode=nonsense"),
    (1, "nothing", "describe sqlite:///full.db?events_table_name=nothing"),
    (2, "--yes", "drop full.db"),
    (1, "full.db", "init full.db"),
    (1, "frozen", "freeze frozen.db"),
    (1, "not frozen", "unfreeze full.db"),
    # files where stores should be, and the other way round
    (1, "text.db", "describe text.db"),
    (1, "text.db", "import lines.jsonl text.db --replace"),
    (1, "text.db", "drop text.db --yes"),
    (1, "torn.db", "export torn.db new.jsonl"),
    (1, "zero.db", "describe zero.db"),
    (1, "foreign.db", "describe foreign.db"),
    (1, "foreign.db", "drop foreign.db --yes"),
    (1, "folder.db", "describe folder.db"),
    (1, "folder.db", "init folder.db"),
    (1, "lines.jsonl/new.db", "describe lines.jsonl/new.db"),
    (2, "copy", "export full.db new.db"),
    (2, "copy", "export full.db full.db"),
    (2, "copy", "export full.db sqlite:///new.db"),
    (2, "file", "export-secrets full.db new.db"),
    (2, "file", "import-secrets empty.db full.db"),
    # destinations that cannot be written
    (1, "folder", "export full.db folder"),
    (1, "folder.gz", "export full.db folder.gz"),
    (1, "nowhere/new.jsonl", "export full.db nowhere/new.jsonl"),
    (1, "nowhere/new.gz", "export full.db nowhere/new.gz"),
    (1, "lines.jsonl/new.jsonl", "export full.db lines.jsonl/new.jsonl"),
    (1, "space", "export full.db /dev/full"),
    (1, "nowhere", "import lines.jsonl nowhere/new.db"),
    (1, "nowhere", "init nowhere/new.db"),
    # sources that cannot be read
    (1, "missing.jsonl", "import missing.jsonl full.db --replace"),
    (1, "missing.jsonl", "import missing.jsonl new.db"),
    (1, "missing.gz", "import missing.gz full.db --replace"),
    (1, "missing.zst", "incremental-import missing.zst full.db"),
    (1, "missing.jsonl", "import-secrets missing.jsonl full.db"),
    (1, "missing.jsonl", "verify full.db missing.jsonl"),
    (1, "missing.jsonl", "verify missing.jsonl full.db"),
    (1, "folder", "import folder full.db --replace"),
    (1, "folder.gz", "import folder.gz full.db --replace"),
    (1, "line 3", "import bad.jsonl full.db --replace"),
    (1, "ends inside", "import cut.jsonl full.db --replace"),
    (1, "line 1", "import nul.jsonl full.db --replace"),
    (1, "damaged", "import plain.gz full.db --replace"),
    (1, "damaged", "import cut.gz full.db --replace"),
    (1, "damaged", "import flipped.gz full.db --replace"),
    (1, "damaged", "import plain.zst full.db --replace"),
    (1, "damaged", "import cut.zst full.db --replace"),
    (1, "damaged", "incremental-import cut.zst full.db"),
    (1, "damaged", "verify full.db cut.gz"),
    (1, "line 3", "verify bad.jsonl full.db"),
    (1, "line 1", "import-secrets lines.jsonl full.db"),
    (1, "line 1", "import secrets.jsonl full.db --replace"),
    # imports that must not be
    (1, "--replace", "import lines.jsonl full.db"),
    (1, "--replace", "import lines.jsonl full.db --resume"),
    (1, "--replace", "copy full.db busy.db"),
    (1, "--allow-empty", "import empty.jsonl full.db --replace"),
    (1, "unfreeze", "import lines.jsonl frozen.db --replace"),
    (1, "unfreeze", "copy full.db frozen.db --replace"),
    (1, "unfreeze", "incremental-import lines.jsonl frozen.db"),
    (1, "unfreeze", "incremental begin frozen.db"),
    (1, "unfreeze", "import-secrets secrets.jsonl frozen.db"),
    (2, "--manual", "import lines.jsonl full.db --byte-offset 5"),
    (2, "--byte-offset", "import lines.jsonl full.db --manual --byte-offset -1"),
    (2, "--byte-offset", "import lines.jsonl full.db --manual --byte-offset x"),
    (2, "--manual", "import lines.jsonl full.db --manual --replace"),
    (2, "--manual", "import lines.jsonl full.db --manual --resume"),
    (2, "--manual", "import lines.jsonl full.db --manual --freeze"),
    (2, "--manual", "import lines.jsonl full.db --manual --allow-empty"),
    (2, "--manual", "copy full.db new.db --manual"),
    # incremental imports
    (2, "--older", "incremental-import lines.jsonl full.db --older maybe"),
    (1, "wrong", "incremental push wrong lines.jsonl full.db"),
    (1, "wrong", "incremental commit wrong full.db"),
    (1, "open since", "incremental begin busy.db"),
    # events
    (2, "--limit", "events full.db --limit 0"),
    (2, "--limit", "events full.db --limit -1"),
    (2, "--limit", "events full.db --limit x"),
    (2, "--from", "events full.db --from yesterday"),
    (2, "--from", "events full.db --from 2026-13-01"),
    (2, "--from", "events full.db --from 2026-01-01T25:00"),
    (2, "--from", "events full.db --from 1e3"),
    (2, "--from", "events full.db --from ²"),
    (2, "--until", "export full.db new.jsonl --until 12:00"),
    (2, "--until", "events full.db --until 99999999999999999999999999"),
    (2, "--from", "events full.db --from -99999999999999999999 --until -9999999999999999999"),
    (2, "later", "events full.db --from 2 --until 1"),
    (2, "cursor", "events full.db --cursor nonsense"),
    (2, "cursor", "events full.db --cursor AAAA"),
    (2, "cursor", "events full.db --cursor größe"),
    (2, "cursor", "export full.db new.jsonl --cursor AAAA"),
    (2, "--cursor", f"events full.db --cursor {CURSOR} --until 5"),
    # both ends
    (2, "standard input", "verify - -"),
]


@pytest.mark.parametrize(("status", "says", "command"), WRONG, ids=[wrong[2][:60] for wrong in WRONG])
def test_wrong_words_are_refused_and_change_nothing(
    ferry: Ferry, world: dict[str, object], status: int, says: str, command: str
) -> None:
    assert says.lower() in ferry.refused(*command.split(), status=status).lower()


@pytest.mark.parametrize(
    "words",
    [
        ["events", "full.db", "--from", ""],
        ["events", "full.db", "--cursor", ""],
        ["describe", ""],
        ["import", "lines.jsonl", ""],
        ["incremental", "push", "id", "lines.jsonl", "full.db", "--part", ""],
        ["describe", "sqlite:///a%00b.db"],
        ["init", "sqlite:///a%00b.db"],
        ["import", "lines.jsonl", "sqlite:///a%00b.db"],
        ["describe", "postgresql://[host/db"],
        ["describe", "sqlite:///full.db?events_table_name=a%00b"],
    ],
    ids=repr,
)
def test_empty_and_odd_words_are_wrong_usage(
    ferry: Ferry, world: dict[str, object], words: list[str]
) -> None:
    ferry.refused(*words, status=2)


def test_a_number_that_is_none_is_refused_in_plain_words(ferry: Ferry) -> None:
    told = ferry.refused("tail", "a.db", "-n", "x", status=2)
    assert "'x' is not a valid whole number" in told


TOO_LARGE = "99999999999999999999999"


@pytest.mark.parametrize(
    "words",
    [
        f"tail full.db -n {TOO_LARGE}",
        f"show full.db a --from-version {TOO_LARGE}",
        f"stats full.db --top {TOO_LARGE}",
        f"events full.db --limit {TOO_LARGE}",
        f"export full.db new.jsonl --jobs {TOO_LARGE}",
        f"backup cat repo --jobs {TOO_LARGE}",
        f"restore repo new.db --jobs {TOO_LARGE}",
        f"serve full.db --max-imports {TOO_LARGE}",
        "serve full.db --timeout nan",
        "serve full.db --timeout inf",
        "serve full.db --timeout 1e8",
        "serve full.db --grace nan",
        "serve full.db --grace inf",
        "sync full.db new.db --status --max-lag nan",
        "sync full.db new.db --settle inf",
        "find-poison full.db a:b --timeout nan",
    ],
)
def test_a_number_that_nothing_can_work_with_is_refused(
    ferry: Ferry, world: dict[str, object], words: str
) -> None:
    *_, option, number = words.split()
    told = ferry.refused(*words.split(), status=2)
    assert f"'{option}'" in told
    assert f"{number} is " in told


@pytest.mark.parametrize("words", [["", "full.db", "--replace"], ["a" * 300, "full.db", "--replace"]])
def test_an_impossible_name_of_a_file_is_refused(
    ferry: Ferry, world: dict[str, object], words: list[str]
) -> None:
    ferry.refused("import", *words)


# stores that are not there

MISSING = [
    "drop missing.db --yes",
    "describe missing.db",
    "describe missing.db --json --cursor",
    "events missing.db",
    "events missing.db --json",
    "export missing.db new.jsonl",
    "export missing.db new.jsonl.gz --freeze",
    "export missing.db -",
    "incremental begin missing.db",
    "incremental push id lines.jsonl missing.db",
    "incremental commit id missing.db",
    "incremental rollback missing.db",
    "export-secrets missing.db new.jsonl",
    "export-secrets missing.db -",
    "import-secrets secrets.jsonl missing.db",
    "freeze missing.db",
    "unfreeze missing.db",
    "upgrade missing.db",
    "verify missing.db full.db",
    "verify full.db missing.db",
    "verify missing.db lines.jsonl --content",
    "import missing.db full.db --replace",
    "incremental-import missing.db full.db",
    "incremental-import missing.db full.db --dry-run",
    "copy missing.db full.db --replace",
    "copy missing.db new.db",
    "import missing.db new.db",
    "incremental-import missing.db new.db",
]


@pytest.mark.parametrize("command", MISSING)
def test_a_missing_store_is_named_and_no_file_is_created(
    ferry: Ferry, world: dict[str, object], command: str
) -> None:
    assert "missing.db" in ferry.refused(*command.split())


@pytest.mark.parametrize("command", ["describe", "freeze", "upgrade"])
def test_tables_that_are_missing_in_a_file_that_is_there_are_not_made(
    ferry: Ferry, world: dict[str, object], command: str
) -> None:
    assert "other" in ferry.refused(command, "sqlite:///full.db?events_table_name=other")


# what must not be told

URLS = [
    f"postgresql://user:{SECRET}@host/db",
    f"postgresql://host/db?password={SECRET}",
    f"mysql://user:{SECRET}@host:3306/db?charset=utf8",
    f"mariadb://user:p%40{SECRET}@host/db",
    f"oracle://user:{SECRET}@host/db",
    f"sqlite://user:{SECRET}@host/x.db",
    f"postgresql://user:{SECRET}@[host/db",
    f"postgresql://user:a@{SECRET}@host/db",
    f"postgresql:user:{SECRET}@host/db",
    f"postgresql:user:{SECRET}@host",
    f"postgresql:/user:{SECRET}@host/db",
    f"mysql//user:{SECRET}@host/db",
    f"user:{SECRET}@host/db",
    f"host=localhost password={SECRET}",
    f"host=/run/postgresql password = '{SECRET}'",
    f"password={SECRET}:x@y host=localhost",
    f"Server=host;Pwd={SECRET};",
]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize(
    "command",
    [
        "init URL",
        "drop URL --yes",
        "describe URL --json",
        "events URL",
        "export URL new.jsonl",
        "export full.db URL",
        "import URL new.db",
        "import lines.jsonl URL",
        "copy full.db URL",
        "copy URL full.db --replace",
        "incremental-import URL full.db",
        "export-secrets full.db URL",
        "import-secrets URL full.db",
        "verify full.db URL",
        "backup full.db URL",
        "backup list URL",
        "restore URL new.db",
        # where no store is expected
        "describe full.db URL",
        "URL describe",
        "copy full.db new.db --from URL",
        "copy full.db --to URL",
        "events full.db --limit URL",
        "events full.db --limit=URL",
        "tail full.db -nURL",
        "sync full.db new.db --rate URL",
        "copy full.db new.db --rules URL",
        "copy full.db new.db --set URL",
        "token revoke URL --tokens lines.jsonl",
    ],
)
def test_a_password_in_a_url_is_never_printed(
    ferry: Ferry, world: dict[str, object], command: str, url: str
) -> None:
    outcome = ferry(*(word.replace("URL", url) for word in command.split()))
    assert outcome.status in (1, 2)
    assert SECRET not in outcome.out + outcome.err


def test_a_name_that_is_no_text_is_refused_or_told_without_an_accident(
    ferry: Ferry, world: dict[str, object]
) -> None:
    name = "\udcff.db"  # the byte FF, as Python spells it in arguments
    assert process("describe", name).status == 1
    assert process("import", "\udcff.jsonl", "full.db", "--replace").is_orderly


def test_a_store_whose_name_is_no_text_can_be_described(ferry: Ferry) -> None:
    assert process("init", "\udcff.db").status == 0
    for more in ((), ("--json",)):
        told = process("describe", "\udcff.db", *more)
        assert told.is_orderly
        assert told.status == 0
