"""Problems: why a request failed (RFC 9457).

One table gives the status of each error. Other errors are not the client's: they are answered with 500 without any
details, and logged.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from eventferry import errors
from eventferry.errors import ConcurrentError, CursorAheadError, EventferryError, InputError
from eventferry.visible import respelling

log = logging.getLogger("eventferry.http")

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = "1"
"""Seconds, for the header. It is short, because the request has waited for the store already."""

STATUSES: dict[type[EventferryError], int] = {
    errors.UsageError: 400,
    errors.ImportNotFoundError: 404,
    errors.AggregateConflictError: 409,
    errors.AlreadyFrozenError: 409,
    errors.ConcurrentError: 409,
    errors.CursorAheadError: 409,
    errors.CutoverError: 409,
    errors.EmptyInputError: 409,
    errors.ImportOpenError: 409,
    errors.VersionGapError: 409,
    errors.NotFrozenError: 409,
    errors.OlderEventsError: 409,
    errors.PartMissingError: 409,
    errors.ResumeError: 409,
    errors.SecretConflictError: 409,
    errors.SecretExistsError: 409,
    errors.StoreChangedError: 409,
    errors.StoreExistsError: 409,
    errors.StoreFullError: 409,
    errors.StoreReplacedError: 409,
    errors.TargetChangedError: 409,
    errors.UnsupportedStoreError: 409,
    errors.IdempotencyKeyError: 422,
    errors.InputError: 422,
    errors.StoreFrozenError: 423,
    errors.ReadOnlyStoreError: 503,
    errors.NotErasedError: 503,
    errors.SecretNotErasedError: 503,
    errors.StoreBusyError: 503,
    errors.StoreClosedError: 503,
    errors.StoreNotFoundError: 503,
    errors.StoreUnreachableError: 503,
}
"""The status of each error of a request."""

_UNUSABLE = "the store is not available; see the log of the service"

_MESSAGES: dict[type[EventferryError], str] = {
    errors.StoreBusyError: "the store is busy with another write or import; nothing was changed, try again",
    errors.StoreFrozenError: "the store is frozen: writes fail until it is unfrozen",
    errors.ReadOnlyStoreError: _UNUSABLE,
    errors.StoreClosedError: _UNUSABLE,
    errors.StoreNotFoundError: _UNUSABLE,
    errors.StoreUnreachableError: _UNUSABLE,
}
"""Messages for clients, in place of messages for the operator, which contain hosts, users and paths."""


_respelled = respelling(
    {
        "event_types": "type",
        "exclude_types": "excludeType",
        "aggregate_ids": "aggregateId",
        "aggregate_prefixes": "aggregatePrefix",
        "start_time": "startTime",
        "finish_time": "finishTime",
        "replace=True": "replace=true",
        "freeze=True": "freeze=true",
        "resume=True": "resume=true",
        "allow_empty=True": "allowEmpty=true",
        "ignore_unknown_keys=True": "ignoreUnknownKeys=true",
    }
)
"""Spells the library's parameters in a message as a client does."""


class RefusedError(EventferryError):
    """The service itself refuses a request, before it reaches the store.

    Attributes:
        status: of the answer.
        name: of the problem, for machines.
        headers: of the answer.
    """

    def __init__(self, status: int, name: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.name = name
        self.headers = dict(headers or {})


class ProblemResponse(Response):
    """The answer to a failed request."""

    media_type = MEDIA_TYPE


def status_of(error: Exception) -> int:
    """The HTTP status for an error."""
    if isinstance(error, RefusedError):
        return error.status
    if isinstance(error, CursorAheadError) and error.is_standby:
        return HTTPStatus.SERVICE_UNAVAILABLE  # it may catch up
    return next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), 500)


def problem(error: Exception) -> ProblemResponse:
    """The answer for an error."""
    status = status_of(error)
    headers = dict(error.headers) if isinstance(error, RefusedError) else {}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers.setdefault("Retry-After", RETRY_AFTER)
    return ProblemResponse(
        msgspec.json.encode(_members(error, status)), status, {"Cache-Control": "no-store", **headers}
    )


def plain_problem(error: Exception) -> Response:
    """The answer for an error as plain text, which reSolve's client can show."""
    told = problem(error)
    headers = {
        name: value for name, value in told.headers.items() if name not in ("content-type", "content-length")
    }
    return PlainTextResponse(f"Error: {message_of(error)}", told.status_code, headers)


async def problem_response(request: Request, error: Exception) -> Response:
    """`problem` as an exception handler: `app.add_exception_handler(EventferryError, problem_response)`."""
    return problem(error)


def message_of(error: Exception) -> str:
    """The message of an error for the client."""
    status = status_of(error)
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        return "internal error of the service; see its log"
    return next(
        (_MESSAGES[kind] for kind in type(error).__mro__ if kind in _MESSAGES), _respelled(str(error))
    )


def _members(error: Exception, status: int) -> dict[str, Any]:
    members: dict[str, Any] = {
        "type": f"urn:eventferry:{name_of(error)}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": message_of(error),
    }
    if isinstance(error, InputError):
        members["detail"] = _respelled(error.reason)
        place = {"line": error.line, "byteOffset": error.byte_offset, "field": error.field}
        members |= {key: value for key, value in place.items() if value is not None}
    if isinstance(error, ConcurrentError):
        members |= {"aggregateId": error.aggregate_id, "aggregateVersion": error.aggregate_version}
        if error.last_version is not None:
            members["lastVersion"] = error.last_version
    return members


def name_of(error: Exception) -> str:
    """The name of an error for machines: `store-frozen` for StoreFrozenError."""
    if isinstance(error, RefusedError):
        return error.name
    if status_of(error) == HTTPStatus.INTERNAL_SERVER_ERROR:
        return "internal"
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", type(error).__name__.removesuffix("Error")).lower()
