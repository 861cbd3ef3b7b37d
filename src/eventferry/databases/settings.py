"""Settings of a store, which come as text from a URL or as values beside it."""

from __future__ import annotations

from typing import Any

from eventferry.errors import UsageError


def seconds(settings: dict[str, Any], name: str, default: float) -> float:
    """Take a number of seconds out of the settings."""
    given = settings.pop(name, default)
    try:
        number = float(given)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number <= 1e6:
        raise UsageError(f"{name} is a number of seconds from 0, not {given!r}")
    return number


def whole_number(settings: dict[str, Any], name: str, default: int) -> int:
    """Take a whole number from 1 out of the settings."""
    given = settings.pop(name, default)
    text = str(given)
    if isinstance(given, bool) or not (text.isascii() and text.isdigit() and 1 <= int(text) <= 10**6):
        raise UsageError(f"{name} is a whole number from 1, not {given!r}")
    return int(text)
