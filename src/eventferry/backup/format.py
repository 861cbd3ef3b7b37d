"""The objects of a repository, as docs/backup-format.md describes them.

Beside the parts, which are packed lines, each object is one line of JSON whose last member, `sha256`, is the SHA-256 of
the bytes before it: a damaged object shows without any other. Numbered objects (manifests, erasures) hold the SHA-256
of the whole object before them, so that none in the middle can be changed without changing all behind it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Annotated, TypeVar

import msgspec

from eventferry import __version__
from eventferry import cursor as vector
from eventferry.errors import RepositoryDamagedError, RepositoryError

FORMAT = 1

TOOL = f"eventferry {__version__}"
"""What a manifest says it was made by."""

MARKER = "repository.json"
"""The object that every run tries to create: it says what this is, and shows that the storage honours conditions."""

PART_BYTES = 16 * 1024 * 1024
"""Bytes of lines, not packed, after which a part ends."""

Hex = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Count = Annotated[int, msgspec.Meta(ge=0)]
Number = Annotated[int, msgspec.Meta(ge=1, le=99_999_999)]
CHAIN = "[0-9a-f]{16}"
ChainName = Annotated[str, msgspec.Meta(pattern=rf"^{CHAIN}\Z")]
ArchiveId = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}\Z")]
PartKey = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
PART_FILE = r"(parts|secrets)/[0-9a-f]{32}-[0-9a-f]{8}\.jsonl\.zst(\.age)?"
PartFile = Annotated[str, msgspec.Meta(pattern=rf"^{PART_FILE}\Z")]


class Digest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How many bytes, and their SHA-256; None where it would tell what an encrypted part holds."""

    bytes: Count
    sha256: Hex | None


