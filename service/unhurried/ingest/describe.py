"""The OpenAPI document: FastAPI's own for its routes, the hot routes written down here, and every shape."""

from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from unhurried.domain.request import (
    CUSTOM_ID,
    IDEMPOTENCY_KEY_MAX,
    PRIORITY_MAX,
    PRIORITY_MIN,
    PULL_NAME,
    QUEUE_NAME,
    WAIT_MAX_S,
)
from unhurried.ingest import problems

_REF: Final = "#/components/schemas/{name}"
_PROBLEM: Final[dict[str, Any]] = {
    "type": "object",
    "title": "Problem",
    "description": "RFC 9457. `code` is stable and for programs, `detail` is for people.",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string", "enum": sorted(problems.STATUS)},
        "field": {"type": "string"},
        "id": {"type": "string"},
        "lines_committed": {"type": "integer"},
        "summary": {"$ref": _REF.format(name="Summary")},
    },
    "required": ["type", "title", "status", "detail", "code"],
}
_SUMMARY: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {name: {"type": "integer"} for name in ("accepted", "duplicates", "refused")},
    "required": ["accepted", "duplicates", "refused"],
}
_ENVELOPE: Final[dict[str, Any]] = {
    "type": "object",
    "title": "Envelope",
    "description": "A Messages API call to be made, and how it is to be handled. `params` are kept byte for byte.",
    "additionalProperties": False,
    "required": ["params"],
    "properties": {
        "params": {
            "type": "object",
            "description": "The body of a Messages API call. Fields not named here pass through.",
            "required": ["model", "max_tokens", "messages"],
            "properties": {
                "model": {"type": "string", "minLength": 1, "maxLength": 256},
                "max_tokens": {"type": "integer", "minimum": 1, "maximum": 2**31},
                "messages": {"type": "array", "minItems": 1, "maxItems": 100_000},
                "stream": {"enum": [False, None]},
                "speed": {"type": "null"},
            },
        },
        "custom_id": {"type": ["string", "null"], "pattern": f"^{CUSTOM_ID.pattern}$"},
        "queue": {"type": ["string", "null"], "pattern": f"^{QUEUE_NAME.pattern}$"},
        "deadline": {"type": ["string", "null"], "description": "RFC 3339, in the future; or give max_wait."},
        "max_wait": {
            "type": ["number", "null"],
            "exclusiveMinimum": 0,
            "maximum": WAIT_MAX_S,
            "description": "Seconds.",
        },
        "not_before": {"type": ["string", "null"], "description": "RFC 3339, before the deadline."},
        "priority": {"type": ["integer", "null"], "minimum": PRIORITY_MIN, "maximum": PRIORITY_MAX},
        "deliver_to": {"type": ["string", "null"], "pattern": f"^{PULL_NAME.pattern}$"},
        "metadata": {"type": ["object", "null"], "description": "Handed back with the result. At most 16 KB."},
        "idempotency_key": {
            "type": ["string", "null"],
            "minLength": 1,
            "maxLength": IDEMPOTENCY_KEY_MAX,
            "description": "Printable characters.",
        },
        "anthropic_version": {"type": ["string", "null"], "pattern": r"^\d{4}-\d{2}-\d{2}$"},
        "anthropic_beta": {"anyOf": [{"type": ["string", "null"]}, {"type": "array", "items": {"type": "string"}}]},
    },
}
_BULK_LINE: Final[dict[str, Any]] = {
    "type": "object",
    "description": "One line of the answer to a bulk upload: what became of a line, or, last, the summary.",
    "properties": {
        "line": {"type": "integer", "minimum": 1},
        "id": {"type": "string"},
        "state": {"type": "string"},
        "duplicate": {"type": "boolean"},
        "error": {"$ref": _REF.format(name="Problem")},
        "summary": {"$ref": _REF.format(name="Summary")},
    },
}


def _problem_answer(description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/problem+json": {"schema": _ref("Problem")}}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": _REF.format(name=name)}


def answers(shape: type[msgspec.Struct] | None, *statuses: int, problems: tuple[int, ...] = ()) -> dict[int | str, Any]:
    """The ``responses`` of a FastAPI route: ``shape`` under each of ``statuses`` (default 200), and its problems."""
    schema: dict[str, Any] = _ref(shape.__name__) if shape is not None else {"type": "object"}
    good: dict[int | str, Any] = {
        status: {"description": "", "content": {"application/json": {"schema": schema}}}
        for status in statuses or (200,)
    }
    return good | {
        status: _problem_answer(_titles(status)) for status in sorted({*problems, 422, 503}) if status not in good
    }


def plain(*media_types: str, problems: tuple[int, ...] = ()) -> dict[int | str, Any]:
    """The ``responses`` of a FastAPI route that answers with text."""
    content = {kind: {"schema": {"type": "string"}} for kind in media_types}
    good: dict[int | str, Any] = {200: {"description": "", "content": content}}
    return good | {status: _problem_answer(_titles(status)) for status in sorted({*problems, 422, 503})}


def _titles(status: int) -> str:
    return "; ".join(f"`{code}`: {title}" for code, (of, title) in problems.STATUS.items() if of == status)


def _hot_answers(shape: str, *statuses: int, problems: tuple[int, ...]) -> dict[str, Any]:
    good = {
        str(status): {"description": "", "content": {"application/json": {"schema": _ref(shape)}}}
        for status in statuses
    }
    return good | {str(status): _problem_answer(_titles(status)) for status in problems}


def _parameter(name: str, where: str, schema: dict[str, Any], description: str = "") -> dict[str, Any]:
    return {"name": name, "in": where, "required": where == "path", "schema": schema, "description": description}


