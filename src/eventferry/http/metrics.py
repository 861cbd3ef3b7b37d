"""Metrics: what the service counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)


class Metrics:
    """The counts of one service, in a registry of their own: two services in a process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.requests = Counter(
            "eventferry_requests",
            "Requests, by route and status; 499: the client had gone.",
            ("method", "route", "status"),
            registry=registry,
        )
        self.seconds = Histogram(
            "eventferry_operation_seconds",
            "How long operations took, from the request's head to the answer's end.",
            ("operation",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.bytes = Counter(
            "eventferry_bytes",
            "Bytes of bodies over the wire, in and out.",
            ("operation", "direction"),
            registry=registry,
        )
        self.events = Counter(
            "eventferry_events",
            "Events that came into the store, and that were given out.",
            ("operation", "direction"),
            registry=registry,
        )
        self.skipped = Counter(
            "eventferry_skipped_events",
            "Events that incremental imports left out, because they were there already or are older.",
            ("reason",),
            registry=registry,
        )
        self.refused = Counter(
            "eventferry_refused",
            "Requests that were refused, by operation and problem.",
            ("operation", "problem"),
            registry=registry,
        )
        self.open_imports = Gauge(
            "eventferry_open_imports", "Requests that are bringing events in right now.", registry=registry
        )
        self.open_exports = Gauge(
            "eventferry_open_exports", "Exports that are being given out right now.", registry=registry
        )

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)

    def skipped_some(self, existing: int, older: int) -> None:
        """What an incremental import left out."""
        self.skipped.labels("existing").inc(existing)
        self.skipped.labels("older").inc(older)
