"""The OpenAPI 3.1 description of the verify service, made from its limits and verifiers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import rlvr
from rlvr.serve.limits import ServeLimits
from rlvr.serve.requests import ID_BITS, ID_CHARACTERS
from rlvr.types import Outcome

PATHS = {"/": "get", "/healthz": "get", "/metrics": "get", "/openapi.json": "get", "/v1/verify": "post"}
"""All that there are, with their one method."""
_REFUSALS = {
    400: "No JSON, nested too deeply, no HTTP, or a Host header that names no host of this service.",
    401: "The token is missing or wrong.",
    408: "The body took too long.",
    413: "The body or the number of items is too large.",
    415: "The Content-Type is not application/json, or the body is compressed.",
    422: "JSON, but not what is asked for.",
    429: "More requests and items than the rate allows; Retry-After says when to ask again.",
    500: "A fault of the service.",
    503: "The queue is full, or the service is ending; Retry-After says when to ask again.",
}


def describe(limits: ServeLimits, verifiers: Mapping[str, Mapping[str, Any]], *, needs_token: bool) -> dict[str, Any]:
    """The whole document, plain data. `verifiers` are name -> options with their defaults."""
    operations = {
        "/": _operation("pointer", "A line that says where to look.", _text("text/plain"), (400, 429)),
        "/healthz": _health(),
        "/metrics": _operation("metrics", "Counts and times, for Prometheus.", _text("text/plain"), (400, 401, 429)),
        "/openapi.json": _operation(
            "openapi", "This description.", {"application/json": {"schema": {"type": "object"}}}, (400, 429)
        ),
        "/v1/verify": {
            **_operation(
                "verify",
                "Verdicts on a batch of responses, in their order.",
                {"application/json": {"schema": _ref("Verdicts")}},
                (400, 401, 408, 413, 415, 422, 429, 503),
            ),
            "description": "A problem of one item is that item's verdict: outcome error, score null, and a reason that "
            "begins with its index and field. A score of null is never the response's fault: it was not judged.",
            "requestBody": {"required": True, "content": {"application/json": {"schema": _ref("Batch")}}},
        },
    }
    if needs_token:
        for path in ("/metrics", "/v1/verify"):
            operations[path]["security"] = [{"bearer": []}, {"x-token": []}]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "rlvr serve verify",
            "version": rlvr.__version__,
            "description": "Judges responses of a language model against gold answers.",
            "x-limits": limits.as_dict(),
            "x-options": {
                verifier: {name: _plain(value) for name, value in options.items()}
                for verifier, options in verifiers.items()
            },
        },
        "paths": {path: {method: operations[path]} for path, method in PATHS.items()},
        "components": {
            "schemas": _schemas(limits, sorted(verifiers)),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "x-token": {"type": "apiKey", "in": "header", "name": "x-token"},
            },
        },
    }


def _plain(value: Any) -> Any:
    """A default may be anything that Python has."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        return repr(value)


def _operation(name: str, summary: str, content: Mapping[str, Any], refusals: Sequence[int]) -> dict[str, Any]:
    responses: dict[str, Any] = {"200": {"description": summary, "content": dict(content)}}
    for status in (*refusals, 500):
        responses[str(status)] = {
            "description": _REFUSALS[status],
            "content": {"application/json": {"schema": _ref("Error")}},
        }
        if status in (429, 503):
            responses[str(status)]["headers"] = {
                "Retry-After": {
                    "required": True,
                    "schema": {"type": "integer", "minimum": 1},
                    "description": "Seconds.",
                }
            }
    return {"operationId": name, "summary": summary, "responses": responses}


def _health() -> dict[str, Any]:
    content = {"application/json": {"schema": _ref("Health")}}
    operation = _operation("health", "Alive, and ready to judge.", content, (400,))
    operation["responses"]["503"] = {"description": "Alive, but not ready to judge.", "content": content}
    return operation


def _schemas(limits: ServeLimits, verifiers: Sequence[str]) -> dict[str, Any]:
    name = {"enum": list(verifiers), "description": "One of those that were named when the service was started."}
    identity = {
        "anyOf": [
            {"type": "string", "maxLength": ID_CHARACTERS},
            {"type": "integer", "minimum": 1 - 2**ID_BITS, "maximum": 2**ID_BITS - 1},
            {"type": "null"},
        ]
    }
    message = _object({"role": {"type": "string"}, "content": {"type": "string"}}, required=("role", "content"))
    text = {"type": "string"}
    return {
        "Batch": _object(
            {
                "verifier": {"anyOf": [name, {"type": "null"}], "description": "Judges the items that name none."},
                "options": {
                    "type": ["object", "null"],
                    "description": "Of that verifier, whose options and their defaults are in info.x-options.",
                },
                "items": {"type": "array", "maxItems": limits.num_items, "items": _ref("Item")},
            },
            required=("items",),
            additionalProperties=False,
            description=f"At most {limits.body_bytes} bytes, nested at most {limits.depth} levels deep.",
        ),
        "Item": _object(
            {
                "id": {**identity, "description": "Comes back with the verdict."},
                "response": {**text, "description": f"At most {limits.response_bytes} bytes of UTF-8."},
                "gold": {"description": "The right answer in the verifier's own form; null where it needs none."},
                "verifier": {"anyOf": [name, {"type": "null"}]},
                "prompt": {"anyOf": [text, {"type": "array", "items": message}, {"type": "null"}]},
                "info": {"type": ["object", "null"], "description": "Further fields of the task."},
            },
            required=("response", "gold"),
            additionalProperties=False,
        ),
        "Verdicts": _object(
            {"verdicts": {"type": "array", "items": _ref("Verdict"), "description": "One for each item, in order."}},
            required=("verdicts",),
        ),
        "Verdict": _verdict(identity),
        "Health": _object(
            {"alive": {"const": True}, "ready": {"type": "boolean"}, "why": text}, required=("alive", "ready", "why")
        ),
        "Error": _object({"error": {"type": "string", "minLength": 1}}, required=("error",)),
    }


def _verdict(identity: Mapping[str, Any]) -> dict[str, Any]:
    text = {"type": "string"}
    properties = {
        "id": dict(identity),
        "score": {"type": ["number", "null"], "minimum": 0, "maximum": 1, "description": "Null: it was not judged."},
        "outcome": {"enum": list(get_args(Outcome))},
        "reason": text,
        "answer": {"type": ["string", "null"], "description": "What was extracted from the response."},
        "how": text,
        "stage": text,
        "checks": {"type": "object", "description": "The verifier's own detail."},
        "seconds": {"type": "number", "minimum": 0},
        "verifier": text,
        "version": {"type": "string", "description": "As declared, with a hash of the verifier's code."},
        "input_hash": {"type": "string", "description": "Of the item and the options; empty where it was not judged."},
        "value": {"type": ["number", "null"], "description": "A number of any size in place of score; null: score."},
    }
    return _object(properties, required=tuple(properties), additionalProperties=False)


def _object(properties: Mapping[str, Any], *, required: Sequence[str], **rest: Any) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "required": list(required), **rest}


def _text(media: str) -> dict[str, Any]:
    return {media: {"schema": {"type": "string"}}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
