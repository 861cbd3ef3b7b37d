"""What a route of the service is: its handler, who may call it, and its description."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eventferry.http.handling import Handler
from eventferry.http.tokens import Scope

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
HTML = "text/html; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """What a request brings.

    Attributes:
        what: in a sentence.
        json: the shape of it as one JSON value; None: it comes as lines only.
        lines: whether it can come as lines.
    """

    what: str
    json: Any = None
    lines: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer of a request that was done.

    Attributes:
        status: of it.
        what: in a sentence.
        media_type: of its body; None: it has none.
        shape: of its JSON.
        headers: that it has, and what they say.
    """

    status: int = 200
    what: str
    media_type: str | None = JSON
    shape: type | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A route.

    Attributes:
        method: of HTTP.
        path: with `{names}`.
        scopes: what a token must have; none: no token is needed.
        handler: does it.
        summary: in a sentence.
        answer: where it was done.
        refusals: statuses beside those that every route can have.
        body: what is sent; None: nothing.
        is_plain: whether it is one of reSolve's client: a GET that changes something, answered in plain text.
    """

    method: str
    path: str
    scopes: Sequence[Scope]
    handler: Handler[Any]
    summary: str
    answer: Answer
    refusals: Sequence[int] = ()
    body: Body | None = None
    is_plain: bool = False

    @property
    def changes(self) -> bool:
        """Whether no page of another site may send it."""
        return self.method != "GET" or self.is_plain
