"""Packages of npm, installed once for all tests."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

CACHE = Path(__file__).parents[3] / "build" / "interop"

_QUICKLY = {"CFLAGS": "-O0", "CXXFLAGS": "-O0"}
"""To compile SQLite as it comes takes longer than all tests with it."""


def install(manifest: Path, *, compiled: str = "", works: str = "") -> Path:
    """The folder with the packages of a package.json, installed there once for this Node.

    Args:
        manifest: the package.json.
        compiled: a package that is compiled if there is no binary for this machine.
        works: JavaScript that only ends well if it was.
    """
    node = _run("node", "-p", "process.versions.modules + process.arch", cwd=manifest.parent).stdout
    text = manifest.read_bytes()
    folder = CACHE / hashlib.sha256(text + node.encode()).hexdigest()[:16]
    CACHE.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "installed").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            (folder / "package.json").write_bytes(text)
            _install_into(folder, compiled, works)
            (folder / "installed").touch()
    return folder


def _install_into(folder: Path, compiled: str, works: str) -> None:
    installed = _run("npm", "install", "--no-audit", "--no-fund", "--foreground-scripts", cwd=folder)
    if not compiled or _ends_well(works, folder).returncode == 0:
        return
    # Some versions of npm hold the build step of a package back until it is approved.
    rebuilt = _run("npm", "rebuild", compiled, "--foreground-scripts", cwd=folder)
    ended = _ends_well(works, folder)
    if ended.returncode:
        raise RuntimeError(f"{compiled} was not built:\n{installed.stdout}\n{rebuilt.stdout}\n{ended.stdout}")


def _ends_well(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return _run("node", "-e", script, cwd=folder, check=False)


def _run(*command: str, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | _QUICKLY,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed with {done.returncode}:\n{done.stdout}")
    return done
