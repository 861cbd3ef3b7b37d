"""Parts are read by zstd and age, and are what was written or are refused."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pyrage
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from eventferry import InputError, MissingExtraError, RepositoryDamagedError, RepositoryError, UsageError
from eventferry.backup.format import Part
from eventferry.backup.packing import (
    Packed,
    Packer,
    check_stored,
    load_identities,
    load_recipients,
    unpacked,
)

LINES = b"".join(b'{"number":%d}\n' % number for number in range(200_000))


@pytest.fixture(scope="module")
def identity() -> Any:
    return pyrage.x25519.Identity.generate()


@pytest.fixture(scope="module")
def recipient(identity: Any) -> str:
    return str(identity.to_public())


@pytest.fixture(scope="module")
def ssh_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SSH key without a passphrase; beside it is the public one."""
    path = tmp_path_factory.mktemp("ssh") / "id"
    key = Ed25519PrivateKey.generate()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    path.with_suffix(".pub").write_bytes(public + b" a comment\n")
    return path


def packed(lines: bytes, *recipients: str | Path) -> Packed:
    packer = Packer(load_recipients(recipients))
    for start in range(0, len(lines), 70_001):
        packer.add(lines[start : start + 70_001])
    return packer.finish()


def part_of(packed: Packed, ending: str = "") -> Part:
    return Part(
        file="parts/" + "0" * 32 + "-00000000.jsonl.zst" + ending,
        events=1,
        plain=packed.plain,
        stored=packed.stored,
    )


def read(packed: Packed, ending: str = "", identities: Any = ()) -> bytes:
    part = part_of(packed, ending)
    return b"".join(unpacked("a", part, check_stored("a", part, packed.data), identities))


def test_zstdcat_reads_a_part(tmp_path: Path) -> None:
    (tmp_path / "a.zst").write_bytes(packed(LINES).data)
    assert subprocess.run(["zstdcat", tmp_path / "a.zst"], capture_output=True, check=True).stdout == LINES
    assert read(packed(LINES)) == LINES


def test_the_same_lines_give_the_same_bytes() -> None:
    assert packed(LINES) == packed(LINES)


def test_a_part_has_a_checksum_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a.zst").write_bytes(packed(LINES).data)
    told = subprocess.run(["zstd", "-lv", tmp_path / "a.zst"], capture_output=True, check=True, text=True)
    assert "Check: XXH64" in told.stdout


def test_an_encrypted_part_is_read_with_each_recipients_key(
    identity: Any, recipient: str, ssh_key: Path
) -> None:
    part = packed(LINES, recipient, ssh_key.with_suffix(".pub"))
    assert read(part, ".age", [identity]) == LINES
    assert read(part, ".age", load_identities([ssh_key])) == LINES
    assert read(part, ".age", pickle.loads(pickle.dumps(load_identities([ssh_key])))) == LINES
    assert LINES[:100] not in part.data


def test_the_age_command_reads_an_encrypted_part(
    identity: Any, recipient: str, ssh_key: Path, tmp_path: Path
) -> None:
    if shutil.which("age") is None:
        pytest.skip("needs the command age (Debian's package of this name)")
    (tmp_path / "key").write_text(f"{identity}\n")
    (tmp_path / "a").write_bytes(packed(LINES, recipient, ssh_key.with_suffix(".pub")).data)
    for key in (tmp_path / "key", ssh_key):
        ended = subprocess.run(["age", "-d", "-i", key, tmp_path / "a"], capture_output=True, check=True)
        assert (
            subprocess.run(["zstdcat"], input=ended.stdout, capture_output=True, check=True).stdout == LINES
        )


def test_what_is_encrypted_by_age_is_read(identity: Any, recipient: str, tmp_path: Path) -> None:
    if shutil.which("age") is None:
        pytest.skip("needs the command age (Debian's package of this name)")
    plain = packed(LINES)
    made = subprocess.run(["age", "-r", recipient], input=plain.data, capture_output=True, check=True).stdout
    part = msgspec.structs.replace(part_of(plain, ".age"))
    assert b"".join(unpacked("a", part, made, [identity])) == LINES


def test_an_encrypted_part_does_not_tell_the_digest_of_its_lines(recipient: str) -> None:
    assert packed(LINES, recipient).plain.sha256 is None
    assert packed(LINES, recipient).plain.bytes == len(LINES)


