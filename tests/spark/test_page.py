"""The examples of docs/spark.md."""

from __future__ import annotations

from pathlib import Path

from tests.test_docs import ABOUT_SPARK, ROOT, run_page


def test_the_examples_of_the_page_run_and_print_what_it_shows(tmp_path: Path) -> None:
    run_page(ROOT / "docs" / ABOUT_SPARK, tmp_path)
