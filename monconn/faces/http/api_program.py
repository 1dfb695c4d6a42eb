"""Routes of the program as a whole: who asks, what there is, its configuration, and its outputs."""

from __future__ import annotations

from functools import cache
from typing import Any

from twisted.internet.defer import Deferred

from monconn._version import __version__
from monconn.errors import NotConfigured, QuestionError
from monconn.faces.http import parameters as of
from monconn.faces.http.columns import columns_json
from monconn.faces.http.encoding import encode, encoded_in_turns, json_response
from monconn.faces.http.lists import following, rows_answer
from monconn.faces.http.problems import Problem
from monconn.faces.http.routes import Call, Parameter, Route
from monconn.net.http.messages import JSON, Answer, Response
from monconn.ops.captures import MOST_SECONDS
from monconn.ops.explanations import close_matches, explain, explain_code
from monconn.ops.forget import ForgetResult
from monconn.ops.reload import ReloadResult
from monconn.ops.rows import CaptureRow, NotifyRow, NotifyTestRow


def _session(call: Call) -> Response:
    caller = call.known_caller
    return json_response(
        {
            "name": caller.name,
            "role": caller.role,
            "kind": caller.kind,
            "version": __version__,
            "served": call.operations.token,
            "has": call.operations.has(),
        }
    )


def _log_in(call: Call) -> Answer:
    assert call.guard is not None
    code, token = call.arguments.get("code"), call.arguments.get("token")
    if (code is None) == (token is None):
        raise QuestionError("give either a code or a token")
    replace = call.arguments.get("replace", False)
    return call.guard.log_in(call.request, code=code, token=token, replace=replace)


def _log_out(call: Call) -> Response:
    assert call.guard is not None
    return call.guard.log_out(call.request, call.known_caller)


@cache
def _encoded_columns() -> bytes:
    return encode(columns_json())


def _columns(call: Call) -> Response:
    return Response(200, _encoded_columns(), JSON)


def _word(call: Call) -> Response:
    word = call.arguments["word"]
    code = explain_code(word)
    found = explain(word)
    if code is None and not found:
        matches = close_matches(word)
        raise Problem(
            404,
            "there is no such word" + (f": did you mean {', '.join(matches)}?" if matches else ""),
            "unknown-word",
        )
    values: dict[str, Any] = {"word": word, "explanations": [each.to_json() for each in found]}
    if code is not None:
        values["code"] = code.to_json()
    return json_response(values)


# -- the configuration


def _config(call: Call) -> Deferred[Response]:
    if call.operations.configuration is None:
        raise NotConfigured("this program runs no configuration")
    sections = (
        {"path": each.path, "settings": [setting.to_json() for setting in each.settings]}
        for each in call.operations.configuration()
    )
    return encoded_in_turns(call.operations.clock, sections, name="sections")


def _reload(call: Call) -> Deferred[Response]:
    def answer(result: ReloadResult) -> Response:
        changes = [each.to_json() for each in result.changes]
        return json_response({**result.to_json(), "changes": changes})

    dry_run = call.arguments.get("dry_run", False)
    return call.operations.reload(call.actor, dry_run=dry_run).addCallback(answer)


def _forget(call: Call) -> Deferred[Response]:
    def answer(result: ForgetResult) -> Response:
        return json_response(result.to_json())

    arguments = call.arguments
    return call.operations.forget(
        call.actor, arguments["client"], dry_run=arguments.get("dry_run")
    ).addCallback(answer)


# -- captures


def _captures(call: Call) -> Answer:
    return following(call) or rows_answer(call, call.operations.captures.rows())


def _capture(call: Call) -> Response:
    done = call.operations.capture_start(call.actor, **call.arguments)
    return json_response(
        {"capture": done.row.to_json(), "services_left_out": list(done.services_left_out)}, 201
    )


def _end_capture(call: Call) -> Answer:
    return rows_answer(
        call,
        iter(call.operations.capture_stop(call.actor, [call.arguments["id"]])),
        is_continued=False,
    )


# -- outputs


def _outputs(call: Call) -> Answer:
    return following(call) or rows_answer(call, iter(call.operations.outputs()))


