"""Each fault of mutants.toml fits the code of today; `scripts/mutants` puts them in and runs their tests."""

from __future__ import annotations

from tests.support.mutants import ROOT, WrongEntryError, changed, read_mutants


def test_every_known_fault_fits_the_code() -> None:
    wrong: list[str] = []
    for mutant in read_mutants():
        try:
            compile(changed(mutant, ROOT / "src" / "eventferry" / mutant.file), mutant.file, "exec")
        except (WrongEntryError, SyntaxError) as error:
            wrong.append(f"{mutant.name}: {error}")
        if not (ROOT / mutant.test[0].partition("::")[0]).exists():
            wrong.append(f"{mutant.name}: {mutant.test[0]} is not there")
    assert not wrong
