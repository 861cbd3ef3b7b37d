"""Settings of a store, given as text in a URL or as keyword arguments."""

from __future__ import annotations

import os
from typing import Any

from eventferry.errors import UsageError


def seconds(settings: dict[str, Any], name: str, default: float) -> float:
    """Remove a number of seconds from the settings."""
    given = settings.pop(name, default)
    try:
        number = float(given)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number <= 1e6:
        raise UsageError(f"{name} must be a number of seconds, at least 0, not {given!r}")
    return number


def whole_number(settings: dict[str, Any], name: str, default: int) -> int:
    """Remove an integer of at least 1 from the settings."""
    given = settings.pop(name, default)
    text = str(given)
    if isinstance(given, bool) or not (text.isascii() and text.isdigit() and 1 <= int(text) <= 10**6):
        raise UsageError(f"{name} must be an integer of at least 1, not {given!r}")
    return int(text)


def full_path(path: str) -> str:
    """A path that stays the same wherever the process goes: connections are opened later. No path stays none."""
    return os.path.abspath(path) if path else path
