"""The limits of a service, for one request and for all together."""

from __future__ import annotations

from dataclasses import dataclass

from eventferry.errors import UsageError

_GIB = 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of a service.

    Attributes:
        max_body_bytes: size of a request body as it is sent.
        max_unpacked_bytes: size of a compressed body after decompression.
        max_event_bytes: size of one event: a line, an element of an array, or the body of a save.
        max_imports: number of concurrent requests that import events.
        max_followers: number of concurrent requests that follow the store.
        timeout: seconds in which a client must send or receive the next piece of a body, before it is disconnected.
    """

    max_body_bytes: int = 64 * _GIB
    max_unpacked_bytes: int = 256 * _GIB
    max_event_bytes: int = 16 * 1024**2
    max_imports: int = 8
    max_followers: int = 100
    timeout: float = 60.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) <= 0:
                raise UsageError(f"{name} must be greater than 0, not {getattr(self, name)!r}")
