"""Who may call a route: hosts and origins, tokens and their scopes, and how often.

As plain ASGI around each route's handler, so that streams stay streams; and around each, so that a route cannot be
reached without.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import ceil
from time import time

from limits import RateLimitItem
from limits import parse as parse_rate
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from starlette.datastructures import Headers
from starlette.types import Scope

from eventferry.errors import EventferryError, UsageError
from eventferry.http.problems import RefusedError
from eventferry.http.tokens import Scope as TokenScope
from eventferry.http.tokens import TokenFile
from eventferry.http.watch import seen

log = logging.getLogger("eventferry.http")

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")
_OWN_SITE = ("same-origin", "none")


@dataclass(frozen=True, slots=True)
class Sources:
    """From where requests may come.

    A page in someone's browser can send requests here, also to a service that only that machine reaches: as a form, as
    a picture, or, by a name that it lets point to this machine, as if it were of this very site. Browsers say so, in
    `Origin`, `Sec-Fetch-Site` and `Host`; nothing else sends the first two.

    Attributes:
        hosts: names that this service is called by.
        origins: sites whose pages may call it.
    """

    hosts: frozenset[str]
    origins: frozenset[str]

    @classmethod
    def of(cls, hosts: Collection[str], origins: Collection[str]) -> Sources:
        """The loopback names and these."""
        return cls(
            frozenset(host.lower() for host in (*LOOPBACK_HOSTS, *hosts)),
            frozenset(origin.lower().rstrip("/") for origin in origins),
        )

    def check_host(self, scope: Scope) -> None:
        """Refuse a name that is not one of this service's. Raises RefusedError."""
        host = Headers(scope=scope).get("host", "").lower()
        name = _without_port(host)
        # The address that the client has reached is no name that somebody could let point here.
        if name not in self.hosts and name != _address(scope):
            raise RefusedError(
                403, "foreign-host", f"{host[:100]!r} is not a name of this service (--allowed-host adds one)"
            )

    def check_origin(self, scope: Scope) -> None:
        """Refuse what a page of another site sends. Raises RefusedError."""
        headers = Headers(scope=scope)
        origins = [origin.lower() for origin in headers.getlist("origin")]
        own = {f"http://{headers.get('host', '')}".lower(), f"https://{headers.get('host', '')}".lower()}
        for origin in origins:
            if origin not in own | self.origins:
                raise RefusedError(
                    403,
                    "foreign-origin",
                    f"pages of {origin[:100]!r} may not call this service (--allowed-origin lets them)",
                )
        for site in headers.getlist("sec-fetch-site"):
            if site.lower() not in _OWN_SITE and not self.origins.intersection(origins):
                raise RefusedError(403, "foreign-site", "a page of another site sent this request")


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def _address(scope: Scope) -> str:
    """The address of this end of the connection, as a Host header has it."""
    server = scope.get("server")
    address = str(server[0]).lower() if server else ""
    try:
        return f"[{address}]" if ipaddress.ip_address(address).version == 6 else address
    except ValueError:
        return address


class Rate:
    """How many requests a client may send.

    Args:
        rate: as in `100/minute`, `20/second`.
    """

    def __init__(self, rate: str) -> None:
        try:
            self._item: RateLimitItem = parse_rate(rate)
        except ValueError:
            raise UsageError(f"a rate is like 100/minute or 20/second, not {rate!r}") from None
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    async def check(self, client: str) -> None:
        """Count a request. Raises RefusedError where there were too many."""
        if await self._limiter.hit(self._item, client):
            return
        window = await self._limiter.get_window_stats(self._item, client)
        wait = max(1, ceil(window.reset_time - time()))
        raise RefusedError(
            429, "too-many-requests", f"more than {self._item} requests", {"Retry-After": str(wait)}
        )


@dataclass(frozen=True, slots=True)
class Guards:
    """Everything that a request must pass.

    Attributes:
        sources: from where it may come.
        tokens: who may call; None: everybody.
        rate: how often; None: as often as one likes.
    """

    sources: Sources
    tokens: TokenFile | None
    rate: Rate | None

    async def check(self, scope: Scope, scopes: Sequence[TokenScope], *, changes: bool, basic: bool) -> None:
        """Let a request pass, or raise RefusedError.

        Args:
            scope: of the request.
            scopes: what its token must have; none: it needs no token.
            changes: whether it changes something, or makes the server's files do.
            basic: whether the token may come as a password (HTTP Basic), for a client that cannot do otherwise.
        """
        if not scopes:
            return
        self.sources.check_host(scope)
        if changes:
            self.sources.check_origin(scope)
        client = scope.get("client")
        address = str(client[0]) if client else ""
        try:
            name = self._authorized(scope, scopes, basic=basic)
        except RefusedError:
            # Guesses count too, by where they come from.
            if self.rate is not None:
                await self.rate.check(f"address {address}")
            raise
        seen(scope).user = name
        if self.rate is not None:
            await self.rate.check(f"token {name}" if name else f"address {address}")

    def _authorized(self, scope: Scope, scopes: Sequence[TokenScope], *, basic: bool) -> str:
        if self.tokens is None:
            return ""
        presented = _presented(Headers(scope=scope), basic=basic)
        if presented is None:
            raise _unauthorized("this needs a token: Authorization: Bearer TOKEN", "")
        try:
            token = self.tokens.find(presented)
        except EventferryError as error:
            log.error("nobody is let in: %s", error)  # noqa: TRY400 -- the words say it all
            raise RefusedError(
                503, "no-tokens", "the service cannot read its tokens; its log says why"
            ) from None
        if token is None:
            raise _unauthorized("this token is not known, or was revoked", ', error="invalid_token"')
        missing = [wanted for wanted in scopes if wanted not in token.scopes]
        if missing:
            challenge = f'Bearer realm="eventferry", error="insufficient_scope", scope="{" ".join(scopes)}"'
            raise RefusedError(
                403,
                "scope-too-small",
                f"this needs a token with the scope {' and '.join(missing)}",
                {"WWW-Authenticate": challenge},
            )
        return token.name


def _unauthorized(detail: str, error: str) -> RefusedError:
    # Never a challenge for Basic: a browser would ask for the password and then send it along by itself.
    return RefusedError(
        401, "unauthorized", detail, {"WWW-Authenticate": f'Bearer realm="eventferry"{error}'}
    )


def _presented(headers: Headers, *, basic: bool) -> str | None:
    given = headers.getlist("authorization")
    if len(given) != 1:
        return None
    scheme, _, value = given[0].partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer":
        return value or None
    if scheme.lower() == "basic" and basic:
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2] or None
        except (binascii.Error, ValueError):
            return None
    return None
