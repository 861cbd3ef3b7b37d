"""What is done to a JSON text before it is stored: the reverse of how a mapping's `decode` reads it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import TypeAlias

from eventferry.errors import InputError, UsageError
from eventferry.user_functions import load_function

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
            except (Exception, SystemExit) as error:
                raise InputError(f"{name} fails on it: {type(error).__name__}", field="payload") from error
            if not isinstance(text, bytes):
                raise InputError(f"{name} makes {type(text).__name__} of it, not bytes", field="payload")
        return text


def _step(name: str) -> Step:
    if name == "zlib":
        return zlib.compress
    try:
        return load_function(name)
    except ValueError as error:
        raise UsageError(f"encode: neither zlib nor a function: {error}") from None
