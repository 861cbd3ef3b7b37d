"""The metrics of the service, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)


class Metrics:
    """The metrics of one service, in their own registry: a process may run several services."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"eventferry_{name}", what, labels, registry=registry)

        self.requests = counter(
            "requests",
            "Requests by method, route and status; 499: the client disconnected.",
            "method",
            "route",
            "status",
        )
        self.bytes = counter("bytes", "Bytes of bodies as sent and received.", "operation", "direction")
        self.events = counter(
            "events", "Events stored, and events sent to clients.", "operation", "direction"
        )
        self.skipped = counter(
            "skipped_events",
            "Events skipped by incremental imports, as duplicates or as older ones.",
            "reason",
        )
        self.refused = counter(
            "refused", "Refused requests by operation and problem.", "operation", "problem"
        )
        self.seconds = Histogram(
            "eventferry_operation_seconds",
            "Duration of operations, from the head of the request to the end of the answer.",
            ("operation",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.open_imports = Gauge(
            "eventferry_open_imports", "Importing requests in progress.", registry=registry
        )
        self.open_followers = Gauge(
            "eventferry_open_followers", "Clients that follow the store.", registry=registry
        )
        self.open_exports = Gauge("eventferry_open_exports", "Exports in progress.", registry=registry)

    def text(self) -> bytes:
        """All metrics in the text format of Prometheus."""
        return generate_latest(self.registry)
