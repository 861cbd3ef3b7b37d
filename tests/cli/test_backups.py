"""The command backup."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pyrage
import pytest

from tests.support.cli import PATIENCE, Ferry, new_ferry

ferry = pytest.fixture(new_ferry)

NEW = b'{"type":"T","timestamp":1700000000000,"aggregateId":"new"}\n'


def test_a_backup_says_what_it_added(ferry: Ferry) -> None:
    ferry.store("a.db", 20)
    told = ferry.done("backup", "a.db", "repository")
    assert told.out == ""
    assert told.err.startswith("backed up 20 events in ")
    assert "manifest 1 of chain " in told.err
    assert " has 20 events, digest " in told.err
    assert "backed up 0 events" in ferry.done("backup", "a.db", "repository").err


def test_the_report_is_json(ferry: Ferry) -> None:
    ferry.store("a.db", 20)
    report = ferry.done("backup", "a.db", "repository", "--json").json
    assert (report["manifest"], report["events"], report["totalEvents"], report["secrets"]) == (
        1,
        20,
        20,
        None,
    )
    manifest = Path("repository", report["chain"], "manifests", "00000001.json")
    summed = subprocess.run(["sha256sum", manifest], capture_output=True, check=True, text=True).stdout
    assert summed.startswith(report["digest"])


def test_a_quiet_backup_prints_nothing(ferry: Ferry) -> None:
    ferry.store("a.db", 20)
    told = ferry.done("backup", "a.db", "repository", "--quiet")
    assert (told.out, told.err) == ("", "")


def test_a_quiet_backup_says_what_is_wrong(ferry: Ferry) -> None:
    ferry.store("a.db", 20)
    ferry.file("repository", b"")
    assert "the repository repository: Not a directory" in ferry.refused(
        "backup", "a.db", "repository", "--quiet"
    )


def test_a_missing_store_is_told_before_a_repository_is_made(ferry: Ferry) -> None:
    assert "there is no store at a.db" in ferry.refused("backup", "a.db", "repository")
    assert ferry.names() == set()


def test_what_is_no_repository_is_a_mistake_of_usage(ferry: Ferry) -> None:
    ferry.store("a.db", 1)
    assert "is not a repository" in ferry.refused("backup", "a.db", "ftp://host/r", status=2)
    assert "b.db is a store" in ferry.refused("backup", "a.db", "b.db", status=2)


def test_a_store_that_was_restored_is_refused_by_name(ferry: Ferry) -> None:
    ferry.store("a.db", 20)
    before = Path("a.db").read_bytes()
    ferry.done("incremental-import", "-", "a.db", stdin=NEW)
    ferry.done("backup", "a.db", "repository")
    Path("a.db").write_bytes(before)
    told = ferry.refused("backup", "a.db", "repository")
    assert "the store is not a continuation of its chain" in told
    assert "back up into another repository" in told


@pytest.mark.slow
def test_a_backup_that_is_ended_by_a_signal_is_gone_on_with(ferry: Ferry) -> None:
    ferry.store("a.db", 100_000)
    child = ferry.start("backup", "a.db", "repository")
    while not list(Path("repository").glob("*/parts/*")) and child.poll() is None:
        time.sleep(0.001)
    child.send_signal(signal.SIGTERM)
    _, err = child.communicate(timeout=PATIENCE)
    if child.returncode:  # otherwise it was faster
        assert (child.returncode, err) == (143, b"eventferry: ended by SIGTERM\n")
        assert not list(Path("repository").glob(".unfinished/*"))
    report = ferry.done("backup", "a.db", "repository", "--json").json
    assert report["totalEvents"] == 100_000


def test_a_file_of_recipients_encrypts(ferry: Ferry) -> None:
    identity = pyrage.x25519.Identity.generate()
    ferry.file("keys.txt", f"# the backup's\n{identity.to_public()}\n".encode())
    ferry.store("a.db", 20)
    ferry.done("backup", "a.db", "repository", "--recipient", "keys.txt")
    [part] = Path("repository").glob("*/parts/*.age")
    packed = pyrage.decrypt(part.read_bytes(), [identity])
    lines = subprocess.run(["zstdcat"], input=packed, capture_output=True, check=True).stdout
    assert lines.decode() == ferry.done("export", "a.db", "-").out
    told = ferry.refused("backup", "a.db", "repository", status=2)
    assert "give a recipient" in told


def test_a_restore_needs_nothing_but_zstdcat_and_jq(ferry: Ferry) -> None:
    """As docs/backup-format.md says."""
    document = Path(__file__).parents[2] / "docs" / "backup-format.md"
    _, begun = document.read_text().split("$ cat > restore.sh <<'END'\n")
    script = "".join(each.removeprefix("> ") for each in begun.partition("> END\n")[0].splitlines(True))
    ferry.file("restore.sh", script.encode())
    ferry.store("a.db", 20)
    for number in range(9):
        ferry.done("backup", "a.db", "repository", "--quiet")
        ferry.done("incremental-import", "-", "a.db", stdin=NEW.replace(b"new", b"new-%d" % number))
    ferry.done("backup", "a.db", "repository", "--quiet")
    [chain] = [each for each in Path("repository").iterdir() if each.is_dir() and each.name[0] != "."]
    restored = subprocess.run(
        ["bash", "restore.sh", chain], capture_output=True, check=True, timeout=60
    ).stdout
    assert restored == ferry.done("export", "a.db", "-").out.encode()
    ferry.done("import", "-", "b.db", stdin=restored)
