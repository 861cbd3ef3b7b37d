"""The units and the crontab under deploy/ call commands that there are."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from eventferry.cli import main

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted((DEPLOY / "systemd").iterdir())


VALUES = {"STORE": "a.db", "FROM": "a.db", "TO": "b.db", "PORT": "8080"}
"""Values of the variables that are not any word."""


def _commands() -> list[str]:
    texts = (file.read_text() for file in (*UNITS, DEPLOY / "cron" / "eventferry"))
    found = re.findall(r"(?<![\w/-])eventferry ((?:backup|serve|sync) .*)", "\n".join(texts))
    return [command.replace("\\%", "%") for command in found]


@pytest.mark.parametrize("command", _commands())
def test_a_command_of_deploy_can_be_called(command: str) -> None:
    words = [
        re.sub(r"\$\{?(\w+)\}?", lambda name: VALUES.get(name[1], name[1]), word)
        for word in shlex.split(command)
    ]
    assert main([*words, "--help"]) == 0  # what it does not know is refused before


def test_there_are_units_for_backup_drill_service_and_sync() -> None:
    assert {unit.name for unit in UNITS} == {
        *(f"eventferry-{what}.{kind}" for what in ("backup", "drill") for kind in ("service", "timer")),
        "eventferry-serve.service",
        "eventferry-sync.service",
    }
    assert len(_commands()) == 10


def test_what_does_the_work_logs_in_json() -> None:
    works = re.compile(r"(serve|sync|backup drill|backup --quiet) ")
    working = [command for command in _commands() if works.match(command)]
    assert len(working) == 6
    assert [command for command in working if "--log-format json" not in command] == []


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_takes_a_unit(unit: Path, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:  # told by the sections then
        assert unit.read_text().count("[Unit]") == 1
        return
    for each in UNITS:
        text = each.read_text().replace("=eventferry ", "=/bin/echo ")
        (tmp_path / each.name).write_text(text)
    ended = subprocess.run([analyze, "verify", tmp_path / unit.name], capture_output=True, check=False)
    assert unit.name not in ended.stderr.decode(), ended.stderr.decode()
