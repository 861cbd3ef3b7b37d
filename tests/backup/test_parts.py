"""A part is packed beside the reading of its lines, and little of it waits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from eventferry.backup import parts
from eventferry.backup.packing import Packer, check_stored, unpacked
from eventferry.backup.parts import PartMaker

LINE = b'{"number":%d}\n'
BLOCKS = [b"".join(LINE % number for number in range(start, start + 100)) for start in range(0, 2000, 100)]


@pytest.fixture
def may_pack(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Parts are packed only once this is set, and ten blocks may wait."""
    may_pack, add = threading.Event(), Packer.add

    def wait(packer: Packer, block: bytes) -> None:
        assert may_pack.wait(20)
        add(packer, block)

    monkeypatch.setattr(Packer, "add", wait)
    monkeypatch.setattr(parts, "WAITING_BYTES", sum(map(len, BLOCKS[:10])))
    yield may_pack
    may_pack.set()


async def test_what_is_read_waits_while_a_part_is_packed(may_pack: threading.Event) -> None:
    maker = PartMaker("parts/" + "0" * 32, [])
    for block in BLOCKS[:10]:
        await asyncio.wait_for(maker.add(block), 20)
    eleventh = asyncio.ensure_future(maker.add(BLOCKS[10]))
    await asyncio.wait([eleventh], timeout=0.2)
    assert not eleventh.done(), "there is no bound for what waits"
    may_pack.set()
    await eleventh
    for block in BLOCKS[11:]:
        await maker.add(block)
    made = await maker.finish("the end")
    data = check_stored("a part", made.part, made.data)
    assert b"".join(unpacked("a part", made.part, data)) == b"".join(BLOCKS)
    assert made.part.events == 2000


async def test_a_part_that_is_given_up_leaves_what_waits(may_pack: threading.Event) -> None:
    maker = PartMaker("parts/" + "0" * 32, [])
    for block in BLOCKS[:3]:
        await maker.add(block)
    giving_up = asyncio.ensure_future(maker.close())
    for _ in range(2):
        await asyncio.sleep(0.01)
        giving_up.cancel()
    await asyncio.sleep(0.01)
    assert not giving_up.done(), "the thread that packs is not waited for"
    may_pack.set()
    with pytest.raises(asyncio.CancelledError):
        await giving_up
    assert maker._packer.bytes == len(BLOCKS[0])


async def test_what_fails_in_the_thread_ends_the_part(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(packer: Packer, block: bytes) -> None:
        raise MemoryError("none is left")

    monkeypatch.setattr(Packer, "add", fail)
    maker = PartMaker("parts/" + "0" * 32, [])
    await maker.add(BLOCKS[0])
    await maker.add(BLOCKS[1])
    with pytest.raises(MemoryError):
        await maker.finish("the end")
    await maker.close()
