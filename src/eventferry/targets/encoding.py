"""What is done to a JSON text before it is stored: the reverse of how a mapping's `decode` reads it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TypeAlias

from eventferry.errors import InputError, UsageError

Step: TypeAlias = Callable[[bytes], bytes]


class Encoder:
    """Steps from left to right, as a list or with commas between them: "zlib", or a function of the user's, bytes in
    and bytes out, as "module:function". Raises UsageError."""

    def __init__(self, steps: str | Sequence[str]) -> None:
        names = [name.strip() for name in steps.split(",")] if isinstance(steps, str) else steps
        self._steps = [(name, _step(name)) for name in names]

    def __call__(self, text: bytes) -> bytes:
        """The bytes to be stored. Raises InputError, without a place."""
        for name, step in self._steps:
            try:
                text = step(text)
            except Exception as error:
                raise InputError(f"{name} fails on it: {type(error).__name__}", field="payload") from error
            if not isinstance(text, bytes):
                raise InputError(f"{name} makes {type(text).__name__} of it, not bytes", field="payload")
        return text


def _step(name: str) -> Step:
    if name == "zlib":
        return zlib.compress
    module, separator, path = name.partition(":")
    if not (separator and module and path):
        raise UsageError(f"encode: {name!r} is neither zlib nor module:function")
    try:
        found: object = import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"encode: there is no {name}: {error}") from None
    if not callable(found):
        raise UsageError(f"encode: {name} is not a function")
    return found
