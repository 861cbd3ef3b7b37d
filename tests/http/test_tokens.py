"""The file of tokens, and the commands that change it."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from eventferry import EventferryError, UsageError
from eventferry.http import TokenFile
from tests.support.cli import Ferry, new_ferry

ferry = pytest.fixture(new_ferry)


def test_add_prints_the_token_alone_and_keeps_only_its_hash(ferry: Ferry) -> None:
    told = ferry.done("token", "add", "ci", "--scope", "read", "--scope", "import", "--tokens", "t.json")
    token = told.out.removesuffix("\n")
    assert told.out.count("\n") == 1
    assert len(token) > 40
    path = ferry.directory / "t.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    assert token not in text
    assert token not in told.err
    (kept,) = json.loads(text)["tokens"]
    assert kept["sha256"] == hashlib.sha256(token.encode()).hexdigest()
    assert (kept["name"], kept["scopes"]) == ("ci", ["read", "import"])
    assert ferry.names() == {"t.json"}


def test_list_tells_names_and_scopes_and_no_hash(ferry: Ferry) -> None:
    ferry.done("token", "add", "ci", "--scope", "read,import", "--tokens", "t.json")
    ferry.done("token", "add", "admin", "-S", "secrets", "-S", "write", "--tokens", "t.json")
    told = ferry.done("token", "list", "--tokens", "t.json").out
    assert "ci     read,import" in told
    assert "admin  write,secrets" in told
    kept = json.loads((ferry.directory / "t.json").read_text())["tokens"]
    assert all(token["sha256"] not in told for token in kept)
    listed = ferry.done("token", "list", "--tokens", "t.json", "--json").json["tokens"]
    assert [(token["name"], token["scopes"]) for token in listed] == [
        ("ci", ["read", "import"]),
        ("admin", ["write", "secrets"]),
    ]
    assert "sha256" not in listed[0]


def test_revoke_takes_one_out(ferry: Ferry) -> None:
    for name in ("a", "b"):
        ferry.done("token", "add", name, "--scope", "read", "--tokens", "t.json")
    ferry.done("token", "revoke", "a", "--tokens", "t.json")
    assert ferry.done("token", "list", "--tokens", "t.json").out.startswith("b ")
    assert "has no token" in ferry.refused("token", "revoke", "a", "--tokens", "t.json", status=2)
    assert stat.S_IMODE((ferry.directory / "t.json").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["add", "ci", "--scope", "everything", "--tokens", "t.json"], 2),
        (["add", "ci", "--tokens", "t.json"], 2),
        (["add", "ci", "--scope", "read"], 2),
        (["add", "", "--scope", "read", "--tokens", "t.json"], 2),
        (["add", "a\nb", "--scope", "read", "--tokens", "t.json"], 2),
        (["add", "ci", "--scope", "read", "--tokens", "no/where/t.json"], 1),
        (["list", "--tokens", "t.json"], 1),
        (["revoke", "ci", "--tokens", "t.json"], 1),
    ],
)
def test_what_makes_no_sense_is_refused_and_leaves_no_file(
    ferry: Ferry, words: list[str], status: int
) -> None:
    ferry.refused("token", *words, status=status)
    assert ferry.names() == set()


def test_a_name_has_one_token(ferry: Ferry) -> None:
    ferry.done("token", "add", "ci", "--scope", "read", "--tokens", "t.json")
    assert "revoke it first" in ferry.refused(
        "token", "add", "ci", "--scope", "write", "--tokens", "t.json", status=2
    )


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o602, 0o610])
def test_a_file_that_others_can_reach_is_refused(ferry: Ferry, mode: int) -> None:
    ferry.done("token", "add", "ci", "--scope", "read", "--tokens", "t.json")
    (ferry.directory / "t.json").chmod(mode)
    for words in (["list"], ["revoke", "ci"], ["add", "x", "--scope", "read"]):
        assert "chmod 600" in ferry.refused("token", *words, "--tokens", "t.json")


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    for text in (b"", b"[]", b'{"tokens":[{"name":"a"}]}', b'{"tokens":[],"more":1}', b"\xff"):
        path.write_bytes(text)
        path.chmod(0o600)
        with pytest.raises(EventferryError, match="not a token file"):
            TokenFile(path).tokens()
    with pytest.raises(EventferryError, match="not a file"):
        TokenFile(tmp_path).tokens()


def test_tokens_that_are_made_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    names = [f"name-{number}" for number in range(20)]
    threads = [
        threading.Thread(target=lambda name=name: TokenFile(tmp_path / "t.json").add(name, ["read"]))
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(token.name for token in TokenFile(tmp_path / "t.json").tokens()) == sorted(names)


def test_every_token_is_compared_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = TokenFile(tmp_path / "t.json")
    made = [file.add(f"name-{number}", ["read"]) for number in range(5)]
    compared = []
    real: Callable[[str, str], bool] = hmac.compare_digest

    def counting(one: str, other: str) -> bool:
        compared.append(one)
        return real(one, other)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    for token in (made[0], made[4], "nonsense", "\ud800", "é"):
        compared.clear()
        found = file.find(token)
        assert (found is not None) == (token in made)
        assert len(compared) == 5


def test_a_file_is_read_again_only_when_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = TokenFile(tmp_path / "t.json")
    file.add("a", ["read"])
    reads = []
    real = Path.read_bytes

    def counting(path: Path) -> bytes:
        reads.append(path)
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", counting)
    for _ in range(5):
        assert len(file.tokens()) == 1
    assert len(reads) == 1
    TokenFile(tmp_path / "t.json").add("b", ["read"])
    assert len(file.tokens()) == 2


@pytest.mark.parametrize("links", [1, 2])
def test_what_is_revoked_through_a_link_is_revoked_in_the_file_it_leads_to(
    tmp_path: Path, links: int
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "etc").mkdir()
    file = tmp_path / "real" / "t.json"
    link = tmp_path / "etc" / "t.json"
    link.symlink_to("../real/t.json")
    if links == 2:
        (tmp_path / "etc" / "again").symlink_to("t.json")
        link = tmp_path / "etc" / "again"
    TokenFile(link).add("first", ["read"])  # before there is a file
    running = TokenFile(file)
    token = TokenFile(link).add("second", ["read"])
    assert running.find(token) is not None
    TokenFile(link).revoke("second")
    assert running.find(token) is None
    assert link.is_symlink()
    assert [token.name for token in running.tokens()] == ["first"]
    assert sorted(path.name for path in (tmp_path / "etc").iterdir()) == (
        ["again", "t.json"] if links == 2 else ["t.json"]
    )


def test_mode_and_owner_of_the_file_stay(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    TokenFile(path).add("a", ["read"])
    if os.geteuid() == 0:  # a service of its own user, an administrator who is root
        os.chown(path, 65534, 65534)
    path.chmod(0o400)
    before = path.stat()
    TokenFile(path).add("b", ["read"])
    TokenFile(path).revoke("a")
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


def test_a_file_with_two_names_is_not_changed_under_one_of_them(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    token = TokenFile(path).add("a", ["read"])
    (tmp_path / "other.json").hardlink_to(path)
    with pytest.raises(EventferryError, match="hard link"):
        TokenFile(path).revoke("a")
    assert TokenFile(path).find(token) is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.json", "t.json"]


@pytest.mark.parametrize("length", [250, 255])
def test_a_name_of_any_length_that_a_file_can_have_will_do(tmp_path: Path, length: int) -> None:
    file = TokenFile(tmp_path / ("x" * length))
    token = file.add("a", ["read"])
    assert file.find(token) is not None
    assert os.listdir(tmp_path) == ["x" * length]


def test_a_path_stays_the_same_file_when_the_process_goes_to_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "one")
    file = TokenFile("t.json")
    token = file.add("a", ["read"])
    monkeypatch.chdir(tmp_path / "two")
    TokenFile("t.json").add("other", ["read"])
    assert file.find(token) is not None
    file.revoke("a")
    assert [token.name for token in TokenFile("t.json").tokens()] == ["other"]


def test_links_that_lead_in_a_circle_are_told(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(EventferryError, match="cannot be"):
        TokenFile(tmp_path / "a").add("x", ["read"])


def test_scopes_are_checked_where_a_token_is_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="scopes"):
        TokenFile(tmp_path / "t.json").add("a", ["read", "everything"])