def test_without_a_key_an_encrypted_part_is_checked_but_not_read(recipient: str) -> None:
    part = packed(LINES, recipient)
    assert check_stored("a", part_of(part, ".age"), part.data) == part.data
    with pytest.raises(RepositoryError, match="a is encrypted: give the key of one of its recipients"):
        read(part, ".age")


def test_another_key_does_not_read_it(recipient: str) -> None:
    with pytest.raises(RepositoryError, match="a cannot be decrypted: No matching keys found"):
        read(packed(LINES, recipient), ".age", [pyrage.x25519.Identity.generate()])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda data: None, "it is missing"),
        (lambda data: data[:-1], "bytes instead of"),
        (lambda data: data + b"\0", "bytes instead of"),
        (lambda data: bytes([data[0] ^ 1]) + data[1:], "its checksum is wrong"),
    ],
)
def test_other_bytes_than_those_that_were_stored_are_found_without_a_key(
    recipient: str, spoil: Any, reason: str
) -> None:
    part = packed(LINES, recipient)
    with pytest.raises(RepositoryDamagedError, match=f"a in the repository is damaged.*{reason}"):
        check_stored("a", part_of(part, ".age"), spoil(part.data))


def test_other_lines_than_those_that_were_packed_are_found() -> None:
    one, two = packed(LINES), packed(LINES.replace(b"1", b"2"))
    with pytest.raises(RepositoryDamagedError, match="it does not hold the lines that were written"):
        b"".join(unpacked("a", part_of(one), two.data))


def test_a_part_that_is_cut_off_is_found() -> None:
    part = packed(LINES)
    with pytest.raises(InputError, match="damaged or cut off"):
        b"".join(unpacked("a", part_of(part), part.data[:-10]))


def test_the_last_piece_comes_only_when_all_was_right() -> None:
    part = part_of(packed(LINES))
    wrong = msgspec.structs.replace(part, plain=msgspec.structs.replace(part.plain, sha256="0" * 64))
    taken = b""
    with pytest.raises(RepositoryDamagedError):  # noqa: PT012
        for piece in unpacked("a", wrong, packed(LINES).data):
            taken += piece
    assert len(taken) < len(LINES)


def test_a_file_of_keys_may_begin_with_a_byte_order_mark(tmp_path: Path, recipient: str) -> None:
    (tmp_path / "to").write_text(recipient, encoding="utf-8-sig")
    assert [each.text for each in load_recipients([tmp_path / "to"])] == [recipient]


def test_recipients_come_from_files_once_each(tmp_path: Path, recipient: str, ssh_key: Path) -> None:
    public = ssh_key.with_suffix(".pub").read_text()
    (tmp_path / "all").write_text(f"# two of them\n\n{recipient}\n{public}")
    found = load_recipients([tmp_path / "all", recipient])
    assert sorted(each.text for each in found) == sorted([recipient, public.removesuffix(" a comment\n")])
    assert [each.fingerprint for each in found] == sorted(each.fingerprint for each in found)


@pytest.mark.parametrize("given", ["age1nonsense", "ssh-ed25519 nonsense"])
def test_what_is_no_public_key_is_refused(given: str) -> None:
    with pytest.raises(UsageError, match="is not a public key"):
        load_recipients([given])


def test_a_secret_key_is_refused_as_a_recipient_without_repeating_it(
    identity: Any, ssh_key: Path, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text(f"# made today\n{identity}\n")
    for given in (str(identity), tmp_path / "key", ssh_key):
        with pytest.raises(UsageError, match="this is a secret key") as error:
            load_recipients([given])
        assert str(identity)[20:] not in str(error.value)


def test_a_line_of_a_file_that_is_no_key_is_told_by_its_number(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("\nhunter2\n")
    with pytest.raises(UsageError, match="a, line 2: this is not a public key") as error:
        load_recipients([tmp_path / "a"])
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("content", [None, b"", b"# nothing\n", b"\xff"])
def test_a_file_without_keys_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a"
    if content is not None:
        path.write_bytes(content)
    for load in (load_recipients, load_identities):
        with pytest.raises(UsageError, match=r"the file of \w+ .*/a (has none|cannot be read)"):
            load([path])


def test_a_file_of_public_keys_is_no_identity(tmp_path: Path, recipient: str) -> None:
    (tmp_path / "a").write_text(recipient)
    with pytest.raises(UsageError, match="is not a file of secret keys"):
        load_identities([tmp_path / "a"])


def test_without_pyrage_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyrage", None)
    with pytest.raises(MissingExtraError, match=r"eventferry\[backup\]"):
        load_recipients(["age1x"])
