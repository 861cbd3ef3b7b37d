"""The real reSolve packages, installed once and shared by all tests of this folder."""

from __future__ import annotations

import shutil

import pytest

from tests.interop.resolve import ResolvePackages, install


@pytest.fixture(scope="session")
def resolve() -> ResolvePackages:
    missing = [program for program in ("node", "npm") if shutil.which(program) is None]
    if missing:
        pytest.skip(f"the real reSolve needs {' and '.join(missing)}, not found here")
    return ResolvePackages(install())
