"""What a repository holds, how old it is, and its figures for a monitor."""

from __future__ import annotations

import msgspec

from eventferry.backup import chain as chains
from eventferry.backup.chain import Chain
from eventferry.backup.reading import chain_in
from eventferry.backup.storage import Storage
from eventferry.clock import now


class Run(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A run, as its manifest tells of it.

    Attributes:
        chain: of which store.
        source: where that was, without a password.
        manifest: the number of the manifest.
        created: when it was made, in ms since 1970.
        events: events of the state.
        parts: parts of the state.
        plain_bytes: bytes of the lines.
        stored_bytes: bytes of the parts.
        is_encrypted: whether its new parts were encrypted.
        has_secrets: whether the state has secrets too.
        bookmark: of the store, behind what was backed up.
    """

    chain: str
    source: str
    manifest: int
    created: int
    events: int
    parts: int
    plain_bytes: int
    stored_bytes: int
    is_encrypted: bool
    has_secrets: bool
    bookmark: str


class RepositoryStatus(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """How a backup is.

    Attributes:
        repository: where it is, without a password.
        newest: the last run.
        age_seconds: how long ago that was; below 0 where a clock was wrong, and the time is still to come.
    """

    repository: str
    newest: Run
    age_seconds: float


async def runs(storage: Storage, chain: str | None = None, limit: int | None = None) -> list[Run]:
    """The runs, chain by chain, in order; the last `limit` ones of each. Raises RepositoryError where there is no
    backup, and RepositoryDamagedError."""
    names = await chains.chains(storage)
    found = [
        await _run(each, number)
        for name in names
        if chain in (None, name)
        for each in [await Chain.read(storage, name)]
        for number in each.numbers[-limit if limit else None :]
    ]
    if not found:
        raise chains.no_backup(storage)
    return found


async def status(storage: Storage, chain: str | None = None) -> RepositoryStatus:
    """How the newest backup is. Raises as `reading.chain_in` does."""
    found = await chain_in(storage, chain)
    newest = await _run(found, found.numbers[-1])
    return RepositoryStatus(
        repository=storage.place,
        newest=newest,
        age_seconds=(now() - newest.created) / 1000,
    )


async def _run(chain: Chain, number: int) -> Run:
    manifest = (await chain.entry(number)).manifest
    totals = manifest.totals
    return Run(
        chain=chain.name,
        source=manifest.source,
        manifest=number,
        created=manifest.created,
        events=totals.events,
        parts=totals.parts,
        plain_bytes=totals.plain_bytes,
        stored_bytes=totals.stored_bytes,
        is_encrypted=bool(manifest.recipients),
        has_secrets=manifest.secrets is not None,
        bookmark=manifest.cut,
    )


_METRICS = (
    ("last_success_timestamp_seconds", "When the last backup was made, in seconds since 1970."),
    ("events", "Events in the backup."),
    ("parts", "Parts of the backup."),
    ("plain_bytes", "Bytes of the backup's lines."),
    ("stored_bytes", "Bytes of the backup's parts."),
    ("manifests", "Number of the newest manifest."),
)


def metrics_of(status: RepositoryStatus) -> str:
    """The figures in the text format of Prometheus, for the textfile collector of node_exporter."""
    newest = status.newest
    values = (
        newest.created / 1000,
        newest.events,
        newest.parts,
        newest.plain_bytes,
        newest.stored_bytes,
        newest.manifest,
    )
    labels = f'{{repository="{_escaped(status.repository)}",source="{_escaped(newest.source)}"}}'
    return "".join(
        f"# HELP eventferry_backup_{name} {help}\n# TYPE eventferry_backup_{name} gauge\n"
        f"eventferry_backup_{name}{labels} {value}\n"
        for (name, help), value in zip(_METRICS, values, strict=True)
    )


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
