"""Describes the service for machines (OpenAPI 3.1) and for people, from the table of routes."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import msgspec

import eventferry
from eventferry.http.problems import MEDIA_TYPE as PROBLEM
from eventferry.http.route import JSON, TEXT, Answer, Body, Handler
from eventferry.http.streams import LINES

_REFERENCE = "#/components/schemas/{name}"

_ALWAYS = (400, 500, 503)
_GUARDED = (401, 403, 429)

_RETRY = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "string"}}}


class Problem(msgspec.Struct, rename="camel", omit_defaults=True):
    """Why a request failed (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    line: int | None = None
    byte_offset: int | None = None
    field: str | None = None
    aggregate_id: str | None = None
    aggregate_version: int | None = None
    last_version: int | None = None


def description(routes: Sequence[Handler[Any]], root_path: str, *, with_tokens: bool) -> dict[str, Any]:
    """The OpenAPI description of routes, for an application that is mounted at `root_path`."""
    answers = {route.answer.shape for route in routes} - {None, dict}
    bodies = {route.body.json for route in routes if route.body} - {None}
    shapes = sorted({Problem, *answers, *bodies}, key=str)
    _, schemas = msgspec.json.schema_components(shapes, ref_template=_REFERENCE)
    # The key is only there if asked for.
    schemas["Description"]["required"].remove("cursor")
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, with_tokens=with_tokens)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "eventferry",
            "version": eventferry.__version__,
            "description": "Moves events into and out of an event store without losing or duplicating any.",
        },
        "servers": [{"url": root_path or "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "basic": {"type": "http", "scheme": "basic", "description": "The password is the token."},
            },
        },
    }


def _operation(route: Handler[Any], *, with_tokens: bool) -> dict[str, Any]:
    schemes = ["bearer", "basic"] if route.is_plain else ["bearer"]
    is_open = not with_tokens or not route.scopes
    operation: dict[str, Any] = {
        "operationId": route.operation,
        "summary": route.summary,
        "tags": ["reSolve's client" if route.is_plain else "eventferry"],
        "parameters": [
            *(_path_parameter(name) for name in re.findall(r"\{(\w+)\}", route.path)),
            *_query_parameters(route),
            *(_header_parameter(name, what) for name, what in (route.headers or {}).items()),
        ],
        "responses": _responses(route),
        "security": [] if is_open else [{scheme: list(route.scopes)} for scheme in schemes],
    }
    if route.body is not None:
        operation["requestBody"] = _request_body(route.body)
    return operation


def _request_body(body: Body) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if body.lines:
        content |= {media_type: {"schema": {"type": "string"}} for media_type in (LINES, "text/plain")}
    if body.json is not None:
        (schema,), _ = msgspec.json.schema_components([body.json], ref_template=_REFERENCE)
        content[JSON] = {"schema": schema}
    return {
        "description": f"{body.what} In any charset given by Content-Type; Content-Encoding may be gzip or zstd.",
        "required": not body.lines,  # JSON Lines may be empty
        "content": content,
    }


def _path_parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _header_parameter(name: str, what: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": what,
        "schema": {"type": "string"},
    }


def _query_parameters(route: Handler[Any]) -> list[dict[str, Any]]:
    _, schemas = msgspec.json.schema_components([route.query], ref_template=_REFERENCE)
    schema = schemas[route.query.__name__]
    return [
        {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "schema": _without_null(shape),
        }
        for name, shape in schema["properties"].items()
    ]


def _without_null(shape: dict[str, Any]) -> dict[str, Any]:
    """The schema of a parameter without null, which a query cannot express: an absent parameter is null."""
    kept = {key: value for key, value in shape.items() if not (key == "default" and value is None)}
    options = [option for option in kept.pop("anyOf", ()) if option != {"type": "null"}]
    return kept | options[0] if options else kept


def _responses(route: Handler[Any]) -> dict[str, Any]:
    responses = {str(route.answer.status): _answered(route.answer)}
    guarded = _GUARDED if route.scopes else ()
    for status in sorted({*_ALWAYS, *guarded, *route.refusals}):
        responses[str(status)] = {
            "description": HTTPStatus(status).phrase,
            "headers": _RETRY if status in (429, 503) else {},
            "content": {TEXT.partition(";")[0]: {"schema": {"type": "string"}}}
            if route.is_plain
            else {PROBLEM: {"schema": {"$ref": _REFERENCE.format(name="Problem")}}},
        }
    return responses


def _answered(answer: Answer[Any]) -> dict[str, Any]:
    told: dict[str, Any] = {"description": answer.what}
    if answer.headers:
        told["headers"] = {
            name: {"description": what, "schema": {"type": "string"}} for name, what in answer.headers.items()
        }
    if answer.status != 204:
        shape = answer.shape
        if shape is None:
            schema: dict[str, Any] = {"type": "string"}
        elif shape is dict:
            schema = {"type": "object"}
        else:
            schema = {"$ref": _REFERENCE.format(name=shape.__name__)}
        told["content"] = {answer.media_type.partition(";")[0]: {"schema": schema}}
        if answer.stream is not None:
            told["content"][answer.stream] = {"schema": {"type": "string"}}
    return told


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
code { font-family: ui-monospace, monospace } h2 { font-size: 1.1rem; margin: 2rem 0 .25rem }
table { border-collapse: collapse } td { padding: .1rem 1rem .1rem 0; vertical-align: top } p { margin: .25rem 0 }
"""


_TOKENS = """<p>This page needs no token. A route needs a token with the scopes it lists. The operator of the service
creates tokens (<code>eventferry token add NAME --scope read --tokens FILE</code>). Send the token in a header:
<code>curl -H "Authorization: Bearer TOKEN" …/describe</code></p>"""


_CONSOLE = "<p>To look into the store with a browser: <a href=console>the console</a>.</p>"


def page(routes: Sequence[Handler[Any]], *, with_tokens: bool, with_console: bool) -> str:
    """The description for people: a page that loads nothing else."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>eventferry</title>",
        f"<style>{_STYLE}</style><h1>eventferry {html.escape(eventferry.__version__)}</h1>",
        *([_CONSOLE] if with_console else []),
        *([_TOKENS] if with_tokens else []),
        "<p>For machines: <a href=openapi.json>openapi.json</a>.</p>",
    ]
    parts += [_section(route, with_tokens=with_tokens) for route in routes]
    return "\n".join([*parts, "</html>"])


def _section(route: Handler[Any], *, with_tokens: bool) -> str:
    operation = _operation(route, with_tokens=with_tokens)
    rows = [
        (f"<code>{html.escape(parameter['name'])}</code>", html.escape(_kind(parameter["schema"])))
        for parameter in operation["parameters"]
    ]
    if route.body is not None:
        rows.append(("body", html.escape(operation["requestBody"]["description"])))
    rows += [(status, html.escape(told["description"])) for status, told in operation["responses"].items()]
    table = "".join(f"<tr><td>{name}</td><td>{what}</td></tr>" for name, what in rows)
    scopes = f" Scope: {', '.join(route.scopes) or 'none'}." if with_tokens else ""
    return (
        f"<h2><code>{route.method} {html.escape(route.path)}</code></h2>"
        f"<p>{html.escape(route.summary)}{scopes}</p><table>{table}</table>"
    )


def _kind(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    kind = str(schema.get("type", "text"))
    return f"{kind} (repeatable, matches any)" if kind == "array" else kind
