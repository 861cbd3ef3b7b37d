"""What the ids of open imports tell."""

from __future__ import annotations

import pytest

from eventferry.clock import now
from eventferry.databases.names import moment_of, new_import_id


def test_an_id_of_ours_tells_when_it_was_made() -> None:
    assert moment_of(new_import_id(1_600_000_000_000)) == 1_600_000_000_000
    assert moment_of(new_import_id(now())) is not None


@pytest.mark.parametrize(
    "import_id", ["", "x", "aB3" * 20, "f" * 32, "0" * 31, "0" * 33, f"{4_000_000_000_000:012x}" + "0" * 20]
)
def test_an_id_of_somebody_else_tells_nothing(import_id: str) -> None:
    assert moment_of(import_id) is None