def _test_outputs(call: Call) -> Deferred[Response]:
    number, outputs = call.arguments.get("number"), call.operations.outputs()
    if not outputs:
        raise NotConfigured("there is no output: the configuration has no notify:")
    if number is not None and number not in {each.number for each in outputs}:
        raise Problem(404, f"there is no output {number}", "unknown-output")
    testing = call.operations.notify_test(call.actor, number)
    return testing.addCallback(lambda rows: rows_answer(call, iter(rows), is_continued=False))


_TEXT = {"type": "string"}
_WORD_SCHEMA = {"type": "string", "format": "monconn-word"}
_SESSION = {
    "type": "object",
    "required": ["name", "role", "kind", "version", "served", "has"],
    "properties": {
        "name": {**_TEXT, "description": "Of the token, or of whom the session is."},
        "role": {"enum": ["view", "operate"]},
        "kind": {"enum": ["token", "session"]},
        "version": {**_TEXT, "description": "Of monconn."},
        "served": {**_TEXT, "description": "Another one after each start of the program."},
        "has": {
            "type": "object",
            "description": "Which parts that need not be there are.",
            "additionalProperties": {"type": "boolean"},
        },
    },
}
_COLUMNS = {
    "type": "object",
    "description": "By listing, its columns and the keys of its filters.",
    "additionalProperties": {
        "type": "object",
        "required": ["columns", "keys", "sorts"],
        "properties": {
            "columns": {"type": "array", "items": {"type": "object"}},
            "keys": {"type": "array", "items": {"type": "object"}},
            "sorts": {"type": "array", "items": _TEXT},
        },
    },
}
_CONFIG = {
    "type": "object",
    "required": ["sections"],
    "properties": {
        "sections": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["path", "settings"],
                "properties": {
                    "path": {**_TEXT, "description": "Such as services.web or history."},
                    "settings": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["key", "value", "from", "line", "file"],
                            "properties": {
                                "key": _TEXT,
                                "value": {
                                    **_TEXT,
                                    "description": "As it may be written in a file.",
                                },
                                "from": {"enum": ["file", "defaults", "devices", "built_in"]},
                                "line": {"type": ["integer", "null"]},
                                "file": {"type": ["string", "null"]},
                            },
                        },
                    },
                },
            },
        }
    },
}
_NAMES = {"type": "array", "items": _TEXT}
_RELOADED = {
    "type": "object",
    "required": ["file", "dry_run", "added", "removed", "changed", "notes", "changes"],
    "properties": {
        "file": _TEXT,
        "dry_run": {"type": "boolean"},
        "added": {**_NAMES, "description": "Services that are new."},
        "removed": {**_NAMES, "description": "Services that take no more clients."},
        "changed": {**_NAMES, "description": "Services that go on with something different."},
        "notes": _NAMES,
        "changes": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "section": _TEXT,
                    "key": _TEXT,
                    "old": _TEXT,
                    "new": _TEXT,
                    "holds": {"enum": ["at once", "new connections", "restart"]},
                    "service": {"type": ["string", "null"]},
                    "place": _TEXT,
                },
            },
        },
    },
}
_FORGOTTEN = {
    "type": "object",
    "required": ["removed", "live", "blocks", "problem", "capture_files", "not_removed"],
    "properties": {
        "removed": {"type": "object", "additionalProperties": {"type": "integer"}},
        "live": {"type": "integer", "description": "Connections that go on."},
        "blocks": {**_NAMES, "description": "Services that block it, which stays so."},
        "problem": {**_TEXT, "description": "Why bytes may be left in the history's file."},
        "capture_files": {"type": "integer", "description": "Which may have bytes of it."},
        "not_removed": {**_NAMES, "description": "What monconn cannot remove."},
    },
}
_WORD = {
    "type": "object",
    "required": ["word", "explanations"],
    "properties": {
        "word": _TEXT,
        "explanations": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["word", "kind", "short"],
                "properties": {"word": _TEXT, "kind": _TEXT, "short": _TEXT, "meaning": _TEXT},
            },
        },
        "code": {"type": "object", "description": "Of HAProxy's two letters."},
    },
}

