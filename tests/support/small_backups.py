"""Backup repositories as the tests make them: with parts as small as they like."""

from __future__ import annotations

from collections.abc import Sequence
from secrets import token_hex

from eventferry import EventStore
from eventferry import cursor as vector
from eventferry.backup import format
from eventferry.backup.chain import Chain
from eventferry.backup.format import Descriptor, Link, Manifest, Part, Totals
from eventferry.backup.packing import ENCRYPTED, ENDING, Packer, Recipient
from eventferry.backup.storage import Storage, probe
from eventferry.clock import now
from eventferry.reading.bookmarks import decode

KEY = "AGE-SECRET-KEY-1LECNTVENF4RX8MR0CNXTXFRVSH7PHXSSRF7DJ63YAZS8322TX4LSY8CLR0"
RECIPIENT = "age1hwhp4qe9zhl9uaet7ngndhzk4jax97shytvjtu0vaygu4r7d9grsecfj5c"
"""A pair of keys of age."""


async def back_up(
    store: EventStore,
    storage: Storage,
    *,
    per_part: int = 3,
    recipients: Sequence[Recipient] = (),
    source: str = "the store",
    created: int | None = None,
) -> Manifest:
    """A run that makes parts of so many events."""
    await probe(storage)
    end = await store.bookmark()
    chain = await Chain.read(storage, decode(end).identity.hex())
    newest = chain.newest
    since = None if newest is None else newest.manifest.cut
    parts: list[Part] = []
    while True:
        start = [0] * vector.THREADS if since is None else decode(since).unread
        packer = Packer(recipients)
        export = store.export_events(since=since, limit=per_part)
        async for block in export:
            packer.add(block)
        if not export.exported:
            break
        packed, since = packer.finish(), await export.bookmark()
        part = Part(
            file=f"parts/{format.key_of(start)}-{token_hex(4)}{ENDING}{ENCRYPTED if recipients else ''}",
            events=export.exported,
            end=since,
            plain=packed.plain,
            stored=packed.stored,
            recipients=[recipient.fingerprint for recipient in recipients],
        )
        assert await storage.put_new(format.part_name(chain.name, part), packed.data)
        descriptor = format.seal(Descriptor(chain=chain.name, part=part))
        assert await storage.put_new(format.descriptor_name(chain.name, part.key), descriptor)
        parts.append(part)
    number = 1 if newest is None else newest.link.number + 1
    created = now() if created is None else created
    root = 1 if newest is None else newest.manifest.root
    base: Link | None = None
    totals = (Totals() if newest is None else newest.manifest.totals).plus(parts)
    if newest is not None:
        before, found = await chain.parts_since(newest, format.base_of(number, root))
        assert found is not None
        base, parts = found, [*before, *parts]
    manifest = Manifest(
        chain=chain.name,
        number=number,
        previous=None if newest is None else newest.link,
        base=base,
        root=root,
        run=token_hex(8),
        tool="a test",
        created=created,
        begun=created if newest is None else newest.manifest.begun,
        source=source,
        cut=since or end,
        parts=parts,
        totals=totals,
        recipients=[recipient.text for recipient in recipients],
    )
    assert await chain.commit(manifest)
    return manifest
