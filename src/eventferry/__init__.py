"""Move events between event stores without losing or duplicating any.

async with open_store("a.db") as a, open_store("b.db") as b:
    await pipeline(a.export_events(), b.import_events())
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from eventferry import errors
from eventferry.errors import *  # noqa: F403

if TYPE_CHECKING:
    from eventferry.archiving.archive import ArchiveReport, archive
    from eventferry.archiving.recall import RecallReport, recall
    from eventferry.backup.checking import Problem, RepositoryReport
    from eventferry.backup.describing import RepositoryStatus, Run
    from eventferry.backup.drilling import DrillReport
    from eventferry.backup.keeping import PruneReport
    from eventferry.backup.partition import RepositoryPartition
    from eventferry.backup.repository import Repository
    from eventferry.backup.restoring import RestoreReport
    from eventferry.backup.run import BackupReport, back_up
    from eventferry.changing.changes import ChangedEvent, Changes
    from eventferry.changing.erased import Erased
    from eventferry.changing.erasing import EraseReport
    from eventferry.changing.report import ChangeReport
    from eventferry.changing.rules import Rule, Rules, load_rules
    from eventferry.cloudevents.reading import from_cloudevents
    from eventferry.cloudevents.writing import to_cloudevents
    from eventferry.comparing.checking import CheckReport, Remark, check
    from eventferry.comparing.verifying import Difference, SideBySide, VerifyReport, verify
    from eventferry.comparing.verifying_secrets import SecretDifference, SecretsVerifyReport, verify_secrets
    from eventferry.importing.merge import Older
    from eventferry.importing.parts import PartReport
    from eventferry.importing.stream import ImportStream, StreamReport
    from eventferry.lines.damaged import DamagedEvent
    from eventferry.lines.end_mark import CheckEnd, mark_end
    from eventferry.lines.event import Event, EventInput
    from eventferry.lines.files import read_blocks
    from eventferry.lines.metadata import EventMetadata, data_of, metadata_of, with_metadata
    from eventferry.lines.piping import Sink, pipeline
    from eventferry.looking.counting import (
        AggregateCount,
        Aggregates,
        EventTypes,
        LargeEvent,
        Point,
        Stats,
        Timeline,
        TypeCount,
    )
    from eventferry.looking.differences import Change
    from eventferry.looking.history import History, HistoryEntry
    from eventferry.looking.masks import Mask
    from eventferry.looking.poison import PoisonSearch
    from eventferry.looking.searching import SearchPage
    from eventferry.looking.tracing import Trace, TracedEvent, by_cause
    from eventferry.reading.arguments import Filters, Kinds
    from eventferry.reading.exporting import ExportStream
    from eventferry.reading.following import FollowStream
    from eventferry.reading.loading import EventLoader
    from eventferry.reading.maintenance import AUTO, MANUAL, MaintenanceMode
    from eventferry.reading.partition import Partition
    from eventferry.results import (
        AggregatePage,
        Append,
        Appended,
        Description,
        ImportProgress,
        ImportReport,
        OpenImportDescription,
        Page,
        SavedEvent,
        Subscriber,
    )
    from eventferry.secrets import (
        GatheredSecrets,
        Secret,
        SecretsExport,
        SecretsImport,
        SecretsPage,
        SecretsReport,
    )
    from eventferry.sources.mapping import Mapping, load_mapping, presets
    from eventferry.sources.source import (
        ForeignExport,
        ForeignSource,
        SourcePreview,
        SourceReport,
        open_source,
    )
    from eventferry.state.archives import Archive
    from eventferry.store import EventStore
    from eventferry.syncing.cutover import CutoverReport, cutover
    from eventferry.syncing.preview import SyncPreview
    from eventferry.syncing.status import SyncStatus
    from eventferry.syncing.sync import SyncReport
    from eventferry.tabular.conversion import Conversion
    from eventferry.tabular.csv_mapping import MappedCsv, from_mapped_csv
    from eventferry.tabular.csv_reading import from_csv
    from eventferry.tabular.csv_writing import to_csv
    from eventferry.tabular.folder import FolderSink, SplitBy
    from eventferry.tabular.parquet import read_parquet, to_parquet
    from eventferry.targets.target import ForeignTarget, TargetReport, TargetStream, open_target

__version__ = "0.1.0"

__all__ = [
    "AUTO",
    "MANUAL",
    "AggregateCount",
    "AggregatePage",
    "Aggregates",
    "Append",
    "Appended",
    "Archive",
    "ArchiveReport",
    "BackupReport",
    "Change",
    "ChangeReport",
    "ChangedEvent",
    "Changes",
    "CheckEnd",
    "CheckReport",
    "Conversion",
    "CutoverReport",
    "DamagedEvent",
    "Description",
    "Difference",
    "DrillReport",
    "EraseReport",
    "Erased",
    "Event",
    "EventInput",
    "EventLoader",
    "EventMetadata",
    "EventStore",
    "EventTypes",
    "ExportStream",
    "Filters",
    "FolderSink",
    "FollowStream",
    "ForeignExport",
    "ForeignSource",
    "ForeignTarget",
    "GatheredSecrets",
    "History",
    "HistoryEntry",
    "ImportProgress",
    "ImportReport",
    "ImportStream",
    "Kinds",
    "LargeEvent",
    "MaintenanceMode",
    "MappedCsv",
    "Mapping",
    "Mask",
    "Older",
    "OpenImportDescription",
    "Page",
    "PartReport",
    "Partition",
    "Point",
    "PoisonSearch",
    "Problem",
    "PruneReport",
    "RecallReport",
    "Remark",
    "Repository",
    "RepositoryPartition",
    "RepositoryReport",
    "RepositoryStatus",
    "RestoreReport",
    "Rule",
    "Rules",
    "Run",
    "SavedEvent",
    "SearchPage",
    "Secret",
    "SecretDifference",
    "SecretsExport",
    "SecretsImport",
    "SecretsPage",
    "SecretsReport",
    "SecretsVerifyReport",
    "SideBySide",
    "Sink",
    "SourcePreview",
    "SourceReport",
    "SplitBy",
    "Stats",
    "StreamReport",
    "Subscriber",
    "SyncPreview",
    "SyncReport",
    "SyncStatus",
    "TargetReport",
    "TargetStream",
    "Timeline",
    "Trace",
    "TracedEvent",
    "TypeCount",
    "VerifyReport",
    "archive",
    "back_up",
    "by_cause",
    "check",
    "cutover",
    "data_of",
    "from_cloudevents",
    "from_csv",
    "from_mapped_csv",
    "load_mapping",
    "load_rules",
    "mark_end",
    "metadata_of",
    "open_source",
    "open_store",
    "open_target",
    "pipeline",
    "presets",
    "read_blocks",
    "read_parquet",
    "recall",
    "to_cloudevents",
    "to_csv",
    "to_parquet",
    "verify",
    "verify_secrets",
    "with_metadata",
    *errors.__all__,
]


_MODULES = {
    "archiving.archive": ("ArchiveReport", "archive"),
    "archiving.recall": ("RecallReport", "recall"),
    "changing.changes": ("ChangedEvent", "Changes"),
    "backup.checking": ("Problem", "RepositoryReport"),
    "backup.describing": ("RepositoryStatus", "Run"),
    "backup.drilling": ("DrillReport",),
    "backup.keeping": ("PruneReport",),
    "backup.partition": ("RepositoryPartition",),
    "backup.repository": ("Repository",),
    "backup.restoring": ("RestoreReport",),
    "backup.run": ("BackupReport", "back_up"),
    "changing.erased": ("Erased",),
    "changing.erasing": ("EraseReport",),
    "changing.report": ("ChangeReport",),
    "changing.rules": ("Rule", "Rules", "load_rules"),
    "cloudevents.reading": ("from_cloudevents",),
    "cloudevents.writing": ("to_cloudevents",),
    "comparing.checking": ("CheckReport", "Remark", "check"),
    "lines.end_mark": ("CheckEnd", "mark_end"),
    "lines.damaged": ("DamagedEvent",),
    "lines.event": ("Event", "EventInput"),
    "reading.arguments": ("Filters", "Kinds"),
    "reading.exporting": ("ExportStream",),
    "reading.maintenance": ("AUTO", "MANUAL", "MaintenanceMode"),
    "lines.metadata": ("EventMetadata", "data_of", "metadata_of", "with_metadata"),
    "reading.following": ("FollowStream",),
    "lines.files": ("read_blocks",),
    "importing.stream": ("ImportStream", "StreamReport"),
    "importing.merge": ("Older",),
    "importing.parts": ("PartReport",),
    "reading.partition": ("Partition",),
    "lines.piping": ("Sink", "pipeline"),
    "results": (
        "AggregatePage",
        "Append",
        "Appended",
        "Description",
        "ImportProgress",
        "ImportReport",
        "OpenImportDescription",
        "Page",
        "SavedEvent",
        "Subscriber",
    ),
    "secrets": (
        "GatheredSecrets",
        "Secret",
        "SecretsExport",
        "SecretsImport",
        "SecretsPage",
        "SecretsReport",
    ),
    "sources.mapping": ("Mapping", "load_mapping", "presets"),
    "sources.source": ("ForeignExport", "ForeignSource", "SourcePreview", "SourceReport", "open_source"),
    "store": ("EventStore",),
    "state.archives": ("Archive",),
    "syncing.cutover": ("CutoverReport", "cutover"),
    "syncing.preview": ("SyncPreview",),
    "syncing.status": ("SyncStatus",),
    "syncing.sync": ("SyncReport",),
    "targets.target": ("ForeignTarget", "TargetReport", "TargetStream", "open_target"),
    "reading.loading": ("EventLoader",),
    "tabular.conversion": ("Conversion",),
    "tabular.csv_mapping": ("MappedCsv", "from_mapped_csv"),
    "tabular.csv_reading": ("from_csv",),
    "tabular.csv_writing": ("to_csv",),
    "tabular.folder": ("FolderSink", "SplitBy"),
    "tabular.parquet": ("read_parquet", "to_parquet"),
    "comparing.verifying": ("Difference", "SideBySide", "VerifyReport", "verify"),
    "looking.counting": (
        "AggregateCount",
        "Aggregates",
        "EventTypes",
        "LargeEvent",
        "Point",
        "Stats",
        "Timeline",
        "TypeCount",
    ),
    "looking.differences": ("Change",),
    "looking.history": (
        "History",
        "HistoryEntry",
    ),
    "looking.masks": ("Mask",),
    "looking.poison": ("PoisonSearch",),
    "looking.searching": ("SearchPage",),
    "looking.tracing": (
        "Trace",
        "TracedEvent",
        "by_cause",
    ),
    "comparing.verifying_secrets": ("SecretDifference", "SecretsVerifyReport", "verify_secrets"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import names when they are used: a command that only prints its help needs none of them."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"eventferry.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def open_store(url: str, *, snapshot_bucket_size: int = 1, **options: Any) -> EventStore:
    """Open an event store. It connects at the first call that needs it.

    Args:
        url: `sqlite:///path` (three slashes for a relative path, four for an absolute one) or a plain path;
            `sqlite://:memory:` for a private store that is gone after `close`; `postgresql://…` as libpq understands
            it; `mysql://user@host/database` or `mariadb://…`.
        snapshot_bucket_size: store every nth snapshot of a key only.
        options: may also be given in the query of the URL. Names of tables: events_table_name, snapshots_table_name,
            secrets_table_name, subscribers_table_name; and the options of the database, see its page in docs/.

    Raises:
        UsageError: the URL or an option is not valid.
    """
    from eventferry.databases import database_at
    from eventferry.store import EventStore

    return EventStore(database_at(url, options), snapshot_bucket_size=snapshot_bucket_size)