ROUTES = (
    Route(
        "GET",
        "/api/v1/session",
        "view",
        "Who asks, what it may do, and what there is to ask for.",
        _session,
        schema=_SESSION,
    ),
    Route(
        "POST",
        "/api/v1/session",
        None,
        "Log in with a one-time code or a token: the answer sets a cookie.",
        _log_in,
        (
            of.text("code", "The one-time code of a link."),
            of.text("token", "A token."),
            of.in_body_flag("replace", "Also if the browser is logged in by another name."),
        ),
        status=204,
        errors=(409, 422),
    ),
    Route(
        "DELETE",
        "/api/v1/session",
        "view",
        "Log out.",
        _log_out,
        status=204,
    ),
    Route(
        "GET",
        "/api/v1/columns",
        "view",
        "The columns of each listing, and the keys of its filters.",
        _columns,
        schema=_COLUMNS,
    ),
    Route(
        "GET",
        "/api/v1/words/{word}",
        "view",
        "What a reason, a state, an alarm or another word of monconn's means.",
        _word,
        (Parameter("word", of.read_text, _WORD_SCHEMA, "Such as client_lost.", is_required=True),),
        schema=_WORD,
    ),
    Route(
        "GET",
        "/api/v1/config",
        "view",
        "The settings that run, each with where it is written; without what is secret.",
        _config,
        schema=_CONFIG,
        errors=(404,),
    ),
    Route(
        "POST",
        "/api/v1/reload",
        "operate",
        "Read the configuration's file again, and apply what is different.",
        _reload,
        (of.DRY_RUN,),
        schema=_RELOADED,
        errors=(404, 409, 422, 503),
    ),
    Route(
        "POST",
        "/api/v1/forget",
        "operate",
        "Remove what is stored of a client.",
        _forget,
        (
            Parameter(
                "client",
                of.read_network,
                of.NETWORK_SCHEMA,
                "Its IP, or a network of clients.",
                is_required=True,
            ),
            of.DRY_RUN,
        ),
        schema=_FORGOTTEN,
        errors=(503,),
    ),
    Route(
        "GET",
        "/api/v1/captures",
        "view",
        "The captures that run, and those that have ended last.",
        _captures,
        (of.LIMIT, of.CURSOR, of.MAX_AGE),
        CaptureRow,
        is_list=True,
    ),
    Route(
        "POST",
        "/api/v1/captures",
        "operate",
        "Write the bytes of connections to files on the server from now on.",
        _capture,
        (
            of.filter_of(
                "captures", "Ids, or terms with keys: those that match later are captured, too."
            ),
            of.in_body_integer("first", "Bytes of each direction; 0 for all."),
            of.in_body_seconds("seconds", "After which it ends by itself.", MOST_SECONDS),
            of.in_body_integer("connections", "After how many it ends by itself.", 1),
        ),
        schema={
            "type": "object",
            "required": ["capture", "services_left_out"],
            "properties": {
                "capture": {"$ref": "#/components/schemas/Capture"},
                "services_left_out": {
                    **_NAMES,
                    "description": "Those that were asked for and have payload: never.",
                },
            },
        },
        status=201,
        errors=(404, 409, 422, 503),
    ),
    Route(
        "DELETE",
        "/api/v1/captures/{id}",
        "operate",
        "End a capture.",
        _end_capture,
        (
            Parameter(
                "id",
                of.read_capture_id,
                {"type": "integer", "minimum": 1, "maximum": 10**18 - 1},
                "Its number.",
                is_required=True,
            ),
        ),
        CaptureRow,
        is_list=True,
    ),
    Route(
        "GET",
        "/api/v1/outputs",
        "view",
        "Who is notified of events, and how that goes.",
        _outputs,
        (of.LIMIT, of.CURSOR),
        NotifyRow,
        is_list=True,
    ),
    Route(
        "POST",
        "/api/v1/outputs/test",
        "operate",
        "Send a test to one output or to all.",
        _test_outputs,
        (of.in_body_integer("number", "Of the output; all if left out.", 1),),
        NotifyTestRow,
        is_list=True,
        errors=(404, 409),
    ),
)
