"""What a service takes from one request, and from all of them together."""

from __future__ import annotations

from dataclasses import dataclass

from eventferry.errors import UsageError

_GIB = 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of a service.

    Attributes:
        max_body_bytes: of a request's body, as it comes over the wire.
        max_unpacked_bytes: what a compressed body may unpack to.
        max_event_bytes: of one event: a line, an element of an array, the body of a save.
        max_imports: requests that bring events in, at once.
        timeout: seconds in which a client must send or take a piece of a body; whoever stands still longer is cut off.
    """

    max_body_bytes: int = 64 * _GIB
    max_unpacked_bytes: int = 256 * _GIB
    max_event_bytes: int = 16 * 1024**2
    max_imports: int = 8
    timeout: float = 60.0

    def __post_init__(self) -> None:
        for name in ("max_body_bytes", "max_unpacked_bytes", "max_event_bytes", "max_imports", "timeout"):
            if getattr(self, name) <= 0:
                raise UsageError(f"{name} is more than 0, not {getattr(self, name)!r}")
