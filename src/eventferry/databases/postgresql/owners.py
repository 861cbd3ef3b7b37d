"""The locks of owners on PostgreSQL: advisory ones.

They belong to the session, so that each can be given back alone, but the session is in a transaction as long as there
are some, so that a pgbouncer keeps the server's connection with it; that does nothing and holds up no clean-up.
"""

from __future__ import annotations

from eventferry.databases.names import new_owner
from eventferry.databases.postgresql.connection import Connection, Rows

_MODE = "READ COMMITTED READ ONLY"


class AdvisoryLocks:
    """The locks of owners."""

    def new_owner(self, connection: Connection) -> str:
        return new_owner()

    async def lock(self, connection: Connection, owner: str, *, is_first: bool) -> None:
        lock = f"SELECT pg_advisory_lock({_key(owner)})"
        await _ask(connection, f"{connection.begin(_MODE)}; {lock}" if is_first else lock)

    async def unlock(self, connection: Connection, owner: str, *, is_last: bool) -> None:
        all_of_them = "SELECT pg_advisory_unlock_all(); COMMIT"
        await _ask(connection, all_of_them if is_last else f"SELECT pg_advisory_unlock({_key(owner)})")

    async def is_locked(self, connection: Connection, owner: str) -> bool:
        """A standby knows nothing of the locks of its primary: there every owner is believed to live."""
        key = _key(owner)
        rows = await _ask(
            connection,
            f"""SELECT pg_is_in_recovery() OR EXISTS (
              SELECT FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
              WHERE l.locktype = 'advisory' AND l.granted AND d.datname = current_database() AND l.objsubid = 1
                AND l.classid::bigint = {key >> 32 & 0xFFFFFFFF} AND l.objid::bigint = {key & 0xFFFFFFFF})""",
        )
        return rows[-1] == [("t",)]


async def _ask(connection: Connection, statements: str) -> list[Rows]:
    """Behind a statement that failed the transaction is begun anew; the locks outlive it."""
    begin = f"ROLLBACK; {connection.begin(_MODE)}; " if connection.has_failed else ""
    return await connection.ask(begin + statements)


def _key(owner: str) -> int:
    number = int(owner, 16) & (2**64 - 1)
    return number - 2**64 if number >= 2**63 else number