_WAIT: Final = _parameter("wait", "query", {"type": "number", "minimum": 0}, "Seconds to be held at most.")
"""Its maximum is a setting: ``document`` puts it in."""
_BULK_BODY: Final = {
    "schema": {"type": "string"},
    "example": '{"params":{"model":"…","max_tokens":1024,"messages":[…]}}\n',
}
_BULK_TYPES: Final = ("application/x-ndjson", "application/jsonl", "application/x-jsonlines", "application/x-jsonl")

_TAKE: Final[dict[str, Any]] = {
    "operationId": "accept_requests",
    "summary": "Accept one request, or many, one a line",
    "description": "Answered when it is on disk. In bulk the answers follow, one a line, when the body has ended.",
    "parameters": [
        _parameter(
            "Idempotency-Key",
            "header",
            {"type": "string", "minLength": 1, "maxLength": IDEMPOTENCY_KEY_MAX},
            "Stands in for the field of one request, by the same rule; in bulk each line has its own.",
        )
    ],
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": _ref("Envelope")}} | dict.fromkeys(_BULK_TYPES, _BULK_BODY),
    },
    "responses": {
        "201": {
            "description": "Accepted: it is on disk.",
            "headers": {"Location": {"schema": {"type": "string"}}},
            "content": {"application/json": {"schema": _ref("AcceptedRequest")}},
        },
        "200": {
            "description": "It was here before (same idempotency key), or every line of a bulk upload was accepted.",
            "content": {
                "application/json": {"schema": _ref("AcceptedRequest")},
                "application/x-ndjson": {"schema": _ref("BulkLine")},
            },
        },
        "207": {
            "description": "Some lines were accepted and some refused.",
            "content": {"application/x-ndjson": {"schema": _ref("BulkLine")}},
        },
        "422": {
            "description": _titles(422) + "; or every line of a bulk upload was refused.",
            "content": {
                "application/problem+json": {"schema": _ref("Problem")},
                "application/x-ndjson": {"schema": _ref("BulkLine")},
            },
        },
        **{str(status): _problem_answer(_titles(status)) for status in (400, 409, 413, 415, 429, 503, 507)},
    },
}
_SHOW: Final[dict[str, Any]] = {
    "operationId": "show_request",
    "summary": "One request, with its result once it has finished",
    "parameters": [
        _parameter("id", "path", {"type": "string"}),
        _WAIT,
        _parameter("ack", "query", {"type": "boolean"}, "Confirm the delivery once the result has been written."),
    ],
    "responses": _hot_answers("Request", 200, problems=(404, 422, 503)),
}
_PULL: Final[dict[str, Any]] = {
    "operationId": "pull_results",
    "summary": "Results that nobody has confirmed yet, under a lease",
    "parameters": [
        _parameter("destination", "query", {"type": "string", "pattern": f"^{PULL_NAME.pattern}$"}),
        _parameter("queue", "query", {"type": "string", "pattern": f"^{QUEUE_NAME.pattern}$"}, "Short for pull:QUEUE."),
        _parameter("limit", "query", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}),
        _WAIT,
        _parameter("lease", "query", {"type": "number", "minimum": 1, "maximum": 86400}, "Seconds."),
    ],
    "responses": {
        "200": {
            "description": "With `Accept: application/x-ndjson` one result a line.",
            "content": {
                "application/json": {"schema": _ref("Results")},
                "application/x-ndjson": {"schema": _ref("Result")},
            },
        },
        **{str(status): _problem_answer(_titles(status)) for status in (422, 503)},
    },
}
_ACK: Final[dict[str, Any]] = {
    "operationId": "confirm_results",
    "summary": "Confirm deliveries, also after their lease",
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["delivery_ids"],
                    "properties": {
                        "delivery_ids": {
                            "type": "array",
                            "maxItems": 10_000,
                            "items": {"type": "string", "maxLength": 100},
                        }
                    },
                }
            }
        },
    },
    "responses": _hot_answers("Acked", 200, problems=(400, 413, 415, 422, 503)),
}
HOT_PATHS: Final[dict[str, dict[str, Any]]] = {
    "/queue/requests": {"post": _TAKE},
    "/queue/requests/{id}": {"get": _SHOW},
    "/queue/results": {"get": _PULL},
    "/queue/results/ack": {"post": _ACK},
}


def document(api: FastAPI, shapes: Iterable[type[msgspec.Struct]], wait_max_s: float) -> dict[str, Any]:
    """The whole OpenAPI document; ``shapes`` are those that answers have."""
    wait = {**_WAIT, "schema": {**_WAIT["schema"], "maximum": wait_max_s}}
    made = get_openapi(title=api.title, version=api.version, description=api.description, routes=api.routes)
    for path, methods in HOT_PATHS.items():
        made["paths"].setdefault(path, {}).update(
            {method: _with(operation, _WAIT, wait) for method, operation in methods.items()}
        )
    _, components = msgspec.json.schema_components(shapes, ref_template=_REF)
    schemas = made.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(components)
    schemas.update(Problem=_PROBLEM, Summary=_SUMMARY, Envelope=_ENVELOPE, BulkLine=_BULK_LINE)
    return made


def _with(operation: dict[str, Any], old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The operation with ``new`` in place of the parameter ``old``."""
    if "parameters" not in operation:
        return operation
    return {**operation, "parameters": [new if one is old else one for one in operation["parameters"]]}


def cached(api: FastAPI, shapes: Iterable[type[msgspec.Struct]], wait_max_s: float) -> Callable[[], dict[str, Any]]:
    """``document``, made when it is first asked for."""

    def openapi() -> dict[str, Any]:
        if api.openapi_schema is None:
            api.openapi_schema = document(api, shapes, wait_max_s)
        return api.openapi_schema

    return openapi


def encoded(api: FastAPI) -> bytes:
    return msgspec.json.encode(api.openapi())
