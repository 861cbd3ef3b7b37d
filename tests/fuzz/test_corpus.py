"""Every input that the fuzzer kept, and every one that once failed, is run again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.fuzz.targets import TARGETS

CORPUS = Path(__file__).with_name("corpus")


@pytest.mark.parametrize("target", TARGETS)
def test_every_input_of_the_corpus_does_what_the_reference_says(target: str) -> None:
    paths = sorted((CORPUS / target).iterdir())
    assert len(paths) >= 5
    for path in paths:
        try:
            TARGETS[target](path.read_bytes())
        except BaseException as error:
            error.add_note(f"the input is {path}")
            raise


def test_the_corpus_stays_small() -> None:
    paths = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in paths) < 200_000
    assert {path.parent.name for path in paths} == set(TARGETS)
