"""Shells complete words: real ones, on a terminal, as somebody types."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cli import Ferry, environment, hear_signals, new_ferry, process

ferry = pytest.fixture(new_ferry)

PATIENCE = 60
"""Seconds for a shell to answer, which is done in one on an idle machine."""

SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "bind 'set enable-bracketed-paste off'"),
    "zsh": (["zsh", "-f", "-i"], "autoload -U compinit; compinit -u -D; unsetopt prompt_sp"),
}

TYPED = {
    "eventferry cutov": "er ",
    "eventferry backup dri": "ll ",
    "eventferry copy --allow-e": "mpty ",
    "eventferry import --format par": "quet ",
    "eventferry describe stag": "ing ",
    "eventferry copy sqlite:///a.db stag": "ing ",
    "eventferry describe new": ".db ",
    "eventferry export staging eve": "nts.jsonl ",
    "eventferry copy staging new.db --rules ru": "les.toml ",
}


class Terminal:
    """A shell in the folder of the test, and somebody who types."""

    def __init__(self, words: list[str], folder: Path) -> None:
        self._ours, theirs = pty.openpty()
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        env = environment(PATH=path, PS1="> ", TERM="dumb", HOME=str(folder), EVENTFERRY_CONFIG="config.toml")
        self._child = subprocess.Popen(
            words,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=folder,
            env=env,
            start_new_session=True,
            preexec_fn=hear_signals,
        )
        os.close(theirs)

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def read_until(self, pattern: str) -> str:
        """What the shell prints, up to this. Fails with it where it does not come."""
        told, end = "", time.monotonic() + PATIENCE
        while not re.search(pattern, told):
            ready, _, _ = select.select([self._ours], [], [], max(end - time.monotonic(), 0))
            assert ready, f"no {pattern!r} in {told!r}"
            told += os.read(self._ours, 65536).decode(errors="replace")
        return told

    def end(self) -> None:
        self._child.kill()
        self._child.wait()
        os.close(self._ours)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.toml").write_text(
        '[stores.staging]\nurl = "mysql://localhost/a"\npassword_command = "touch asked"\n'
    )
    for name in ("events.jsonl", "new.db", "rules.toml"):
        (tmp_path / name).touch()
    return tmp_path


@contextlib.contextmanager
def terminal(shell: str, folder: Path) -> Iterator[Terminal]:
    words, setting = SHELLS[shell]
    opened = Terminal(words, folder)
    try:
        opened.type(f'{setting}; eval "$(eventferry completion {shell})"; echo ready-$?\n')
        opened.read_until(r"ready-0\r?\n")
        yield opened
    finally:
        opened.end()


@pytest.mark.slow
@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_what_is_typed(shell: str, folder: Path) -> None:
    with terminal(shell, folder) as opened:
        for number, (begun, rest) in enumerate(TYPED.items()):
            opened.type(f"{begun}\t")
            opened.read_until(re.escape(begun + rest.rstrip()))
            opened.type(f"\x15echo line-{number}-over\n")
            opened.read_until(rf"\nline-{number}-over")
    assert not (folder / "asked").exists()  # no password is asked for


def test_fish_completes_too(folder: Path) -> None:
    fish = shutil.which("fish")
    assert fish is not None, "scripts/servers installs it"
    words = "eventferry completion fish | source; complete -C 'eventferry cut'; complete -C 'eventferry describe st'"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    told = subprocess.run(
        [fish, "--no-config", "-c", words],
        cwd=folder,
        env=environment(PATH=path, HOME=str(folder), EVENTFERRY_CONFIG="config.toml"),
        capture_output=True,
        check=True,
        timeout=PATIENCE,
    ).stdout.decode()
    assert [line.split("\t")[0] for line in told.splitlines()] == ["cutover", "staging"]


def asked(shell: str, *words: str) -> list[str]:
    """What eventferry answers to a shell."""
    given = environment(
        _EVENTFERRY_COMPLETE=f"{shell}_complete",
        COMP_WORDS="\n".join(("eventferry", *words)),
        COMP_CWORD=str(len(words)),
    )
    return process(env=given).out.splitlines()


def test_a_broken_configuration_does_not_disturb_a_shell(
    ferry: Ferry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENTFERRY_CONFIG", ferry.file("config.toml", b"oops"))
    assert asked("bash", "describe", "a") == ["file,a"]


def test_no_password_is_asked_for_while_a_word_is_completed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("EVENTFERRY_CONFIG", "config.toml")
    assert asked("zsh", "copy", "staging", "stag") == ["file", "stag", "_", "plain", "staging", "_"]
    assert not (folder / "asked").exists()


def test_bash_takes_a_url_for_several_words(ferry: Ferry) -> None:
    given = ("sync", "postgresql", "://h", ":", "5432/a", "mysql", "://h/b", "--fol")
    assert asked("bash", *given) == ["plain,--follow"]
