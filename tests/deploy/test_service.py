"""What is in deploy/ for the service: the container's command and health check, alerts and the dashboard."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from eventferry.http.metrics import Metrics
from tests.support.cli import PATIENCE, Ferry, new_ferry

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"

ferry = pytest.fixture(new_ferry)


def of_container(instruction: str) -> list[Any]:
    """The words of an instruction of the Containerfile, the last if there are several."""
    text = (DEPLOY / "container" / "Containerfile").read_text().replace("\\\n", "")
    found = re.findall(rf"^{instruction}\b.*?(\[.*\])$", text, re.MULTILINE)
    return list(json.loads(found[-1]))


@pytest.mark.slow
def test_the_container_serves_is_healthy_and_stops_orderly(ferry: Ferry) -> None:
    ferry.store("store.db", 3)
    ferry.done("token", "add", "ops", "--scope", "read", "--tokens", "tokens.json")
    assert of_container("ENTRYPOINT") == ["eventferry"]
    child = ferry.start(*of_container("CMD"), "--port", "0")
    assert child.stderr is not None
    port = re.search(rb"http://0\.0\.0\.0:(\d+)", child.stderr.readline())
    assert port is not None
    program, *words = of_container("HEALTHCHECK")
    assert program == "python"  # of the image; not every machine has one of that name
    check = [sys.executable, *(word.replace("8080", port[1].decode()) for word in words)]
    end = time.monotonic() + PATIENCE
    while subprocess.run(check, capture_output=True, check=False).returncode:
        assert time.monotonic() < end
    child.send_signal(signal.SIGTERM)
    assert child.wait(PATIENCE) == 0
    assert subprocess.run(check, capture_output=True, check=False).returncode == 1


def test_the_container_is_built_of_what_is_there_and_runs_as_nobody() -> None:
    text = (DEPLOY / "container" / "Containerfile").read_text()
    copied = [line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY ")]
    assert all(
        (ROOT / name).exists() for words in copied for name in words if not name.startswith(("-", "/"))
    )
    assert re.search(r"^USER 10001$", text, re.MULTILINE)
    extras = re.search(r"'\.\[(.*)\]'", text)
    assert extras is not None
    project = (ROOT / "pyproject.toml").read_text()
    assert all(re.search(rf"^{extra} = \[", project, re.MULTILINE) for extra in extras[1].split(","))


def queries() -> Iterator[str]:
    rules = yaml.safe_load((DEPLOY / "prometheus" / "eventferry.rules.yml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            yield rule["expr"]
    for panel in json.loads((DEPLOY / "grafana" / "eventferry.json").read_text())["panels"]:
        for target in panel["targets"]:
            yield target["expr"]


def test_alerts_and_panels_ask_for_metrics_and_labels_that_there_are() -> None:
    metrics = {
        sample: family
        for family in Metrics().registry.collect()
        for sample in (family.name, f"{family.name}_total", f"{family.name}_bucket")
    }
    backups = (ROOT / "src/eventferry/backup/describing.py").read_text()
    asked = {name for query in queries() for name in re.findall(r"\beventferry_\w+", query)}
    assert len(asked) >= 15
    for name in asked:
        of_backup = name.removeprefix("eventferry_backup_")
        assert name in metrics or f'("{of_backup}", "' in backups, name
    labels = {
        label
        for query in queries()
        for group in re.findall(r"by \((.*?)\)", query)
        for label in group.split(", ")
    }
    code = (ROOT / "src/eventferry/http/metrics.py").read_text()
    assert all(f'"{label}"' in code for label in labels - {"instance", "le"})
