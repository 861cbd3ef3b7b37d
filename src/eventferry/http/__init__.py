"""The HTTP service of an event store.

`create_app` turns a store into an ASGI application; `eventferry serve` serves it. Each handler can also be used alone:
called with a store, it returns an endpoint for a route of Starlette or FastAPI. `request_blocks` reads the body of any
request, in any charset.
"""

from __future__ import annotations

from eventferry.errors import MissingExtraError

try:
    import starlette  # noqa: F401
except ImportError:
    raise MissingExtraError("the service needs the extra 'http': pip install 'eventferry[http]'") from None

from eventferry.errors import StoreFullError
from eventferry.http.app import create_app
from eventferry.http.appends import aggregate_handler, append_handler
from eventferry.http.bodies import ClientGoneError, request_blocks
from eventferry.http.events import (
    bookmark_handler,
    describe_handler,
    events_handler,
    export_handler,
    freeze_handler,
    save_handler,
    unfreeze_handler,
)
from eventferry.http.following import follow_handler
from eventferry.http.imports import (
    begin_handler,
    commit_handler,
    import_handler,
    import_progress_handler,
    incremental_import_handler,
    part_handler,
    rollback_handler,
)
from eventferry.http.limits import Limits
from eventferry.http.metrics import Metrics
from eventferry.http.parts import (
    begin_import_handler,
    commit_import_handler,
    push_import_handler,
    rollback_import_handler,
)
from eventferry.http.problems import RefusedError, problem_response
from eventferry.http.route import Endpoint, Handler
from eventferry.http.secrets import import_secrets_handler, secrets_handler
from eventferry.http.tokens import SCOPES, Scope, Token, TokenFile
from eventferry.http.tracing import Trace, current_trace

__all__ = [
    "SCOPES",
    "ClientGoneError",
    "Endpoint",
    "Handler",
    "Limits",
    "Metrics",
    "RefusedError",
    "Scope",
    "StoreFullError",
    "Token",
    "TokenFile",
    "Trace",
    "aggregate_handler",
    "append_handler",
    "begin_handler",
    "begin_import_handler",
    "bookmark_handler",
    "commit_handler",
    "commit_import_handler",
    "create_app",
    "current_trace",
    "describe_handler",
    "events_handler",
    "export_handler",
    "follow_handler",
    "freeze_handler",
    "import_handler",
    "import_progress_handler",
    "import_secrets_handler",
    "incremental_import_handler",
    "part_handler",
    "problem_response",
    "push_import_handler",
    "request_blocks",
    "rollback_handler",
    "rollback_import_handler",
    "save_handler",
    "secrets_handler",
    "unfreeze_handler",
]
