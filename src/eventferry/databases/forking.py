"""Forks: a process uses nothing of the one from which it was forked, and ends nothing of it.

Both have the same connections, and each would hear the other's answers; closing one here would say good-bye to the
server in the other's name. So in a child what reaches outside is let go of without a word: its descriptors are closed,
which the other does not notice, and its objects are never destroyed. Stores are opened anew at their next call.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any, Protocol
from weakref import WeakSet


class Inherited(Protocol):
    """What a child inherits and must not use."""

    def leave(self) -> Any:
        """In the child: close what the parent would wait for. Gives what must never be destroyed here."""


_ours: WeakSet[Inherited] = WeakSet()


def ours(thing: Inherited) -> None:
    """It belongs to this process alone."""
    _ours.add(thing)


def _leave() -> None:
    for thing in list(_ours):
        # One count more than there are references: not even the end of the interpreter destroys it.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing.leave()))
    _ours.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave)
