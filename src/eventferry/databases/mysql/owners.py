"""The locks of owners on MySQL: named ones of the server's."""

from __future__ import annotations

from functools import partial

from eventferry.databases.mysql.connection import Connection


class NamedLocks:
    """The locks of owners: named ones of the server's."""

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
    """Whether somebody holds an owner's lock."""
    return connection.query("SELECT IS_USED_LOCK(%s)", (owner_lock(owner),)) != [(None,)]


def owner_lock(owner: str) -> str:
    """The name of the lock that an owner holds."""
    return f"eventferry-{owner}"
