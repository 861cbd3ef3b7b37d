"""A MariaDB Galera cluster: nodes that each hold the whole store.

Row locks, table locks and named locks act on one node. A transaction meets those of the other nodes when it commits:
then it is sent to all nodes, in one order, and fails (1213) if one that came before it has changed the same rows and
it had not seen that. One that has not come to its commit is rolled back at once. Definitions stand in the same order.

So whatever must not run beside something on another node changes a row that the other changes too. A save changes its
thread's row anyway; exclusive transactions change the rows of all threads, and changes of the secrets, or of the open
import, a row in their table. What a transaction has read cannot have changed on another node without such a conflict.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from dataclasses import dataclass

from pymysql.err import MySQLError

from eventferry.clock import now
from eventferry.databases.mysql import markers
from eventferry.databases.mysql.connection import NOT_ALLOWED, Connection, number_of
from eventferry.databases.mysql.markers import Marker
from eventferry.databases.mysql.tables import Names, quoted
from eventferry.databases.names import OF_A_NODE

GUARD = "eventferry"
"""What the row is called that comes and goes with a transaction which others must not run beside."""


@dataclass(frozen=True, slots=True)
class Hold:
    """A marker for which all writers wait, until it is released: without it an exclusive transaction would be undone by
    the next save on another node. That it stands is a favour and no lock: without it the transaction fails."""

    connection: Connection
    names: Names
    marker: Marker

    def release(self) -> None:
        with contextlib.suppress(MySQLError, OSError):  # what is left behind counts as a dead owner's
            if (change := markers.take(self.connection, self.names, self.marker)) is not None:
                change.finish()


def changed_threads(threads: str) -> tuple[str, str]:
    """Statements that change all threads' rows, to what they were: an update that changes nothing is sent to nobody."""
    change = f"UPDATE {quoted(threads)} SET threadCounter = threadCounter"
    return f"{change} + 1", f"{change} - 1"


def new_owner(node: str) -> str:
    """An id for an operation whose lock is held on this node."""
    return f"{OF_A_NODE}{_mark(node)}{secrets.token_hex(4)[1:]}"


def new_hold(connection: Connection, node: str, names: Names) -> Hold:
    """A hold that is to be set; its owner lives as long as the connection, or to its `end`."""
    owner = new_owner(node)
    connection.lock(owner_lock(owner), 0)
    return Hold(connection, names, markers.new(names.tables, "SWAP", owner, now()))


def owner_lock(owner: str) -> str:
    """The name of the lock that an owner holds."""
    return f"eventferry-{owner}"


def lives_elsewhere(connection: Connection, owner: str | None) -> bool:
    """Whether an owner may hold its lock on another node: it belongs to one that is in the cluster, as far as this user
    may see which are."""
    if connection.node is None or owner is None or not owner.startswith(OF_A_NODE):
        return False
    mark = owner[len(OF_A_NODE) :][:4]
    try:
        members = connection.query("SELECT node_uuid FROM mysql.wsrep_cluster_members")
    except MySQLError as error:
        if number_of(error) not in NOT_ALLOWED:
            raise
        return mark != _mark(connection.node)
    return mark in [_mark(node) for (node,) in members if node != connection.node]


def _mark(node: str) -> str:
    return hashlib.sha256(node.encode()).hexdigest()[:4]