class Stored(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The same of what stands in the storage."""

    bytes: Count
    sha256: Hex


class Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Consecutive lines of the export, or of secrets, in one object.

    Attributes:
        file: its name within the chain, `parts/<key>-<random>.jsonl.zst`, with `.age` where it is encrypted; `key` is
            `key_of` where it begins, or what `begin` stands for.
        events: how many lines.
        end: the bookmark behind its last event. It begins at the end of the part before, or at the start of the store.
            None for secrets.
        plain: of the lines.
        stored: of the object.
        first_time: timestamp of its first event, in ms; timestamps between it and `last_time` may be beyond both.
        last_time: timestamp of its last event.
        recipients: fingerprints of those who can read it (`packing.Recipient.fingerprint`); none where it is open.
        begin: `key_of` where it begins, if that was not known when it was named: then its name is of its own bytes.
    """

    file: PartFile
    events: Count
    end: str | None = None
    plain: Digest
    stored: Stored
    first_time: int | None = None
    last_time: int | None = None
    recipients: list[str] = []
    begin: PartKey | msgspec.UnsetType = msgspec.UNSET

    @property
    def key(self) -> str:
        """Of where it begins."""
        return self.file.partition("/")[2][:32] if self.begin is msgspec.UNSET else self.begin

    @property
    def is_encrypted(self) -> bool:
        """Whether a key is needed to read it."""
        return self.file.endswith(".age")


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`parts/<key>.json`: which part begins there. The first one that is created is used by every run."""

    format: int = FORMAT
    chain: ChainName
    part: Part


class Link(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Another numbered object of the chain: its number, and the SHA-256 of its bytes."""

    number: Number
    sha256: Hex


class Totals(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Of all parts of a chain up to a manifest."""

    parts: Count = 0
    events: Count = 0
    plain_bytes: Count = 0
    stored_bytes: Count = 0

    def plus(self, parts: Sequence[Part]) -> Totals:
        """With these parts behind them."""
        return Totals(
            parts=self.parts + len(parts),
            events=self.events + sum(part.events for part in parts),
            plain_bytes=self.plain_bytes + sum(part.plain.bytes for part in parts),
            stored_bytes=self.stored_bytes + sum(part.stored.bytes for part in parts),
        )


class BackedUpSecrets(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The store's secrets as they were when a manifest was made, or one before it.

    Attributes:
        manifest: the number of the manifest that they were written for.
        parts: lines of secrets, deleted ones without their keys.
    """

    manifest: Number
    parts: list[Part]


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`manifests/<number>.json`: a state of the store, in whole.

    Attributes:
        format: the version of the format.
        chain: whose events they are: the identity of the store, as bookmarks hold it.
        number: from 1.
        previous: the manifest before.
        base: the manifest whose parts come before `parts`; None if `parts` are all.
        root: the number of the newest manifest, up to this one, whose base is None.
        run: random, of the run that made it.
        tool: name and version of what made it.
        created: when, in ms since 1970.
        begun: when manifest 1 was made; when its making began, where processes wrote the parts for it.
        source: the store's URL without user, password and options; or what a chain of no store was named.
        cut: the bookmark that the parts end at.
        parts: those behind the base's, in order.
        totals: of all parts.
        recipients: whom the new parts of this run are encrypted to, as age writes them.
        secrets: if they were ever asked for.
        erasures: the newest list of erasures at that time; None where nothing was erased.
    """

    format: int = FORMAT
    chain: ChainName
    number: Number
    previous: Link | None
    base: Link | None
    root: Number
    run: str
    tool: str
    created: int
    begun: int | None = None
    source: str
    cut: str
    parts: list[Part]
    totals: Totals
    recipients: list[str] = []
    secrets: BackedUpSecrets | None = None
    erasures: Link | None = None


class ErasureEntry(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A row of the store's table of erasures: what was erased, of events up to a timestamp in ms since 1970."""

    at: int
    what: str


class Erasures(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`erasures/<number>.json`: what was erased in the store since the list before; to be applied to whatever is
    restored, whichever manifest it is of.

    Attributes:
        format: the version of the format.
        chain: as in manifests.
        number: from 1.
        previous: the list before.
        created: when, in ms since 1970.
        state: a digest of all that the store told. Where it tells the same again, nothing is to be added.
        erasures: those that are new, or of a later time than before.
        deleted_secrets: ids of secrets that were deleted since.
    """

    format: int = FORMAT
    chain: ChainName
    number: Number
    previous: Link | None
    created: int
    state: Hex
    erasures: list[ErasureEntry] = []
    deleted_secrets: list[str] = []


class ArchiveMark(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`archives/<id>.json`: the store relies on the payloads of its events in this chain, which so is never removed.

    Attributes:
        format: the version of the format.
        chain: as in manifests.
        id: 16 hex digits, which stand in place of the payloads in the store.
        created: when, in ms since 1970.
        until: which events were to be archived: those up to this timestamp,
        event_types: of these types,
        aggregate_ids: and of these aggregates,
        aggregate_prefixes: or of those whose ids begin so. None: of any.
    """

    format: int = FORMAT
    chain: ChainName
    id: ArchiveId
    created: int
    until: int
    event_types: tuple[str, ...] | None = None
    aggregate_ids: tuple[str, ...] | None = None
    aggregate_prefixes: tuple[str, ...] | None = None


class RepositoryMarker(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`repository.json`."""

    format: int = FORMAT
    what: str = "a backup repository of eventferry"


Sealed = TypeVar("Sealed", Manifest, Descriptor, Erasures, ArchiveMark, RepositoryMarker)

_SEAL = b',"sha256":"'
_SEAL_BYTES = len(_SEAL) + 64 + len(b'"}\n')


def sha256(data: bytes) -> str:
    """In hex."""
    return hashlib.sha256(data).hexdigest()


def key_of(counters: Sequence[int]) -> str:
    """The key of a part that begins at these 256 next counters: 32 hex digits of the SHA-256 of the cursor."""
    return sha256(vector.encode(counters).encode())[:32]


def seal(value: Manifest | Descriptor | Erasures | ArchiveMark | RepositoryMarker) -> bytes:
    """The bytes of an object, with the checksum of themselves."""
    body = msgspec.json.encode(value)[:-1]
    return body + _SEAL + sha256(body).encode() + b'"}\n'


def unseal(data: bytes, kind: type[Sealed], name: str) -> Sealed:
    """The object in these bytes, which stand under this name.

    Raises:
        RepositoryDamagedError: they are not what was written.
        RepositoryError: a newer eventferry has written them.
    """
    body, end = data[:-_SEAL_BYTES], data[-_SEAL_BYTES:]
    if end != _SEAL + sha256(body).encode() + b'"}\n':
        raise RepositoryDamagedError(name, "its checksum is wrong: it was changed, or is not whole")
    try:
        _refuse_newer(msgspec.json.decode(data, type=_Format).format, name)
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise RepositoryDamagedError(name, f"it is not what belongs there: {error}") from None


class _Format(msgspec.Struct):
    format: int


def _refuse_newer(version: int, name: str) -> None:
    if version != FORMAT:
        raise RepositoryError(
            f"{name} has version {version} of the format, and this eventferry knows {FORMAT}: use a newer one"
        )


# names


def manifest_name(chain: str, number: int) -> str:
    """Of a manifest in its repository."""
    return f"{chain}/manifests/{number:08}.json"


def erasures_name(chain: str, number: int) -> str:
    """Of a list of erasures."""
    return f"{chain}/erasures/{number:08}.json"


def archive_name(chain: str, archive: str) -> str:
    """Of what says that the store relies on the chain."""
    return f"{chain}/archives/{archive}.json"


def descriptor_name(chain: str, key: str) -> str:
    """Of what says which part begins at a key."""
    return f"{chain}/parts/{key}.json"


def part_name(chain: str, part: Part) -> str:
    """Of the part's own object."""
    return f"{chain}/{part.file}"


_NUMBERED = re.compile(rf"{CHAIN}/(?:manifests|erasures)/(\d{{8}})\.json")


def number_of(name: str) -> int | None:
    """The number in the name of a manifest or a list of erasures; None where it has none."""
    found = _NUMBERED.fullmatch(name)
    return int(found[1]) if found else None


def base_of(number: int, root: int) -> int:
    """The number of the manifest whose parts come before those of manifest `number` (from 2).

    Where every manifest listed all parts, a thousand of them would hold a million; where each listed only its own, a
    restore would read a thousand. So each lists what came since the number without its last binary one (as in a Fenwick
    tree), at least since `root`, the newest manifest that lists all: a restore reads as many as the number has binary
    ones, and a part stands in as many manifests as the highest number has binary digits, at most.
    """
    return max(number & (number - 1), root)
