"""W3C Trace Context: the trace of a request is logged, passed on to handlers, and returned in the answer."""

from __future__ import annotations

import re
import secrets
from contextvars import ContextVar
from dataclasses import dataclass

HEADER = "traceparent"
STATE_HEADER = "tracestate"

_PARENT = re.compile(
    r"(?!ff)(?:00(?=.{53}$)|(?!00)[0-9a-f]{2})"  # only later versions may have more after the flags
    r"-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(?:-.*)?"
)


@dataclass(frozen=True, slots=True)
class Trace:
    """The span of a request.

    Attributes:
        trace_id: the id of the trace.
        span_id: the id of this request's span.
        flags: as received.
        state: the `tracestate` of other systems, as received.
    """

    trace_id: str
    span_id: str
    flags: str = "00"
    state: str | None = None

    @property
    def parent(self) -> str:
        """The `traceparent` header for requests that this one makes."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


_CURRENT: ContextVar[Trace | None] = ContextVar("eventferry_trace", default=None)


def current_trace() -> Trace | None:
    """The trace of the current request; None outside of a request."""
    return _CURRENT.get()


def fields(trace: Trace | None) -> dict[str, str]:
    """The fields of a trace in a log record."""
    return {} if trace is None else {"trace_id": trace.trace_id, "span_id": trace.span_id}


def enter(parent: str | None, state: str | None) -> Trace:
    """Begin a span, in the trace of a request or in a new trace."""
    found = _PARENT.fullmatch(parent or "")
    span = secrets.token_hex(8)
    trace = Trace(found[1], span, found[2], state) if found else Trace(secrets.token_hex(16), span)
    _CURRENT.set(trace)
    return trace
