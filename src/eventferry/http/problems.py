"""Problems: what an answer says when a request was not done (RFC 9457).

One table says which status an error has. What is not in it is no error of a request: it is answered with 500, says
nothing of the inside, and is logged.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from eventferry import errors
from eventferry.errors import ConcurrentError, EventferryError, InputError

log = logging.getLogger("eventferry.http")

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = "1"
"""Seconds, as a header: whoever waits for a busy store has waited already."""

STATUSES: dict[type[EventferryError], int] = {
    errors.UsageError: 400,
    errors.ImportNotFoundError: 404,
    errors.AlreadyFrozenError: 409,
    errors.ConcurrentError: 409,
    errors.EmptyInputError: 409,
    errors.ImportOpenError: 409,
    errors.NotFrozenError: 409,
    errors.OlderEventsError: 409,
    errors.ResumeError: 409,
    errors.SecretConflictError: 409,
    errors.SecretExistsError: 409,
    errors.StoreChangedError: 409,
    errors.StoreExistsError: 409,
    errors.StoreFullError: 409,
    errors.StoreReplacedError: 409,
    errors.UnsupportedStoreError: 409,
    errors.InputError: 422,
    errors.StoreFrozenError: 423,
    errors.ReadOnlyStoreError: 503,
    errors.SecretNotErasedError: 503,
    errors.StoreBusyError: 503,
    errors.StoreClosedError: 503,
    errors.StoreNotFoundError: 503,
    errors.StoreUnreachableError: 503,
}
"""The status of each error that a request can meet."""

_UNUSABLE = "the store cannot be used right now; the service's log says more"

_WORDS: dict[type[EventferryError], str] = {
    errors.StoreBusyError: "somebody else is writing, or importing, for long; nothing was changed: try again",
    errors.StoreFrozenError: "the store is frozen: nothing is written until it is unfrozen",
    errors.ReadOnlyStoreError: _UNUSABLE,
    errors.StoreClosedError: _UNUSABLE,
    errors.StoreNotFoundError: _UNUSABLE,
    errors.StoreUnreachableError: _UNUSABLE,
}
"""What is said instead of words that are for those who run the service: hosts, users and paths stand in them."""


class RefusedError(EventferryError):
    """A request that the service itself refuses, before the store is asked.

    Attributes:
        status: of the answer.
        name: what it is, for machines.
        headers: of the answer.
    """

    def __init__(self, status: int, name: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.name = name
        self.headers = dict(headers or {})


class ProblemResponse(Response):
    """An answer that says why a request was not done."""

    media_type = MEDIA_TYPE


def status_of(error: Exception) -> int:
    """The status of the answer to a request that met this error."""
    if isinstance(error, RefusedError):
        return error.status
    return next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), 500)


def problem(error: Exception) -> ProblemResponse:
    """The answer to a request that met this error."""
    status = status_of(error)
    headers = dict(error.headers) if isinstance(error, RefusedError) else {}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers.setdefault("Retry-After", RETRY_AFTER)
    return ProblemResponse(
        msgspec.json.encode(_members(error, status)), status, {"Cache-Control": "no-store", **headers}
    )


async def problem_response(request: Request, error: Exception) -> Response:
    """`problem` as an exception handler: `app.add_exception_handler(EventferryError, problem_response)`."""
    return problem(error)


def words(error: Exception) -> str:
    """What may be said of an error to whoever sent the request."""
    status = status_of(error)
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        return "the service met an error that is not the request's; its log says more"
    return next((_WORDS[kind] for kind in type(error).__mro__ if kind in _WORDS), str(error))


def _members(error: Exception, status: int) -> dict[str, Any]:
    members: dict[str, Any] = {
        "type": f"urn:eventferry:{name_of(error)}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": words(error),
    }
    if isinstance(error, InputError):
        members["detail"] = error.reason
        place = {"line": error.line, "byteOffset": error.byte_offset, "field": error.field}
        members |= {key: value for key, value in place.items() if value is not None}
    if isinstance(error, ConcurrentError):
        members |= {"aggregateId": error.aggregate_id, "aggregateVersion": error.aggregate_version}
    return members


def name_of(error: Exception) -> str:
    """The name of an error for machines: `store-frozen` of StoreFrozenError."""
    if isinstance(error, RefusedError):
        return error.name
    if status_of(error) == HTTPStatus.INTERNAL_SERVER_ERROR:
        return "internal"
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", type(error).__name__.removesuffix("Error")).lower()
