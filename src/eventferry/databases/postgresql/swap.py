"""The swap on PostgreSQL: a stage takes the place of the events. And the end of a store."""

from __future__ import annotations

from typing import Any, get_args

from eventferry.database import Stage, StageKind
from eventferry.databases.postgresql import tables as ddl
from eventferry.databases.postgresql.merge import PostgresExclusiveWriting
from eventferry.databases.postgresql.tables import quoted


class PostgresReplacing(PostgresExclusiveWriting):
    """An exclusive write transaction that nobody reads beside."""

    async def swap(self, stage: Stage) -> None:
        table, progress = self.tables_of(stage)
        await self.hold(stage)
        await self.refuse_what_would_be_lost()
        grants = await self._grants(stage)
        events = quoted(self.names.tables.events)
        indexes = await self.indexed(stage.table)
        await self.execute(
            f'ALTER TABLE {table} DROP COLUMN "line"',
            f"DROP TABLE {self.names.events}",
            f"ALTER TABLE {table} RENAME TO {events}",
            *(
                f"ALTER INDEX {self.names.of(indexes[key])} RENAME TO {quoted(self.names.index(suffix))}"
                for key, suffix in ddl.INDEXES.items()
            ),
            f"DROP TABLE {progress}",
            f"DELETE FROM {self.names.snapshots}",
            f"DELETE FROM {self.names.subscribers}",
            f"""UPDATE {self.names.threads} AS t SET "threadCounter" = coalesce((
                  SELECT max(e."threadCounter") + 1 FROM {self.names.events} AS e WHERE e."threadId" = t."threadId"
                ), 0)""",
            *grants,
        )

    async def drop(self) -> None:
        names = self.names
        tables = [names.events, names.threads, names.snapshots, names.secrets, names.subscribers]
        tables += map(names.of, names.tables.made_later)
        if await self.freeze() is not None:
            tables.append(names.freeze)
        for kind in get_args(StageKind):
            for stage in await self.stages(kind):
                tables += self.tables_of(stage)
        await self.execute(f"DROP TABLE IF EXISTS {', '.join(tables)}")

    async def _grants(self, stage: Stage) -> list[str]:
        """Give the stage the events' owner and rights and no others, which default privileges may have given."""
        [[(owner,)], too_many, rights] = await self.connection.run(
            """SELECT relowner::regrole::text FROM pg_class WHERE oid = %(oid)s;
            SELECT DISTINCT coalesce(nullif(grantee, 0)::regrole::text, 'PUBLIC') FROM pg_class,
              aclexplode(relacl) WHERE oid = to_regclass(%(stage)s) AND grantee <> relowner;
            SELECT coalesce(nullif(grantee, 0)::regrole::text, 'PUBLIC'), privilege_type,
              is_grantable AND grantee <> relowner, NULL
            FROM pg_class, aclexplode(coalesce(relacl, acldefault('r', relowner))) WHERE oid = %(oid)s
            UNION ALL
            SELECT coalesce(nullif(grantee, 0)::regrole::text, 'PUBLIC'), privilege_type, is_grantable, attname
            FROM pg_attribute, aclexplode(attacl) WHERE attrelid = %(oid)s AND NOT attisdropped""",
            {"oid": self._oid, "stage": self.names.of(stage.table).replace("%%", "%")},
        )
        return [
            f"ALTER TABLE {self.names.events} OWNER TO {_role(owner)}",
            *(
                f"REVOKE ALL ON {self.names.events} FROM {_role(grantee)}"
                for grantee in [owner, *(grantee for (grantee,) in too_many)]
            ),
            *(
                f"GRANT {privilege}{f' ({quoted(column)})' if column else ''} ON {self.names.events} "
                f"TO {_role(grantee)}{' WITH GRANT OPTION' if grantable else ''}"
                for grantee, privilege, grantable, column in rights
            ),
        ]


def _role(name: Any) -> str:
    return str(name).replace("%", "%%")
