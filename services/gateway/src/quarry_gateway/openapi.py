"""The OpenAPI description of each route, made from the contract's own dataclasses."""

from collections.abc import Sequence
from typing import Any

from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter
from quarry_contract.errors import ErrorCode
from quarry_contract.manifests import ReleaseManifest
from quarry_contract.messages import HEADER_RELEASE, AnswerRequest, AnswerResponse, DocumentText, Job, SearchQuery, SearchResponse
from quarry_contract.uploads import HEADER_PRINCIPALS
from starlette.routing import BaseRoute

REF = "#/components/schemas/{model}"
MESSAGES: tuple[Any, ...] = (AnswerRequest, AnswerResponse, SearchQuery, SearchResponse, DocumentText, Job, ReleaseManifest)
EXAMPLES = {
    "AnswerRequest": {"question": "At what wind speed does work on the scaffold stop?", "top_k": 3},
    "SearchQuery": {"question": "curing of the basement walls", "top_k": 5, "retrieval": "hybrid", "filters": {"format": ["pdf", "docx"]}},
}
# route -> (request, reply, the errors it may give)
ROUTES: dict[str, tuple[str | None, str | None, tuple[ErrorCode, ...]]] = {
    "answers": ("AnswerRequest", "AnswerResponse", tuple(c for c in ErrorCode if c.status not in (403, 404, 405))),
    "search": ("SearchQuery", "SearchResponse", tuple(c for c in ErrorCode if c.status not in (403, 404, 405, 501))),
    "document": (None, "DocumentText", tuple(c for c in ErrorCode if c.status not in (403, 405, 413, 415, 501))),
    "put": (None, "Job", tuple(c for c in ErrorCode if c.status not in (404, 405, 415))),
    "delete": (None, "Job", tuple(c for c in ErrorCode if c.status not in (404, 405, 413, 415))),
    "job": (None, "Job", tuple(c for c in ErrorCode if c.status not in (405, 413, 415, 429))),
    "release": (None, "ReleaseManifest", (ErrorCode.UNAUTHORISED, ErrorCode.NOT_READY, ErrorCode.INTERNAL)),
    "releases": (None, None, (ErrorCode.UNAUTHORISED, ErrorCode.NOT_READY, ErrorCode.INTERNAL)),
    "health": (None, None, (ErrorCode.NOT_READY, ErrorCode.INTERNAL)),
}
SECURITY = {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "needed where the gateway is set up for tokens"}}
PROBLEM = {
    "type": "object",
    "description": "problem+json, RFC 9457",
    "required": ["type", "title", "status", "code", "detail", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "enum": [c.code for c in ErrorCode]},
        "detail": {"type": "string"},
        "request_id": {"type": "string"},
    },
}
_PARAMETERS = [
    {"name": "X-Request-Id", "in": "header", "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"}, "description": "returned with the reply"},
    {"name": "X-Request-Deadline-Ms", "in": "header", "schema": {"type": "integer", "minimum": 1}, "description": "time allowed, in milliseconds"},
]
_RANGE = [
    {"name": "start", "in": "query", "schema": {"type": "integer", "minimum": 0}, "description": "first character"},
    {"name": "end", "in": "query", "schema": {"type": "integer", "minimum": 0}, "description": "after the last character"},
    {"name": "version", "in": "query", "schema": {"type": "string"}, "description": "refuse any other version of the document"},
]

_READERS = [
    {
        "name": HEADER_PRINCIPALS,
        "in": "header",
        "schema": {"type": "string"},
        "description": "who may read the document, e.g. `group:site-team,user:anna`; `*` = everyone; empty = nobody; each percent-encoded where not ASCII. "
        "Without it: who puts the document; without tokens, everyone",
    }
]
_FORGET = [{"name": "forget", "in": "query", "schema": {"type": "boolean", "default": False}, "description": "also whatever was kept about the document"}]
_MORE = {"document": _RANGE, "put": _READERS, "delete": _FORGET}


def document(title: str, routes: Sequence[BaseRoute]) -> dict[str, Any]:
    """The OpenAPI document of these routes."""
    text = "Answers from documents: the exact words, the place they stand, and a calibrated confidence."
    found = get_openapi(title=title, version="1", description=text, routes=routes)
    return {**found, "components": {"schemas": schemas(), "securitySchemes": SECURITY}}


def schemas() -> dict[str, Any]:
    """JSON schemas of all messages, as strict as the decoder: unknown fields are refused in requests."""
    _, definitions = TypeAdapter.json_schemas([(m, "validation", TypeAdapter(m)) for m in MESSAGES], ref_template=REF)
    found: dict[str, Any] = definitions["$defs"]
    for name, example in EXAMPLES.items():
        found[name] |= {"additionalProperties": False, "examples": [example]}
    return {**found, "Problem": PROBLEM}


def described(route: str) -> dict[str, Any]:
    """Keyword arguments for FastAPI's route decorator."""
    asked, answered, errors = ROUTES[route]
    ok: dict[str, Any] = {"description": "OK", "content": {"application/json": {"schema": _ref(answered)}}}
    if route != "health":
        ok["headers"] = {HEADER_RELEASE: {"schema": {"type": "string"}, "description": "the release that answered"}}
    accepted = route in ("put", "delete")
    if accepted:
        ok["description"] = "accepted, and not lost any more"
        ok["headers"]["Location"] = {"schema": {"type": "string"}, "description": "where the job's state is told"}
    responses: dict[int | str, dict[str, Any]] = {202 if accepted else 200: ok}
    for code in errors:
        responses[code.status] = {"description": f"`{code.code}`: {code.title}", "content": {"application/problem+json": {"schema": _ref("Problem")}}}
    extra: dict[str, Any] = {"parameters": _PARAMETERS + _MORE.get(route, [])}
    if route != "health":
        extra["security"] = [{"bearer": []}]
    if asked is not None:
        extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": _ref(asked), "example": EXAMPLES[asked]}}}
    elif route == "put":
        extra["requestBody"] = {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
    return {"responses": responses, "openapi_extra": extra} | ({"status_code": 202} if accepted else {})


def _ref(name: str | None) -> dict[str, Any]:
    return {"$ref": REF.format(model=name)} if name else {"type": "object"}
