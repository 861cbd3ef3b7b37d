"""Handlers of secrets, which are exported and imported as JSON Lines, and never logged."""

from __future__ import annotations

from typing import Annotated

import msgspec

from eventferry import SecretsReport
from eventferry.http.handling import Call, Query
from eventferry.http.problems import RefusedError
from eventferry.http.route import Body, answers, route
from eventferry.http.streams import LINES, LinesResponse
from eventferry.lifecycle import aclosing
from eventferry.lines.limits import MAX_SAFE_INTEGER

_SECRETS = Body("JSON Lines with secret, id and idx.")

MAX_BYTES = 64 * 1024**2
"""The maximum size of a request: imported secrets are held in memory."""


class _SecretsQuery(Query):
    idx: Annotated[int, msgspec.Meta(ge=0, le=MAX_SAFE_INTEGER)] = 0
    tombstones: bool = False


@route("GET", "/secrets", "secrets")
@answers("JSON Lines with secret, id and idx.", media_type=LINES)
async def secrets_handler(call: Call[_SecretsQuery]) -> LinesResponse:
    """Export the secrets as JSON Lines."""
    export = call.store.export_secrets(idx=call.query.idx, tombstones=call.query.tombstones)
    # Errors of the store must be found before the answer begins.
    await call.store.load_secrets(limit=1, idx=call.query.idx)
    return LinesResponse(export, timeout=call.service.limits.timeout, ended=export.aclose)


@route("POST", "/secrets", "secrets", refuses=(409, 423), body=_SECRETS, is_import=True)
@answers("The numbers of imported, skipped and deleted secrets.", SecretsReport)
async def import_secrets_handler(call: Call[Query]) -> SecretsReport:
    """Import secrets, all or nothing."""
    sink = call.store.import_secrets()
    size = 0
    try:
        async with aclosing(call.blocks()) as blocks:
            async for block in blocks:
                size += len(block)
                if size > MAX_BYTES:
                    raise RefusedError(
                        413, "body-too-large", f"a request may have at most {MAX_BYTES} bytes of secrets"
                    )
                await sink.write(block)
        return await sink.close()
    except BaseException:
        await sink.abort()
        raise
