"""The same names without await, for scripts, Django, notebooks.

    from eventferry.sync import open_store, pipeline

    with open_store("a.db") as a, open_store("b.db") as b:
        pipeline(a.export_events(), b.import_events())

All calls run in one event loop in its own worker thread, so a store can be used from any thread. The caller's iterators
and transforms run in the caller's thread; what is called on the way, such as `tell`, in the worker thread.
"""

from __future__ import annotations

from eventferry import AUTO, MANUAL, Event, errors
from eventferry.blocking.functions import (
    archive,
    back_up,
    check,
    cutover,
    open_source,
    open_store,
    open_target,
    pipeline,
    recall,
    verify,
    verify_secrets,
)
from eventferry.blocking.repository import Repository, RepositoryExport
from eventferry.blocking.store import EventStore
from eventferry.blocking.streams import (
    EventLoader,
    ExportStream,
    FollowStream,
    ForeignExport,
    ForeignSource,
    ForeignTarget,
    ImportStream,
    SecretsExport,
    SecretsImport,
    TargetStream,
)
from eventferry.errors import *  # noqa: F403

__all__ = [
    "AUTO",
    "MANUAL",
    "Event",
    "EventLoader",
    "EventStore",
    "ExportStream",
    "FollowStream",
    "ForeignExport",
    "ForeignSource",
    "ForeignTarget",
    "ImportStream",
    "Repository",
    "RepositoryExport",
    "SecretsExport",
    "SecretsImport",
    "TargetStream",
    "archive",
    "back_up",
    "check",
    "cutover",
    "open_source",
    "open_store",
    "open_target",
    "pipeline",
    "recall",
    "verify",
    "verify_secrets",
    *errors.__all__,
]
