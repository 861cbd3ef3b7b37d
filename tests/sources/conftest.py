"""A table of one's own as a source, on every database: what a test here says must hold on each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.foreign.rows import Rows, rows_on
from tests.support.places import DATABASES


@pytest.fixture(params=DATABASES)
def own(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rows]:
    with rows_on(request.param, tmp_path) as rows:
        yield rows
