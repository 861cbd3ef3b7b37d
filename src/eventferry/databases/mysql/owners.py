"""The locks of owners on MySQL: named ones of the server's."""

from __future__ import annotations

from functools import partial

from eventferry.databases.mysql import cluster
from eventferry.databases.mysql.cluster import owner_lock
from eventferry.databases.mysql.connection import Connection
from eventferry.databases.names import new_owner


class NamedLocks:
    """The locks of owners: named ones of the server's."""

    def new_owner(self, connection: Connection) -> str:
        return new_owner() if connection.node is None else cluster.new_owner(connection.node)

    async def lock(self, connection: Connection, owner: str, *, is_first: bool) -> None:
        await connection.ask(lambda: connection.lock(owner_lock(owner), 0))

    async def unlock(self, connection: Connection, owner: str, *, is_last: bool) -> None:
        if is_last:
            await connection.ask(connection.end)
        else:
            await connection.ask(lambda: connection.query("SELECT RELEASE_LOCK(%s)", (owner_lock(owner),)))

    async def is_locked(self, connection: Connection, owner: str) -> bool:
        return await connection.ask(partial(is_alive, connection, owner))


def is_alive(connection: Connection, owner: str) -> bool:
    """Whether somebody holds an owner's lock; on any node of a cluster."""
    is_used = connection.query("SELECT IS_USED_LOCK(%s)", (owner_lock(owner),)) != [(None,)]
    return is_used or cluster.lives_elsewhere(connection, owner)
