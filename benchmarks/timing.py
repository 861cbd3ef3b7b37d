"""How long calls take: all of them, and each."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import quantiles


class Timer:
    """Calls that follow one another."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """They begin now; what was before does not count."""
        self._began = time.perf_counter()
        self._calls: list[float] = []

    @contextmanager
    def call(self) -> Iterator[None]:
        """One of them."""
        began = time.perf_counter()
        yield
        self._calls.append(time.perf_counter() - began)

    def told(self) -> dict[str, object]:
        """The seconds of all, and of the calls the median and the 99th percentile."""
        found: dict[str, object] = {"seconds": time.perf_counter() - self._began}
        if len(self._calls) >= 100:
            hundredths = quantiles(self._calls, n=100)
            found["latency"] = hundredths[49], hundredths[98]
        return found
