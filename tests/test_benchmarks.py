"""The benchmark goes with the code that it measures."""

from __future__ import annotations

import importlib
from functools import reduce

import pytest
from benchmarks.steps import INSIDE


@pytest.mark.parametrize(("module", "path", "label"), INSIDE)
def test_every_step_that_the_benchmark_times_is_there(module: str, path: str, label: str) -> None:
    step = reduce(getattr, path.split("."), importlib.import_module(module))

    assert callable(step)
