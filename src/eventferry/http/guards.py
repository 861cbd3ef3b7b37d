"""Decides who may call a route: hosts and origins, tokens and their scopes, rates.

The checks run before the handler of each route, so that no route can be reached without them.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import logging
from collections.abc import Callable, Collection, Sequence
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
from eventferry.http.tokens import Token, Tokens
from eventferry.http.watch import record_of

log = logging.getLogger("eventferry.http")

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")
_OWN_SITE = ("same-origin", "none")


@dataclass(frozen=True, slots=True)
class Sources:
    """The allowed sources of requests.

    A web page in a browser can send requests to a service that only its machine can reach: as a form, as an image, or
    as the same site, under a name that its owner lets point to that machine (DNS rebinding). Browsers reveal this in
    `Origin`, `Sec-Fetch-Site` and `Host`; other clients do not send the first two.
    """

    hosts: frozenset[str]
    origins: frozenset[str]

    @classmethod
    def of(cls, hosts: Collection[str], origins: Collection[str]) -> Sources:
        """The given names, and the loopback names."""
        return cls(
            frozenset(host.lower() for host in (*LOOPBACK_HOSTS, *hosts)),
            frozenset(origin.lower().rstrip("/") for origin in origins),
        )

    def check_host(self, scope: Scope) -> None:
        """Raises RefusedError if the host name is not one of this service."""
        host = Headers(scope=scope).get("host", "").lower()
        name = _without_port(host)
        # An address cannot be used for DNS rebinding, so the one that the client connected to is allowed.
        if name not in self.hosts and name != _address(scope):
            raise RefusedError(
                403,
                "foreign-host",
                f"{host[:100]!r} is not a host name of this service (--allowed-host adds one)",
            )

    def check_origin(self, scope: Scope) -> None:
        """Raises RefusedError if a page of another site sent the request."""
        headers = Headers(scope=scope)
        origins = [origin.lower() for origin in headers.getlist("origin")]
        own = {f"http://{headers.get('host', '')}".lower(), f"https://{headers.get('host', '')}".lower()}
        for origin in origins:
            if origin not in own | self.origins:
                raise RefusedError(
                    403,
                    "foreign-origin",
                    f"pages of {origin[:100]!r} may not call this service (--allowed-origin allows it)",
                )
        for site in headers.getlist("sec-fetch-site"):
            if site.lower() not in _OWN_SITE and not self.origins.intersection(origins):
                raise RefusedError(403, "foreign-site", "a page of another site sent this request")


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def _address(scope: Scope) -> str:
    """The server's address of the connection, as in a Host header."""
    server = scope.get("server")
    address = str(server[0]).lower() if server else ""
    try:
        return f"[{address}]" if ipaddress.ip_address(address).version == 6 else address
    except ValueError:
        return address


class Rate:
    """Limits the requests of each client.

    Args:
        rate: such as `100/minute` or `20/second`.
    """

    def __init__(self, rate: str) -> None:
        try:
            self._item: RateLimitItem = parse_rate(rate)
        except ValueError:
            raise UsageError(f"a rate looks like 100/minute or 20/second, not {rate!r}") from None
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    async def check(self, client: str) -> None:
        """Count a request. Raises RefusedError if there were too many."""
        if await self._limiter.hit(self._item, client):
            return
        window = await self._limiter.get_window_stats(self._item, client)
        wait = max(1, ceil(window.reset_time - time()))
        raise RefusedError(
            429, "too-many-requests", f"more than {self._item} requests", {"Retry-After": str(wait)}
        )


@dataclass(frozen=True, slots=True)
class Guards:
    """The checks that each request must pass. Without tokens, everybody may do everything."""

    sources: Sources
    tokens: Tokens | None
    rate: Rate | None

    async def check(self, scope: Scope, scopes: Sequence[TokenScope], *, changes: bool, basic: bool) -> None:
        """Check a request. Raises RefusedError.

        Args:
            scope: the ASGI scope of the request.
            scopes: the scopes that its token must have; empty if it needs no token.
            changes: whether the request changes the store or files of the server.
            basic: whether the token may be sent as a password (HTTP Basic), for clients that support nothing else.
        """
        if not scopes:
            return
        self.check_source(scope, changes=changes)
        await self.admit(scope, lambda: self._authorized(scope, scopes, basic=basic))

    def check_source(self, scope: Scope, *, changes: bool) -> None:
        """Raises RefusedError for a foreign host name, and for a change that a page of another site has sent."""
        self.sources.check_host(scope)
        if changes:
            self.sources.check_origin(scope)

    async def admit(self, scope: Scope, find_name: Callable[[], str]) -> None:
        """Count a request of the client whose name is found; "" without tokens.

        Raises:
            RefusedError: there were too many, or the name is not found.
        """
        try:
            name = find_name()
        except RefusedError:
            await self.count_attempt(scope)
            raise
        if not name:
            await self.count_attempt(scope)
            return
        record_of(scope).user = name
        if self.rate is not None:
            await self.rate.check(f"token {name}")

    async def count_attempt(self, scope: Scope) -> None:
        """Count a request without a valid token, by its address. Raises RefusedError if there were too many."""
        if self.rate is not None:
            client = scope.get("client")
            await self.rate.check(f"address {client[0] if client else ''}")

    def looked_up(self, look: Callable[[], Token | None]) -> Token | None:
        """The token that is looked for. Raises RefusedError while the token file cannot be used."""
        try:
            return look()
        except EventferryError as error:
            log.error("all requests are refused: %s", error)  # noqa: TRY400 -- the message is sufficient
            raise RefusedError(
                503, "no-tokens", "the service cannot read its token file; see its log"
            ) from None

    def _authorized(self, scope: Scope, scopes: Sequence[TokenScope], *, basic: bool) -> str:
        tokens = self.tokens
        if tokens is None:
            return ""
        presented = _presented(Headers(scope=scope), basic=basic)
        if presented is None:
            raise _unauthorized("a token is required: Authorization: Bearer TOKEN", "")
        token = self.looked_up(lambda: tokens.find(presented))
        if token is None:
            raise _unauthorized("the token is unknown or was revoked", ', error="invalid_token"')
        missing = [wanted for wanted in scopes if wanted not in token.scopes]
        if missing:
            challenge = f'Bearer realm="eventferry", error="insufficient_scope", scope="{" ".join(scopes)}"'
            raise RefusedError(
                403,
                "scope-too-small",
                f"a token with the scope {' and '.join(missing)} is required",
                {"WWW-Authenticate": challenge},
            )
        return token.name


def _unauthorized(detail: str, error: str) -> RefusedError:
    # Never a challenge for Basic: a browser would ask for the password and then send it with every request.
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
