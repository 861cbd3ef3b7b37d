"""Trace context (W3C): a request's trace goes into logs, on into whatever is called, and back in the answer."""

from __future__ import annotations

import re
import secrets
from contextvars import ContextVar
from dataclasses import dataclass

HEADER = "traceparent"
STATE_HEADER = "tracestate"

_PARENT = re.compile(
    r"(?!ff)(?:00(?=.{53}$)|(?!00)[0-9a-f]{2})"  # what is behind the flags, only later versions may have
    r"-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(?:-.*)?"
)


@dataclass(frozen=True, slots=True)
class Trace:
    """Where a request stands in a trace.

    Attributes:
        trace_id: of the whole.
        span_id: of this request.
        flags: as they came.
        state: what other systems want to have passed on.
    """

    trace_id: str
    span_id: str
    flags: str = "00"
    state: str | None = None

    @property
    def parent(self) -> str:
        """The header for whatever this request calls."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


_CURRENT: ContextVar[Trace | None] = ContextVar("eventferry_trace", default=None)


def current_trace() -> Trace | None:
    """The trace of the request that is being answered; None outside of one."""
    return _CURRENT.get()


def fields(trace: Trace | None) -> dict[str, str]:
    """What a log says of a trace."""
    return {} if trace is None else {"trace_id": trace.trace_id, "span_id": trace.span_id}


def enter(parent: str | None, state: str | None) -> Trace:
    """Begin a span: of the trace that a request belongs to, or of a new one."""
    found = _PARENT.fullmatch(parent or "")
    span = secrets.token_hex(8)
    trace = Trace(found[1], span, found[2], state) if found else Trace(secrets.token_hex(16), span)
    _CURRENT.set(trace)
    return trace
