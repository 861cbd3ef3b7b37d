"""Sessions: who has signed in with a token, in a cookie.

The cookie holds no token, only the hash of one, and is signed with a key that lives as long as the service. Each
request looks the hash up again: a revoked token ends its sessions. A page of another site can neither read a page of
the console nor guess the key that a form sends back.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from starlette.requests import Request
from starlette.responses import Response

from eventferry.clock import now
from eventferry.http.guards import Guards
from eventferry.http.tokens import Scope, Token

SESSION_SECONDS = 8 * 3600
"""How long a session lasts: a day's work."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who looks at a page.

    Attributes:
        name: of the token; "" where the service has no tokens.
        scopes: what the token allows.
        session: the name of the session; "" where the service has no tokens.
        until: when the session ends, in seconds since 1970.
    """

    name: str
    scopes: Sequence[Scope]
    session: str
    until: int


EVERYBODY = Visitor("", ("read",), "", 0)
"""The visitor of a service without tokens, who may look and do nothing else."""


class Sessions:
    """The sessions of one service.

    Args:
        guards: of the service, with its tokens.
    """

    def __init__(self, guards: Guards) -> None:
        self._guards = guards
        self._key = secrets.token_bytes(32)
        self._ended: dict[str, int] = {}

    def begin(self, request: Request, response: Response, token: str) -> Visitor | None:
        """Sign in: give the browser a cookie. None if the token is not valid.

        Raises:
            RefusedError: the token file cannot be used.
        """
        tokens = self._guards.tokens
        found = None if tokens is None else self._guards.looked_up(lambda: tokens.find(token))
        if found is None:
            return None
        session, until = secrets.token_hex(16), now() // 1000 + SESSION_SECONDS
        content = f"{session}.{until}.{found.sha256}"
        _set_cookie(request, response, f"{content}.{self._signed('session', content)}", SESSION_SECONDS)
        return _visitor(found, session, until)

    def visitor(self, request: Request) -> Visitor | None:
        """Who sent a request; None if nobody has signed in. Raises RefusedError while the token file cannot be used."""
        tokens = self._guards.tokens
        if tokens is None:
            return EVERYBODY
        content, _, signature = request.cookies.get(_name(request), "").rpartition(".")
        if not hmac.compare_digest(self._signed("session", content).encode(), signature.encode()):
            return None
        session, until, digest = content.split(".")
        if session in self._ended or int(until) <= now() / 1000:
            return None
        found = self._guards.looked_up(lambda: tokens.with_hash(digest))
        return None if found is None else _visitor(found, session, int(until))

    def end(self, request: Request, response: Response, visitor: Visitor) -> None:
        """Sign out: the cookie is worth nothing from now on, wherever a copy of it may be."""
        at = now() / 1000
        self._ended = {session: until for session, until in self._ended.items() if until > at}
        self._ended[visitor.session] = visitor.until
        _set_cookie(request, response, "", 0)

    def form_key(self, visitor: Visitor | None) -> str:
        """What a form must send back, to show that it came from a page of this visitor."""
        return self._signed("form", visitor.session if visitor else "")

    def is_form_key(self, key: str, visitor: Visitor | None) -> bool:
        """Whether a form was one of this visitor."""
        return hmac.compare_digest(key.encode(), self.form_key(visitor).encode())

    def _signed(self, use: Literal["session", "form"], content: str) -> str:
        # What is signed for one use is worth nothing in the other: the key of a form can be read in a page.
        return hmac.new(self._key, f"{use} {content}".encode(), hashlib.sha256).hexdigest()


def _visitor(token: Token, session: str, until: int) -> Visitor:
    return Visitor(token.name, token.scopes, session, until)


def _name(request: Request) -> str:
    """The name of the cookie. Browsers send cookies to every port of a host, so it names the port: two services of one
    machine do not end each other's sessions. `__Host-` has browsers refuse a cookie from elsewhere."""
    port = re.search(r":(\d+)\Z", request.headers.get("host", ""), re.ASCII)
    return f"{'__Host-' if _is_secure(request) else ''}eventferry{'-' + port[1] if port else ''}"


def _is_secure(request: Request) -> bool:
    return request.url.scheme == "https"


def _set_cookie(request: Request, response: Response, value: str, seconds: int) -> None:
    response.set_cookie(
        _name(request),
        value,
        max_age=seconds,
        path="/",
        secure=_is_secure(request),
        httponly=True,
        samesite="lax",
    )
