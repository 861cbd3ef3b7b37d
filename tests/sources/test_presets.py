"""The mappings that come with the package, and files that extend one."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from eventferry.errors import MappingError
from eventferry.sources.mapping import load_mapping, presets


def extending(folder: Path, text: str) -> Path:
    file = folder / "mine.toml"
    file.write_text(text)
    return file


@pytest.mark.parametrize("preset", presets(), ids=lambda preset: preset.name)
def test_a_preset_says_what_it_reads_and_how_well_it_is_checked(preset: object) -> None:
    mapping = load_mapping(preset)  # type: ignore[arg-type]
    assert mapping.about
    assert mapping.checked in ("store", "schema")
    assert not isinstance(mapping.select, str), "a preset says for which databases it is"


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    assert load_mapping(extending(tmp_path, '\ufeffextends = "message-db"\n')).select


def test_a_file_that_extends_a_preset_says_only_what_is_different(tmp_path: Path) -> None:
    file = extending(
        tmp_path,
        'extends = "pyeventsourcing"\n[tables]\nevents = "school_events"\n[data]\ndecode = ["zlib"]\n',
    )
    preset = load_mapping("pyeventsourcing")
    changed = load_mapping(file)
    assert changed == msgspec.structs.replace(
        preset,
        name=str(file),
        checked="own",
        tables={"events": "school_events"},
        data=msgspec.structs.replace(preset.data, decode=("zlib",)),
    )


def test_a_file_that_extends_a_preset_changes_one_key_of_a_table(tmp_path: Path) -> None:
    changed = load_mapping(extending(tmp_path, 'extends = "message-db"\n[time]\nunit = "ms"\n'))
    assert (changed.time.zone, changed.time.unit) == ("UTC", "ms")


@pytest.mark.parametrize("value", ['"unknown"', "7", '"message-db.toml"'])
def test_only_a_preset_can_be_extended(tmp_path: Path, value: str) -> None:
    with pytest.raises(MappingError, match=r"extends: .* is no preset; they are .*message-db"):
        load_mapping(extending(tmp_path, f"extends = {value}\n"))


def test_a_file_that_is_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MappingError, match="recursion"):
        load_mapping(extending(tmp_path, f"extends = {3000 * '['}{3000 * ']'}\n"))
