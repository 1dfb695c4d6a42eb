"""The description of the API (OpenAPI 3.1), made from its routes and from the rows' classes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

import attrs

from monconn._version import __version__
from monconn.faces.http.columns import LISTINGS
from monconn.faces.http.routes import Parameter, Route
from monconn.net.http.messages import JSON, PROBLEM
from monconn.ops.columns import Row, Unit

_TYPES: dict[Unit, dict[str, Any]] = {
    "text": {"type": "string"},
    "count": {"type": "integer"},
    "bytes": {"type": "integer"},
    "bytes_per_second": {"type": "number"},
    "seconds": {"type": "number"},
    "time": {"type": "string", "format": "date-time"},
    "flag": {"type": "boolean"},
    "list": {"type": "array"},
    "object": {"type": "object"},
}
_UNIT_TEXTS: dict[Unit, str] = {
    "bytes": "in bytes",
    "bytes_per_second": "in bytes a second",
    "seconds": "in seconds",
}
_DESCRIPTION = """What monconn knows of connections, and what can be done to them.

Lists are `{"rows": [...], "next": "..."}`: `next` is there if there is more, and is the `cursor`
of the request for it. Errors are problem details (RFC 9457). Beside the answers of each operation,
any request may be answered with 408, 413, 414, 417, 431, 500, 503 or 505 by the server itself."""
_OTHERS = {
    204: "Nothing more comes: a browser then asks no more.",
    400: "Arguments that are wrong: `errors` names each of them.",
    401: "No token, a wrong one, or a session that has ended.",
    403: "The role does not suffice, the configuration forbids it, or the request is of another"
    " site's page.",
    404: "There is no such service, connection or device, or that part is not configured.",
    409: "It is not possible in the present state.",
    413: "The body is too long.",
    415: "The body is not application/json.",
    421: "The Host of the request is no name of this server.",
    422: "Each argument is one, but what they ask for together makes no sense, such as a time that"
    " ends before it begins; or the configuration has problems: `problems` lists them.",
    429: "Too many wrong tokens at a time, or too many streams, requests or logins of one caller.",
    503: "A file, such as the history's, cannot be used now, or there are too many streams.",
}
_PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What is wrong, for people."},
        "errors": {
            "type": "array",
            "description": "What is wrong with which argument.",
            "items": {
                "type": "object",
                "required": ["name", "detail"],
                "properties": {
                    "name": {"type": "string"},
                    "detail": {"type": "string"},
                    "position": {
                        "type": "integer",
                        "description": "Where in a filter the term begins, in characters from 0.",
                    },
                    "suggestion": {"type": "string"},
                },
            },
        },
        "problems": {
            "type": "array",
            "description": "Those of a configuration.",
            "items": {
                "type": "object",
                "required": ["source", "line", "path", "message"],
                "properties": {
                    "source": {"type": "string"},
                    "line": {"type": ["integer", "null"]},
                    "path": {"type": "string"},
                    "message": {"type": "string"},
                },
            },
        },
    },
}


def describe(routes: Iterable[Route], cookie_name: str) -> dict[str, Any]:
    """The description, as plain values for JSON.

    :param cookie_name: of a browser's session.
    """
    paths: dict[str, dict[str, Any]] = {}
    rows = {listing.row for listing in LISTINGS.values()}
    for route in routes:
        if route.row is not None:
            rows.add(route.row)
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "monconn",
            "version": __version__,
            "description": _DESCRIPTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}, {"session": []}],
        "paths": paths,
        "components": {
            "schemas": {
                "Problem": _PROBLEM_SCHEMA,
                **{_name(each): _row_schema(each) for each in sorted(rows, key=_name)},
            },
            "responses": {_other_name(status): _other(status) for status in _OTHERS},
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": cookie_name},
            },
        },
    }


def _other_name(status: int) -> str:
    return HTTPStatus(status).phrase.title().replace(" ", "").replace("-", "")


def _other(status: int) -> dict[str, Any]:
    made: dict[str, Any] = {"description": _OTHERS[status]}
    if status >= 400:
        made["content"] = {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return made


# -- operations


def _operation(route: Route) -> dict[str, Any]:
    path_names = re.findall(r"{(\w+)}", route.path)
    words = re.sub(r"^/(api/v1/)?", "", route.path)
    in_path = [each for each in route.parameters if each.name in path_names]
    others = [each for each in route.parameters if each.name not in path_names]
    in_body = route.method == "POST"
    made: dict[str, Any] = {
        "operationId": f"{route.method.lower()}_{re.sub('[^a-z_]+', '_', words).strip('_')}",
        "summary": route.summary,
        "tags": [words.partition("/")[0].partition(".")[0]],
        "parameters": [
            *(_parameter(each, "path") for each in in_path),
            *(_parameter(each, "query") for each in others if not in_body),
        ],
        "responses": {
            str(route.status): _success(route),
            **{
                str(status): {"$ref": f"#/components/responses/{_other_name(status)}"}
                for status in sorted(_others(route, bool(in_body and others)))
            },
        },
    }
    for status, schema in route.other_schemas.items():
        made["responses"][str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": {JSON: {"schema": schema}},
        }
    if in_body and others:
        made["requestBody"] = _body(others)
    if route.role is None:
        made["security"] = []
    elif route.role == "operate":
        made["description"] = "Needs the role operate."
    return made


def _others(route: Route, has_body: bool) -> set[int]:
    names = {each.name for each in route.parameters}
    errors = {400, 403, 421, *route.errors}
    if route.role is not None or route.path == "/api/v1/session":
        errors |= {401, 429}
    if "{" in route.path or names & {"service", "cursor"}:
        errors.add(404)
    if names & {"since", "until"}:
        errors.add(422)
    if has_body:
        errors |= {413, 415}
    return errors


def _parameter(parameter: Parameter, place: str) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": place,
        "description": parameter.help,
        "required": place == "path" or parameter.is_required,
        "schema": dict(parameter.schema),
    }


def _body(parameters: list[Parameter]) -> dict[str, Any]:
    required = [each.name for each in parameters if each.is_required]
    schema = {
        "type": "object",
        "properties": {each.name: {**each.schema, "description": each.help} for each in parameters},
        "additionalProperties": False,
    }
    if required:
        schema["required"] = required
    return {"required": bool(required), "content": {JSON: {"schema": schema}}}


def _success(route: Route) -> dict[str, Any]:
    made: dict[str, Any] = {"description": HTTPStatus(route.status).phrase}
    if route.status == 204:
        return made
    schema: Mapping[str, Any] | None = route.schema
    if route.row is not None:
        reference = {"$ref": f"#/components/schemas/{_name(route.row)}"}
        schema = _list_schema(route, reference) if route.is_list else reference
    made["content"] = {route.content_type: {"schema": schema or {"type": "string"}}}
    return made


def _list_schema(route: Route, row: Mapping[str, Any]) -> dict[str, Any]:
    properties: dict[str, Any] = {"rows": {"type": "array", "items": row}}
    names = {each.name for each in route.parameters}
    if "cursor" in names:
        properties["next"] = {
            "type": "string",
            "description": "The cursor of the rows that follow, if there are any.",
        }
    required = ["rows"]
    if "offset" in names:
        properties["total"] = {"type": "integer", "description": "How many there are in all."}
        required.append("total")
    return {"type": "object", "required": required, "properties": properties}


# -- rows


def _name(row_class: type[Row]) -> str:
    return row_class.__name__.removesuffix("Row")


def _row_schema(row_class: type[Row]) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    required = []
    columns = row_class.fields()
    for each in attrs.fields(row_class):
        column = columns[each.name]
        schema = dict(_TYPES[column.unit])
        if each.metadata["is_null"]:
            schema["type"] = [schema["type"], "null"]
        unit = _UNIT_TEXTS.get(column.unit, "")
        text = f"{column.help} ({unit})" if column.help and unit else column.help or unit
        if text:
            schema["description"] = text
        properties[each.name] = schema
        if not each.metadata["optional"]:
            required.append(each.name)
    return {
        "type": "object",
        "description": (row_class.__doc__ or "").strip().splitlines()[0],
        "required": required,
        "properties": properties,
    }
