"""The event store: a thin facade, whose methods stand by groups in `facade/`. Each operation has its own module."""

from __future__ import annotations

from eventferry.facade.erasing import Erasing
from eventferry.facade.events import Events
from eventferry.facade.looking import Looking
from eventferry.facade.moving import Moving
from eventferry.facade.parts import InParts
from eventferry.facade.records import Records
from eventferry.facade.secrets import Secrets

__all__ = ["EventStore"]


class EventStore(Events, Looking, Moving, InParts, Erasing, Secrets, Records):
    """An event store in a database; created by `open_store`. It connects at the first call that needs it.

    Use it with `async with`, or call `close`. After that, every call raises StoreClosedError.
    """
