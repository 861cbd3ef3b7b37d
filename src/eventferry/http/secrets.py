"""Handlers of secrets, which are exported and imported as JSON Lines, and never logged."""

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated

import msgspec
from starlette.responses import Response

from eventferry import SecretsReport
from eventferry.http.handling import Call, Handler, JsonResponse, NoQuery
from eventferry.http.problems import RefusedError
from eventferry.http.streams import LinesResponse
from eventferry.lines.limits import MAX_SAFE_INTEGER

MAX_BYTES = 64 * 1024**2
"""The maximum size of a request: imported secrets are held in memory."""


class SecretsQuery(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """The parameters of an export of secrets."""

    idx: Annotated[int, msgspec.Meta(ge=0, le=MAX_SAFE_INTEGER)] = 0
    tombstones: bool = False


async def _export(call: Call[SecretsQuery]) -> Response:
    export = call.store.export_secrets(idx=call.query.idx, tombstones=call.query.tombstones)
    # Errors of the store must be found before the answer begins.
    await call.store.load_secrets(limit=1, idx=call.query.idx)
    return LinesResponse(export, headers={}, timeout=call.service.limits.timeout, ended=export.aclose)


async def _import(call: Call[NoQuery]) -> Response:
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
        report: SecretsReport = await sink.close()
    except BaseException:
        await sink.abort()
        raise
    return JsonResponse(report)


secrets_handler = Handler("secrets", SecretsQuery, _export, is_private=True)
import_secrets_handler = Handler("import-secrets", NoQuery, _import, is_import=True, is_private=True)
