"""Objects of a repository say themselves whether they are what was written."""

from __future__ import annotations

import hashlib
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventferry import RepositoryDamagedError, RepositoryError
from eventferry.backup import format
from eventferry.backup.format import Descriptor, Link, Manifest, RepositoryMarker
from tests.support.chains import NAME, bookmark_at, part_of

DESCRIPTOR = Descriptor(chain=NAME, part=part_of(0, 5))


def test_an_object_is_one_line_of_json_that_ends_with_its_checksum() -> None:
    sealed = format.seal(DESCRIPTOR)
    assert sealed.count(b"\n") == 1
    digest = json.loads(sealed)["sha256"]
    assert hashlib.sha256(sealed[: -len(f',"sha256":"{digest}"}}\n')]).hexdigest() == digest
    assert format.unseal(sealed, Descriptor, "a") == DESCRIPTOR


@given(st.data())
def test_any_changed_bit_is_found_by_name(data: st.DataObject) -> None:
    sealed = bytearray(format.seal(DESCRIPTOR))
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(RepositoryDamagedError, match=r"^parts/x\.json in the repository is damaged"):
        format.unseal(bytes(sealed), Descriptor, "parts/x.json")


@given(st.integers(0, len(format.seal(DESCRIPTOR)) - 1))
def test_a_truncated_object_is_found(size: int) -> None:
    with pytest.raises(RepositoryDamagedError, match="its checksum is wrong"):
        format.unseal(format.seal(DESCRIPTOR)[:size], Descriptor, "a")


def test_one_kind_of_object_is_not_taken_for_another() -> None:
    with pytest.raises(RepositoryDamagedError, match="it is not what belongs there"):
        format.unseal(format.seal(DESCRIPTOR), Manifest, "a")


def test_an_object_of_a_newer_format_is_told() -> None:
    with pytest.raises(RepositoryError, match="a has version 2 of the format, and this eventferry knows 1"):
        format.unseal(format.seal(RepositoryMarker(format=2)), RepositoryMarker, "a")


@pytest.mark.parametrize(
    "file",
    [
        "../../../etc/passwd",
        "parts/../manifests/00000001.json",
        "/parts/" + "0" * 32 + "-00000000.jsonl.zst",
        "parts/" + "0" * 32 + "-00000000.jsonl.zst\n",
        "parts/" + "0" * 32 + "-00000000.jsonl",
    ],
)
def test_a_part_cannot_lead_to_a_file_elsewhere(file: str) -> None:
    changed = msgspec.structs.replace(DESCRIPTOR, part=msgspec.structs.replace(DESCRIPTOR.part, file=file))
    with pytest.raises(RepositoryDamagedError):
        format.unseal(format.seal(changed), Descriptor, "a")


def test_the_key_of_a_part_is_that_of_the_cursor_where_it_begins() -> None:
    start = "A" * 2048
    assert part_of(0, 1).key == hashlib.sha256(start.encode()).hexdigest()[:32]


@given(st.integers(2, 10**6), st.integers(1, 10**6))
def test_a_base_is_before_its_manifest_and_not_before_the_root(number: int, root: int) -> None:
    root = min(root, number - 1)
    base = format.base_of(number, root)
    assert root <= base < number


@given(st.integers(2, 10**5), st.integers(1, 10**5))
def test_the_next_base_lies_on_the_way_from_the_newest_manifest(number: int, root: int) -> None:
    root = min(root, number)
    at, steps = number, 0
    target = format.base_of(number + 1, root)
    while at > target:
        at, steps = format.base_of(at, root), steps + 1
    assert at == target
    assert steps <= number.bit_count() + 1


def test_numbers_stand_in_names() -> None:
    assert format.manifest_name(NAME, 7) == f"{NAME}/manifests/00000007.json"
    assert format.number_of(format.manifest_name(NAME, 7)) == 7
    assert format.number_of(f"{NAME}/manifests/7.json") is None
    assert format.number_of(f"{NAME}/manifests/00000007.json.tmp") is None
    assert format.number_of(f"{NAME}/manifests/somebody's copy/00000007.json") is None


def test_links_and_bookmarks_are_checked_as_what_they_are() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"number":0,"sha256":"' + b"0" * 64 + b'"}', type=Link)
    assert bookmark_at(3).startswith("ef1.")
