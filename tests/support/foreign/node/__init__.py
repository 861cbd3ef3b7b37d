"""Products that run on Node, in processes of their own: each writes or reads once, and ends."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.support.interop import npm

HERE = Path(__file__).parent
PATIENCE = 600


def run(product: str, command: str, place: str, given: Any) -> Any:
    """Run a command of a product, with a JSON value; what it prints as JSON."""
    folder = _packages(is_sqlite="://" not in place)
    ended = subprocess.run(
        ["node", str(HERE / f"{product}.cjs"), command, place],
        input=json.dumps(given),
        env={**os.environ, "NODE_PATH": str(folder / "node_modules")},
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE,
        check=False,
    )
    if ended.returncode:
        raise RuntimeError(f"{product} {command} failed:\n{ended.stderr}")
    return json.loads(ended.stdout or "null")


def _packages(*, is_sqlite: bool) -> Path:
    if not is_sqlite:
        return npm.install(HERE / "postgresql" / "package.json")
    return npm.install(
        HERE / "sqlite" / "package.json",
        compiled="sqlite3",
        works="new (require('sqlite3').Database)(':memory:')",
    )
