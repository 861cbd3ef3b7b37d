"""How a benchmark is called."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from tests.support.servers import keep_servers


def asked(doc: str | None, databases: Iterable[str] = (), **defaults: Any) -> argparse.Namespace:
    """What the command line asks for: an option for each default, of its type, and some of these databases as
    arguments; all of them if it names none."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = list(databases)
    if known:
        parser.add_argument("databases", nargs="*", choices=[[], *known])
    for name, default in defaults.items():
        if isinstance(default, bool):
            parser.add_argument(f"--{name}", action="store_true")
        else:
            parser.add_argument(f"--{name}", type=type(default), default=default)
    given = parser.parse_args()
    if known and not given.databases:
        given.databases = known
    return given


@contextlib.contextmanager
def servers() -> Iterator[None]:
    """Servers that are started within the block end with it."""
    keeper = keep_servers()
    try:
        yield
    finally:
        if keeper.stdin is not None:
            keeper.stdin.close()
        keeper.wait()
