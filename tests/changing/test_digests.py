"""The digest of changes stands in the state of syncs: a later version must find the same one for the same changes."""

from __future__ import annotations

from pathlib import Path

from eventferry import Changes

RULES = """
[pseudonyms]
key_file = "own.key"
[[rule]]
type = ["B", "A"]
rename = "C"
redact = ["/a", "/b/*"]
set = { "/source" = { "z" = 1, "a" = 1.5 } }
[[rule]]
aggregate_prefix = "user-"
pseudonym_aggregate = true
"""


def test_a_sync_that_was_begun_by_an_earlier_version_goes_on(tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text(RULES)
    (tmp_path / "own.key").write_bytes(b"sixteen bytes and more")
    few = Changes(event_types=["B", "A"], exclude_types=["C"], start_time=5)
    many = Changes(rules=tmp_path / "rules.toml", aggregate_prefixes=["b", "a"], keep_positions=True)
    assert few.digest == "f9ecbb0b4757d830fc3b12108ebe83322ef217c067d69ae1e71990778139b277"
    assert many.digest == "995805f1c682183e27e851023791abee664012bf15b07edf4de0b1ccda2892f3"
