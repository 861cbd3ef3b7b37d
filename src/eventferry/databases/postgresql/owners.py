"""Owners on PostgreSQL: an advisory lock, held by a transaction on a connection of its own.

The lock goes with the connection, and that with its process. It belongs to a transaction, not to the session, so
that a pgbouncer keeps the server's connection with it; the transaction does nothing and holds up no clean-up.
"""

from __future__ import annotations

from secrets import token_hex

from eventferry.databases.postgresql.connection import Connection


class LockOwner:
    """A running operation on one store."""

    def __init__(self, owner: str, connection: Connection) -> None:
        self.id = owner
        self._connection = connection

    @classmethod
    async def begin(cls, connection: Connection) -> LockOwner:
        """Take a lock that nobody has; the connection is the owner's from here on."""
        owner = token_hex(8)
        await connection.run(
            f"""BEGIN; SET LOCAL idle_in_transaction_session_timeout = 0;
            SELECT pg_advisory_xact_lock({_key(owner)})"""
        )
        return cls(owner, connection)

    async def release(self) -> None:
        """Drop the lock; twice is fine.

        By a ROLLBACK, which is answered: a server notices only some time later that a connection was closed, and
        until then the next command would take the owner for alive.
        """
        try:
            async with self._connection.ended():
                pass
        finally:
            await self._connection.close()


async def is_alive(connection: Connection, owner: str) -> bool:
    """Whether an owner's connection holds its lock; takes none itself. A standby knows nothing of the locks of
    its primary: there every owner is believed to live."""
    key = _key(owner)
    [rows] = await connection.run(
        """SELECT pg_is_in_recovery() OR EXISTS (
          SELECT FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
          WHERE l.locktype = 'advisory' AND l.granted AND d.datname = current_database() AND l.objsubid = 1
            AND l.classid::bigint = %s AND l.objid::bigint = %s)""",
        (key >> 32 & 0xFFFFFFFF, key & 0xFFFFFFFF),
    )
    return bool(rows[0][0])


def _key(owner: str) -> int:
    """The lock's number: 64 bits, with a sign."""
    number = int(owner, 16) & (2**64 - 1)
    return number - 2**64 if number >= 2**63 else number
