"""The command as a process: its start, its exit status, signals, pipes, and what a terminal shows."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import IO

import pytest

import eventferry
from tests.support import line, make_event, make_lines
from tests.support.cli import COMMAND, PATIENCE, Ferry, environment, new_ferry, process, sent

ferry = pytest.fixture(new_ferry)

AT_ONCE = 20.0
"""Seconds within which Ctrl-C must end a command, on a loaded machine too: what does not hear it stays for ever."""

MANY = 30_000


@pytest.fixture(scope="module")
def many() -> bytes:
    """30,000 events, about 21 MB: enough for several commits of an import."""
    return b"".join(line(make_event(i, payload={"number": i, "filling": "x" * 550})) for i in range(MANY))


def ended(child: subprocess.Popen[bytes], within: float = PATIENCE) -> tuple[int, str, str]:
    """Wait for the end of a child; its exit status, standard output and standard error."""
    try:
        status = child.wait(within)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
        pytest.fail(f"still running after {within} seconds")
    out, err = (
        pipe.read().decode() if pipe and not pipe.closed else "" for pipe in (child.stdout, child.stderr)
    )
    for pipe in (child.stdin, child.stdout, child.stderr):
        if pipe is not None:
            pipe.close()
    assert "Traceback" not in err
    assert "this should not happen" not in err
    assert "Exception ignored" not in err
    return status, out, err


def interrupted(child: subprocess.Popen[bytes]) -> str:
    """Ctrl-C; the words that it ended with."""
    child.send_signal(signal.SIGINT)
    status, out, err = ended(child, AT_ONCE)
    assert (status, out) == (130, "")
    return err


def feed(child: subprocess.Popen[bytes], content: bytes) -> None:
    """Write into the standard input of a child, which stays open; returns when the child has read nearly all."""
    pipe = sent(child.stdin)
    pipe.write(content)
    pipe.flush()


def files_beside(ferry: Ferry, *stores: str) -> set[str]:
    return ferry.names() - set(stores)


# the start


def test_python_m_eventferry_is_the_command(ferry: Ferry) -> None:
    told = process("--help")
    assert (told.status, told.err) == (0, "")
    assert "Usage: eventferry" in told.out


def test_the_installed_command_is_the_same(ferry: Ferry) -> None:
    command = Path(sys.executable).with_name("eventferry")
    told = subprocess.run([command, "--version"], capture_output=True, check=True, timeout=PATIENCE)
    assert told.stdout.decode() == process("--version").out


@pytest.mark.parametrize("words", [["--help"], ["import", "--help"], ["nonsense"]])
def test_help_loads_neither_a_database_nor_a_progress_bar(ferry: Ferry, words: list[str]) -> None:
    script = (
        "import sys\nfrom eventferry.cli import main\nmain(sys.argv[1:])\n"
        "print(*sorted(sys.modules), file=sys.__stderr__, sep='\\n')"
    )
    told = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, check=True, timeout=PATIENCE
    )
    loaded = set(told.stderr.decode().split())
    assert "eventferry.cli" in loaded
    unwanted = {
        "sqlite3",
        "_sqlite3",
        "rich",
        "starlette",
        "uvicorn",
        "prometheus_client",
        "limits",
        "eventferry.http",
        "backports.zstd",
        "eventferry.databases.sqlite",
        "eventferry.demo.run",
        "asyncio",
        "logging",
        "msgspec",
    }
    assert not loaded & unwanted


DRIVERS = {"psycopg", "pymysql"}
DECORATION = {
    "click",
    "rich",
    "starlette",
    "uvicorn",
    "prometheus_client",
    "backports.zstd",
    "compression.zstd",
}


def loaded_by(script: str) -> set[str]:
    told = subprocess.run(
        [sys.executable, "-c", f"{script}\nimport sys\nprint(*sys.modules)"],
        capture_output=True,
        check=True,
        timeout=PATIENCE,
    )
    return set(told.stdout.decode().split())


def test_the_library_loads_what_it_needs_when_it_is_used() -> None:
    loaded = loaded_by("import eventferry")
    assert "eventferry.errors" in loaded
    assert not loaded & (DRIVERS | DECORATION | {"sqlite3", "asyncio", "msgspec", "eventferry.store"})


def test_a_sqlite_store_loads_no_other_driver_and_nothing_for_people() -> None:
    loaded = loaded_by(
        "from eventferry.sync import open_store\n"
        "with open_store('sqlite://:memory:') as store:\n"
        "    store.init()\n"
        "    list(store.export_events())"
    )
    assert "sqlite3" in loaded
    assert not loaded & (DRIVERS | DECORATION | {"eventferry.http", "eventferry.cli"})


def test_a_store_that_is_opened_loads_nothing_that_starts_processes() -> None:
    loaded = loaded_by("import eventferry\neventferry.open_store('sqlite://:memory:')")
    assert "eventferry.store" in loaded
    assert "eventferry.processes.worker" not in loaded


def test_all_public_names_are_there_although_they_are_loaded_late() -> None:
    for name in eventferry.__all__:
        assert getattr(eventferry, name) is not None
        assert name in dir(eventferry)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = eventferry.nonsense


def test_a_command_in_a_pipe_loads_no_progress_bar(ferry: Ferry) -> None:
    script = (
        "import sys\nfrom eventferry.cli import main\nassert main(sys.argv[1:]) == 0\n"
        "assert 'sqlite3' in sys.modules\nassert 'rich' not in sys.modules"
    )
    told = subprocess.run(
        [sys.executable, "-c", script, "import", "-", "a.db"],
        input=make_lines(3),
        capture_output=True,
        check=False,
        timeout=PATIENCE,
    )
    assert told.returncode == 0, told.stderr.decode()


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["init", "new.db"], 0),
        (["describe", "missing.db"], 1),
        (["verify", "a.db", "b.jsonl"], 1),
        (["verify", "a.db", "a.jsonl"], 0),
        (["nonsense"], 2),
        (["events", "a.db", "--cursor", "AAAA"], 2),
        (["drop", "a.db"], 2),
    ],
)
def test_the_process_ends_with_the_status_of_the_command(ferry: Ferry, words: list[str], status: int) -> None:
    ferry.store("a.db", 3)
    ferry.file("a.jsonl", make_lines(3))
    ferry.file("b.jsonl", make_lines(2))
    told = process(*words)
    assert told.status == status
    assert told.is_orderly


@pytest.mark.slow
def test_output_is_utf_8_whatever_the_locale(ferry: Ferry) -> None:
    store = ferry.store("a.db", [make_event(0, payload="größe 🚢", aggregateId="ü")])
    other = ferry.file("b.jsonl", [make_event(0, payload="other", aggregateId="ü")])
    for words in (("events", store), ("events", store, "--json"), ("export", store, "-")):
        told = process(*words, env=environment(PYTHONIOENCODING="latin-1"))
        assert told.is_orderly
        assert told.status == 0
        assert "größe 🚢" in told.out
    told = process("verify", store, other, env=environment(PYTHONIOENCODING="ascii"))
    assert told.is_orderly
    assert told.status == 1


# pipes whose reader has gone


@pytest.mark.parametrize(
    "words", ["events a.db --limit 5000", "events a.db --limit 5000 --json", "export a.db -"]
)
def test_a_reader_that_stops_early_ends_it_with_141(ferry: Ferry, words: str) -> None:
    ferry.store("a.db", 5000)
    child = ferry.start(*words.split())
    assert sent(child.stdout).read(1) == b"{"
    sent(child.stdout).close()
    status, _, err = ended(child)
    assert (status, err) == (141, "")


@pytest.mark.parametrize(
    ("command", "status"), [("events a.db --limit 5000 | head -1", 141), ("export a.db - | head -c1", 141)]
)
def test_head_in_a_shell_sees_141_in_the_pipe(ferry: Ferry, command: str, status: int) -> None:
    ferry.store("a.db", 5000)
    script = f'"{sys.executable}" -m eventferry {command}; exit "${{PIPESTATUS[0]}}"'
    told = subprocess.run(["bash", "-c", script], capture_output=True, check=False, timeout=PATIENCE)
    assert told.stdout.startswith(b"{")
    assert (told.returncode, told.stderr) == (status, b"")


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "events a.db",
        "events a.db --json",
        "export a.db -",
        "export a.db new.jsonl --json",
        "describe a.db",
        "describe a.db --json",
        "import a.jsonl new.db --json",
        "incremental-import a.jsonl a.db --json",
        "incremental begin a.db",
        "export-secrets secrets.db -",
        "verify a.db b.jsonl",
        "verify a.db a.jsonl --json",
        "--help",
        "import --help",
        "--version",
    ],
)
def test_a_pipe_that_nobody_reads_ends_every_command_with_141(ferry: Ferry, words: str) -> None:
    ferry.store("a.db", 3)
    ferry.file("a.jsonl", make_lines(3))
    ferry.file("b.jsonl", make_lines(2))
    ferry.store("secrets.db")
    ferry.done("import-secrets", "-", "secrets.db", stdin=b'{"secret":"s","id":"z","idx":0}\n')
    reader, writer = os.pipe()
    os.close(reader)
    child = ferry.start(*words.split(), stdout=writer)
    os.close(writer)
    status, _, _ = ended(child)
    assert status == 141


@pytest.mark.parametrize(
    "words", ["events a.db", "events a.db --json", "export a.db -", "describe a.db", "verify a.db b.jsonl"]
)
def test_a_full_disk_behind_stdout_is_a_failure_that_is_told(ferry: Ferry, words: str) -> None:
    ferry.store("a.db", 3)
    ferry.file("b.jsonl", make_lines(2))
    with Path("/dev/full").open("wb") as full:
        child = ferry.start(*words.split(), stdout=full)
    status, _, err = ended(child)
    assert status == 1
    assert "space" in err


@pytest.mark.parametrize(
    "words",
    ["token add a --scope read --tokens t.json", "incremental begin a.db", "parts begin a.db --replace"],
)
def test_what_is_printed_only_once_is_taken_back_if_it_cannot_be_printed(ferry: Ferry, words: str) -> None:
    ferry.store("a.db", 3)
    with Path("/dev/full").open("wb") as full:
        child = ferry.start(*words.split(), stdout=full)
    assert ended(child)[0] == 1
    ferry.done(*words.split())  # which would be refused


@pytest.mark.parametrize(
    ("words", "closed"),
    [
        ("events a.db", ">&-"),
        ("describe a.db", ">&-"),
        ("export a.db -", ">&-"),
        ("describe a.db", "2>&-"),
        ("describe missing.db", "2>&-"),
        ("import - new.db", "<&-"),
        ("init new.db", ">&-"),
    ],
)
def test_a_closed_standard_file_is_no_accident(ferry: Ferry, words: str, closed: str) -> None:
    ferry.store("a.db", 3)
    script = f'"{sys.executable}" -m eventferry {words} {closed}'
    told = subprocess.run(["bash", "-c", script], capture_output=True, check=False, timeout=PATIENCE)
    assert told.returncode in (0, 1)
    assert b"this should not happen" not in told.stderr
    assert b"Traceback" not in told.stderr


# Ctrl-C


def waiting(ferry: Ferry, *words: str) -> subprocess.Popen[bytes]:
    """A command that has begun to read its standard input, and waits for more of it."""
    child = ferry.start(*words)
    feed(child, b"\n")
    unread = bytearray(4)
    while fcntl.ioctl(sent(child.stdin), termios.FIONREAD, unread) or any(unread):
        assert child.poll() is None, ended(child)
        time.sleep(0.01)
    time.sleep(0.1)
    return child


def begun(ferry: Ferry, *words: str) -> subprocess.Popen[bytes]:
    """A command that has had time to begin, and then can do nothing but wait."""
    child = ferry.start(*words)
    time.sleep(1.5)
    assert child.poll() is None
    return child


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "import - a.db --replace",
        "import - a.db --replace --freeze",
        "import - a.db --manual",
        "incremental-import - a.db",
        "verify a.db -",
        "import-secrets - a.db",
    ],
)
def test_ctrl_c_ends_a_command_that_waits_on_a_silent_pipe(ferry: Ferry, words: str) -> None:
    ferry.store("a.db", 3)
    interrupted(waiting(ferry, *words.split()))
    assert ferry.exported("a.db") == make_lines(3)
    assert ferry.done("describe", "a.db", "--json").json["isFrozen"] is False


def test_ctrl_c_ends_a_push_that_waits_and_leaves_the_import_open(ferry: Ferry) -> None:
    import_id = ferry.done("incremental", "begin", ferry.store("a.db", 3)).out.strip()
    interrupted(waiting(ferry, "incremental", "push", import_id, "-", "a.db"))
    ferry.done("incremental", "push", import_id, "-", "a.db", stdin=make_lines(5))
    assert ferry.done("incremental", "commit", import_id, "a.db", "--json").json["imported"] == 2


@pytest.mark.slow
def test_ctrl_c_ends_a_command_that_waits_on_a_named_pipe(ferry: Ferry) -> None:
    ferry.store("a.db", 3)
    os.mkfifo(ferry.directory / "pipe.jsonl")
    interrupted(begun(ferry, "import", "pipe.jsonl", "a.db", "--replace"))
    writer = os.open(ferry.directory / "pipe.jsonl", os.O_RDWR)  # opened, and silent
    interrupted(begun(ferry, "import", "pipe.jsonl", "a.db", "--replace"))
    os.close(writer)
    assert ferry.exported("a.db") == make_lines(3)


@pytest.mark.slow
def test_ctrl_c_ends_an_export_that_waits_for_the_reader_of_a_named_pipe(ferry: Ferry) -> None:
    ferry.store("a.db", 3)
    os.mkfifo(ferry.directory / "pipe.jsonl")
    interrupted(begun(ferry, "export", "a.db", "pipe.jsonl"))


def test_ctrl_c_ends_an_export_whose_reader_is_asleep(ferry: Ferry) -> None:
    ferry.store("a.db", 5000)
    child = ferry.start("export", "a.db", "-", "--freeze")
    select.select([sent(child.stdout)], [], [], PATIENCE)
    time.sleep(0.3)
    child.send_signal(signal.SIGINT)
    assert child.wait(AT_ONCE) == 130
    ended(child)
    assert ferry.done("describe", "a.db", "--json").json["isFrozen"] is False


@pytest.mark.slow
def test_ctrl_c_during_an_export_leaves_the_old_file_and_nothing_beside(ferry: Ferry, many: bytes) -> None:
    ferry.done("import", ferry.file("many.jsonl", many), "a.db")
    ferry.file("out.gz", b"precious")
    before = ferry.names()
    child = ferry.start("export", "a.db", "out.gz")
    while not any(name.endswith(".part") for name in ferry.names()):
        assert child.poll() is None
        time.sleep(0.01)
    interrupted(child)
    assert (ferry.directory / "out.gz").read_bytes() == b"precious"
    assert ferry.names() == before


def test_a_second_ctrl_c_is_no_accident_either(ferry: Ferry) -> None:
    child = waiting(ferry, "import", "-", "a.db")
    child.send_signal(signal.SIGINT)
    child.send_signal(signal.SIGINT)
    status, _, _ = ended(child, AT_ONCE)
    assert status in (130, -signal.SIGINT)


def test_ctrl_c_says_how_to_go_on(ferry: Ferry) -> None:
    assert "--resume" in interrupted(waiting(ferry, "import", "-", "a.db"))


# an import that was interrupted, and its resumption


def offset_of_resume(ferry: Ferry, store: str) -> int:
    """Where `--resume` would go on."""
    from eventferry import EventStore

    async def offset(opened: EventStore) -> int:
        stream = opened.import_events(resume=True)
        await stream.__aenter__()
        place = stream.byte_offset
        await stream.abort(asyncio.CancelledError())
        return place

    return ferry.in_store(store, offset)


@pytest.fixture(params=[signal.SIGINT, signal.SIGKILL], ids=["SIGINT", "SIGKILL"])
def broken_off(ferry: Ferry, many: bytes, request: pytest.FixtureRequest) -> bytes:
    """a.db with 3 events, and an import with --freeze into it that was killed after 18 MB; all of its source."""
    ferry.store("a.db", 3)
    child = ferry.start("import", "-", "a.db", "--replace", "--freeze")
    feed(child, many[:18_000_000])
    child.send_signal(request.param)
    status, _, _ = ended(child, AT_ONCE)
    assert status == (130 if request.param == signal.SIGINT else -signal.SIGKILL)
    return many


@pytest.mark.slow
def test_what_an_interrupted_import_leaves_is_the_old_store(ferry: Ferry, broken_off: bytes) -> None:
    assert ferry.exported("a.db") == make_lines(3)
    description = ferry.done("describe", "a.db", "--json").json
    assert (description["eventCount"], description["isFrozen"]) == (3, False)
    # The next command works without repair, and an import without --resume begins anew.
    ferry.done("incremental-import", "-", "a.db", stdin=make_lines(5))
    ferry.done("import", "-", "a.db", "--replace", stdin=make_lines(7))
    assert ferry.exported("a.db") == make_lines(7)
    assert files_beside(ferry, "a.db") == set()


@pytest.mark.slow
def test_resume_goes_on_where_an_interrupted_import_was(ferry: Ferry, broken_off: bytes) -> None:
    assert offset_of_resume(ferry, "a.db") > 8_000_000
    source = ferry.file("many.jsonl", broken_off)
    told = ferry.done("import", source, "a.db", "--replace", "--resume", "--json")
    assert told.json == {"imported": MANY, "byteOffset": len(broken_off)}
    assert ferry.exported("a.db") == broken_off
    assert files_beside(ferry, "a.db", "many.jsonl") == set()


@pytest.mark.slow
def test_resume_refuses_another_source_and_a_shorter_one(ferry: Ferry, broken_off: bytes) -> None:
    other = broken_off.replace(b'"number":1000,', b'"number":1001,', 1)
    for source in (other, broken_off[:1_000_000]):
        ferry.refused("import", ferry.file("other.jsonl", source), "a.db", "--replace", "--resume")
        assert ferry.exported("a.db") == make_lines(3)
    # Neither spoils the resumption from the right one, from standard input too.
    assert offset_of_resume(ferry, "a.db") > 8_000_000
    ferry.done("import", "-", "a.db", "--replace", "--resume", stdin=broken_off)
    assert ferry.exported("a.db") == broken_off


@pytest.mark.slow
def test_a_first_import_that_was_killed_goes_on_without_replace(ferry: Ferry, many: bytes) -> None:
    child = ferry.start("import", "-", "new.db")
    feed(child, many[:18_000_000])
    child.kill()
    ended(child)
    ferry.done("import", ferry.file("many.jsonl", many), "new.db", "--resume")
    assert ferry.exported("new.db") == many


@pytest.mark.slow
def test_a_copy_that_was_killed_goes_on(ferry: Ferry, many: bytes) -> None:
    ferry.done("import", ferry.file("many.jsonl", many), "a.db")
    ferry.store("b.db", 3)
    child = ferry.start("copy", "a.db", "b.db", "--replace")
    grown = 6_000_000
    while sum(path.stat().st_size for path in ferry.directory.glob("b.db*")) < grown:
        assert child.poll() is None
        time.sleep(0.005)
    child.kill()
    ended(child)
    assert ferry.exported("b.db") == make_lines(3)
    ferry.done("copy", "a.db", "b.db", "--replace", "--resume")
    assert ferry.done("verify", "a.db", "b.db").status == 0


@pytest.mark.slow
def test_a_manual_import_that_was_killed_may_simply_be_sent_again(ferry: Ferry, many: bytes) -> None:
    child = ferry.start("import", "-", "a.db", "--manual")
    feed(child, many[:18_000_000])
    child.kill()
    ended(child)
    count = ferry.done("describe", "a.db", "--json").json["eventCount"]
    assert 0 < count < MANY
    ferry.done("import", ferry.file("many.jsonl", many), "a.db", "--manual")
    assert ferry.exported("a.db") == many


@pytest.mark.slow
def test_a_manual_import_that_was_interrupted_says_where_to_go_on(ferry: Ferry, many: bytes) -> None:
    child = ferry.start("import", "-", "a.db", "--manual")
    feed(child, many[:18_000_000])
    found = re.search(r"--byte-offset (\d+)", interrupted(child))
    assert found is not None
    words = ("--manual", "--byte-offset", found[1])
    ferry.done("import", ferry.file("many.jsonl", many), "a.db", *words)
    assert ferry.exported("a.db") == many


def test_an_import_that_runs_keeps_another_out_and_says_since_when(ferry: Ferry) -> None:
    child = waiting(ferry, "import", "-", "a.db")
    told = ferry.refused("import", "-", "a.db", stdin=make_lines(3))
    assert "another import" in told
    sent(child.stdin).write(make_lines(5))
    sent(child.stdin).close()
    assert ended(child)[0] == 0
    assert ferry.exported("a.db") == make_lines(5)


def test_a_save_during_an_import_makes_it_refuse_to_replace(ferry: Ferry) -> None:
    ferry.store("a.db", 3)
    child = waiting(ferry, "import", "-", "a.db", "--replace")
    ferry.done("incremental-import", "-", "a.db", stdin=make_lines(4))
    sent(child.stdin).write(make_lines(9))
    sent(child.stdin).close()
    status, out, err = ended(child)
    assert (status, out) == (1, "")
    assert "nothing was replaced" in err
    assert len(ferry.exported("a.db").splitlines()) == 4


def test_freeze_keeps_writers_out_while_an_import_runs(ferry: Ferry) -> None:
    ferry.store("a.db", 3)
    child = waiting(ferry, "import", "-", "a.db", "--replace", "--freeze")
    assert ferry.done("describe", "a.db", "--json").json["frozenBy"] == "operation"
    assert "frozen" in ferry.refused("incremental-import", "-", "a.db", stdin=make_lines(4))
    sent(child.stdin).close()
    ended(child)


# terminals

BAR = re.compile("\x1b\\[|\r")


def on_a_terminal(ferry: Ferry, *words: str, stdin: bytes) -> tuple[int, str, bytes]:
    """Run a command whose standard error is a terminal, its input slow; status, terminal and standard output."""
    terminal, side = pty.openpty()
    with (ferry.directory / "stdout").open("wb") as file:
        child = ferry.start(
            *words, stdout=file, stderr=side, env=environment(TERM="xterm-256color", COLUMNS="100")
        )
    os.close(side)
    half = len(stdin) // 2
    feed(child, stdin[:half])
    time.sleep(0.5)
    feed(child, stdin[half:])
    sent(child.stdin).close()
    with closing(os.fdopen(terminal, "rb", buffering=0)) as screen:
        shown = b"".join(_until_the_end(screen))
    status = child.wait(PATIENCE)
    return status, shown.decode(), (ferry.directory / "stdout").read_bytes()


def _until_the_end(screen: IO[bytes]) -> Iterator[bytes]:
    while True:
        try:
            block = screen.read(65536)
        except OSError:  # the other end has closed
            return
        if not block:
            return
        yield block


def test_on_a_terminal_an_import_shows_a_bar_with_a_rate_and_ends_in_words(ferry: Ferry) -> None:
    status, shown, out = on_a_terminal(ferry, "import", "-", "a.db", "--json", stdin=make_lines(3000))
    assert status == 0
    assert BAR.search(shown)
    assert "importing" in shown
    assert re.search(r"[kM]?B/s", shown)
    assert json.loads(out) == {"imported": 3000, "byteOffset": len(make_lines(3000))}


def test_the_bar_gives_the_screen_back(ferry: Ferry) -> None:
    status, shown, _ = on_a_terminal(ferry, "import", "-", "a.db", stdin=make_lines(3000))
    assert status == 0
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    assert "imported 3,000" in shown[shown.rindex("\x1b[?25h") :]


def test_ctrl_c_gives_the_screen_back_too(ferry: Ferry) -> None:
    terminal, side = pty.openpty()
    child = ferry.start("import", "-", "a.db", stderr=side, env=environment(TERM="xterm-256color"))
    os.close(side)
    feed(child, make_lines(3))
    with closing(os.fdopen(terminal, "rb", buffering=0)) as screen:
        begun = b""
        while b"\x1b[?25l" not in begun:
            begun += screen.read(65536)
        child.send_signal(signal.SIGINT)
        shown = (begun + b"".join(_until_the_end(screen))).decode()
    assert ended(child, AT_ONCE)[0] == 130
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    assert "Traceback" not in shown


@pytest.mark.slow
def test_in_a_pipe_there_is_no_bar(ferry: Ferry) -> None:
    store = ferry.store("a.db", 3000)
    for words in (
        ("import", "-", "b.db"),
        ("export", store, "out.jsonl"),
        ("copy", store, "c.db"),
        ("incremental-import", "-", store),
        ("verify", store, "-"),
    ):
        told = process(*words, stdin=make_lines(3000))
        assert (told.status, told.out) == (0, "")
        assert not BAR.search(told.err)
        assert len(told.err.splitlines()) == 1


def test_data_on_a_pipe_stay_clean_where_stderr_is_a_terminal(ferry: Ferry) -> None:
    store = ferry.store("a.db", 3000)
    _, _, out = on_a_terminal(ferry, "export", store, "-", stdin=b"")
    assert out == make_lines(3000)


def test_two_commands_joined_by_a_pipe_move_a_store(ferry: Ferry) -> None:
    ferry.store("a.db", 3000)
    python = " ".join(f'"{word}"' for word in COMMAND)
    script = f"set -o pipefail; {python} export a.db - | {python} import - b.db"
    subprocess.run(["bash", "-c", script], check=True, capture_output=True, timeout=PATIENCE)
    assert ferry.exported("b.db") == make_lines(3000)


def test_an_export_killed_in_a_pipe_does_not_look_like_an_end(ferry: Ferry) -> None:
    ferry.store("a.db", 5000)
    source = ferry.start("export", "a.db", "-")
    got = sent(source.stdout).read(200_000)
    source.kill()
    got += sent(source.stdout).read()
    ended(source)
    assert len(got) < len(make_lines(5000))
    ferry.store("b.db", 3)
    assert "ends inside" in ferry.refused("import", "-", "b.db", "--replace", stdin=got)
    assert ferry.exported("b.db") == make_lines(3)
