"""The type of a route: its handler, who may call it, and its description."""

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
    """The body of a request.

    Attributes:
        what: a description.
        json: its type as one JSON value; None if it must be JSON Lines.
        lines: whether it may be JSON Lines.
    """

    what: str
    json: Any = None
    lines: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer to a successful request.

    Attributes:
        status: of the answer.
        what: a description.
        media_type: of its body; None if it has no body.
        shape: the type of its JSON.
        headers: additional headers and their descriptions.
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
        method: the HTTP method.
        path: the path, with parameters as `{name}`.
        scopes: the scopes that a token must have; empty if no token is needed.
        handler: the handler.
        summary: a description in one sentence.
        answer: the answer to a successful request.
        refusals: statuses in addition to those that every route can have.
        body: the body of the request; None if it has none.
        is_plain: whether it is a route of reSolve's client: a GET that may change something, answered in plain text.
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
        """Whether a request may change something, so that pages of other sites must not send it."""
        return self.method != "GET" or self.is_plain
