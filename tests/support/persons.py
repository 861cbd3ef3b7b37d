"""Events with texts that are erased, and the texts that stand in a database's files."""

from __future__ import annotations

import contextlib
import random
import re
from base64 import b64encode
from collections.abc import Collection
from pathlib import Path

from eventferry import Rule, Rules
from tests.support import line, make_event
from tests.test_docs import ROOT, blocks_of

ERASE = Rules(rules=(Rule(redact=("/name",), set={"/why": "erased at the person's own request"}),))


def text_of(i: int) -> str:
    return f"<person {i}>"


def texts_in(folder: Path, apart: Collection[str] = ()) -> set[int]:
    """The events whose texts stand in a file of a folder, or below it but in folders of such a name."""
    found: set[int] = set()
    for path in folder.rglob("*"):
        if path.is_file() and not set(path.relative_to(folder).parts) & set(apart):
            with contextlib.suppress(FileNotFoundError):  # a server has removed it just now
                found |= {int(number) for number in re.findall(rb"<person ([0-9]+)>", path.read_bytes())}
    return found


def left_in_files(folder: Path, numbers: range, step: int, apart: Collection[str] = ()) -> list[int]:
    """Of the texts of these events, which should all be gone for each `step`th: those that stand in a file."""
    left = texts_in(folder, apart)
    assert left >= {i for i in numbers if i % step}, "the others stay"
    return sorted(i for i in left if i % step == 0)


def noise(size: int) -> str:
    """A text that no database can pack, about so long."""
    return b64encode(random.Random(size).randbytes(size * 3 // 4)).decode()


def person(i: int, times: int, rest: str = "") -> bytes:
    """An event, each fifth of the aggregate that is erased, in which its text stands so often."""
    aggregate = "erased" if i % 5 == 0 else "kept"
    payload = {"before": "x" * (i % 90), "name": text_of(i) * times + rest, "number": i}
    return line(make_event(i, aggregateId=aggregate, aggregateVersion=i + 1, payload=payload))


def statements(beginning: str) -> list[str]:
    """The SQL with such a beginning that docs/erasing.md says to run after an erasure."""
    page = (ROOT / "docs" / "erasing.md").read_text(encoding="utf-8")
    [block] = [
        block for block in blocks_of(page) if block.language == "sql" and block.text.startswith(beginning)
    ]
    return [statement.strip() for statement in block.text.split(";") if statement.strip()]
