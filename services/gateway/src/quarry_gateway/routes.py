"""HTTP in, contract messages through, HTTP out."""

import asyncio
import json
import re
import time
import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from quarry_contract.codec import loads
from quarry_contract.errors import ErrorCode, QuarryError, invalid
from quarry_contract.messages import (
    HEADER_DEADLINE_MS,
    HEADER_REQUEST_ID,
    AnswerRequest,
    AnswerResponse,
    SearchQuery,
    TextRange,
)

from .auth import Caller, Refused
from .openapi import described
from .releases import ServedRelease
from .service import Gateway
from .upstream import Call

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
MAX_RANGE_CHARS = 100_000
HOME = """<!doctype html><title>Quarry</title><h1>Quarry</h1><p>Answers from documents, word for word, with the place they stand.
<p><a href="/docs">The REST interface</a>"""



async def authenticated(request: Request) -> Caller:
    """The caller of a route that is not open. Raises as Authenticator.caller."""
    caller: Caller = await gateway(request).authenticator.caller(request.headers.getlist("authorization"))
    return caller


Known = Annotated[Caller, Depends(authenticated)]
router = APIRouter()  # for callers that are known
open_router = APIRouter()  # for everyone: tells nothing of documents


def gateway(request: Request) -> Gateway:
    """The application's one Gateway."""
    found: Gateway = request.app.state.gateway
    return found


def request_id(request: Request) -> str:
    """The caller's request id when it is a sane one, else a new one; the same all through one request."""
    if not hasattr(request.state, "request_id"):
        given = request.headers.get(HEADER_REQUEST_ID, "")
        request.state.request_id = given if REQUEST_ID.match(given) else uuid.uuid4().hex
    return str(request.state.request_id)


def release_of(request: Request) -> ServedRelease:
    """The release this request began with.

    Raises:
        QuarryError: `not_ready`, none was live.
    """
    release: ServedRelease | None = request.state.release
    if release is None:
        raise QuarryError(ErrorCode.NOT_READY, "no release is live yet", retry_after_sec=1)
    return release


def deadline_of(request: Request, default_ms: int, most_ms: int) -> float:
    """When this request's time is over, on time.monotonic()'s clock.

    Raises:
        QuarryError: the deadline header is no number, or its time is over.
    """
    header = request.headers.get(HEADER_DEADLINE_MS)
    milliseconds = default_ms
    if header is not None:
        if not re.fullmatch(r"-?\d{1,9}", header):
            raise invalid(f"{HEADER_DEADLINE_MS} must be a whole number of milliseconds")
        milliseconds = min(int(header), most_ms)
    if milliseconds <= 0:
        raise QuarryError(ErrorCode.DEADLINE_EXCEEDED)
    return float(request.state.began) + milliseconds / 1000


def call_of(request: Request, caller: Caller) -> Call:
    """Deadline, identity and caller for the upstream calls of this request.

    Raises:
        QuarryError: as deadline_of and release_of.
    """
    settings = gateway(request).settings
    deadline = deadline_of(request, settings.deadline_ms, settings.deadline_max_ms)
    call = gateway(request).call(release_of(request), deadline, request_id(request), caller)
    request.state.call = call
    return call


async def body_of(request: Request, call: Call) -> Any:
    """The JSON body, refused as soon as it is known to be too large, waited for no longer than the deadline.

    Raises:
        QuarryError: `unsupported_media_type`, `too_large`, `invalid_request`, `deadline_exceeded`.
    """
    try:
        async with asyncio.timeout(call.remaining_sec()):
            return loads(await _read(request))
    except TimeoutError:
        raise QuarryError(ErrorCode.DEADLINE_EXCEEDED) from None


async def _read(request: Request) -> bytes:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise QuarryError(ErrorCode.UNSUPPORTED_MEDIA_TYPE)
    limit = gateway(request).settings.max_body_bytes
    declared = request.headers.get("content-length", "0")
    parts, size = [], int(declared[:20]) if declared.isdigit() else 0
    if size <= limit:
        size = 0
        async for part in request.stream():
            parts.append(part)
            size += len(part)
            if size > limit:
                break
    if size > limit:
        raise QuarryError(ErrorCode.TOO_LARGE, f"the body is larger than {limit} bytes")
    return b"".join(parts)


def reply(content: dict[str, Any]) -> Response:
    """A JSON reply, characters as they are."""
    return Response(json.dumps(content, ensure_ascii=False).encode(), media_type="application/json")


@router.post("/v1/answers", **described("answers"))
async def answers(request: Request, caller: Known) -> Response:
    """Answer a question in the documents' own words.

    Every answer is checked against its document before it is sent. When none is sure enough, `abstained` is true and `reason` says why.
    """
    call = call_of(request, caller)
    asked = AnswerRequest.from_dict(await body_of(request, call))
    served = gateway(request)
    response = await served.answer(asked, call)
    if served.mirror.wants(release_of(request)):
        seconds = served.settings.deadline_ms / 1000

        async def again(candidate: ServedRelease) -> AnswerResponse:
            return await served.answer_quietly(asked, served.call(candidate, time.monotonic() + seconds, call.request_id, caller))

        served.mirror.put(response, elapsed_ms(request) / 1000, again)
    return reply(response.to_dict())


@router.post("/v1/search", **described("search"))
async def search(request: Request, caller: Known) -> Response:
    """Find passages, without reading them."""
    call = call_of(request, caller)
    asked = SearchQuery.from_dict(await body_of(request, call))
    found = await call.search(asked)
    return reply({**found.to_dict(), "request_id": call.request_id})


@router.get("/v1/documents/{document_id:path}", **described("document"))
async def document(request: Request, document_id: str, caller: Known) -> Response:
    """Words of a document's canonical text, by character offsets; at most 100,000 at once."""
    call = call_of(request, caller)
    start = _offset(request, "start", 0)
    wanted = TextRange.from_dict(
        {"document_id": document_id, "start": start, "end": _offset(request, "end", start + MAX_RANGE_CHARS)}
        | ({"version": request.query_params["version"]} if "version" in request.query_params else {})
    )
    if wanted.end - wanted.start > MAX_RANGE_CHARS:
        raise invalid(f"end - start must be at most {MAX_RANGE_CHARS}")
    found = await call.texts((wanted,))
    if not found or found[0] is None:
        raise QuarryError(ErrorCode.NOT_FOUND, "there is no such document, or not in this version")
    return reply({**found[0].to_dict(), "request_id": call.request_id})


def _offset(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,12}", text):
        raise invalid(f"{name} must be a whole number, 0 or more")
    return int(text)


@router.get("/v1/releases/current", **described("release"))
async def current_release(request: Request, _: Known) -> Response:
    """The release that answers: reader, retriever, index generation, threshold, evaluation."""
    return reply({**release_of(request).manifest.to_dict(), "request_id": request_id(request)})


@router.get("/v1/releases", **described("releases"))
async def all_releases(request: Request, _: Known) -> Response:
    """What is live, what is tried beside it, what still finishes requests, and whether the routing table is followed."""
    releases = gateway(request).releases
    live, candidate = (release.manifest.release_id if release else None for release in (releases.live, releases.candidate))
    draining = [release.manifest.release_id for release in releases.draining]
    tried = {"candidate": candidate, "share": releases.share, "mirror": releases.mirror}
    state = {"live": live, **tried, "draining": draining, "routing": releases.routing, "refused": releases.refused}
    return reply({**state, "request_id": request_id(request)})


@open_router.get("/healthz", **described("health"))
async def healthz() -> Response:
    """Whether the process lives. Asks nobody else."""
    return reply({"status": "alive"})


@open_router.get("/readyz", **described("health"))
async def readyz(request: Request) -> Response:
    """Whether questions can be answered: both model services are ready, and this process is not stopping."""
    missing = await gateway(request).missing()
    if missing:
        raise QuarryError(ErrorCode.NOT_READY, f"not ready: {', '.join(missing)}", retry_after_sec=1)
    return reply({"status": "ready"})


@open_router.get("/metrics", include_in_schema=False)
async def metrics(request: Request) -> Response:
    """Prometheus."""
    return Response(generate_latest(gateway(request).metrics.registry), media_type=CONTENT_TYPE_LATEST)


@open_router.get("/", include_in_schema=False)
async def home() -> Response:
    """A signpost."""
    return HTMLResponse(HOME)


def problem(request: Request, error: QuarryError) -> Response:
    """problem+json, RFC 9457."""
    identity = request_id(request)
    request.state.outcome = error.code.code
    headers = {} if error.retry_after_sec is None else {"Retry-After": str(error.retry_after_sec)}
    if isinstance(error, Refused):
        headers["WWW-Authenticate"] = error.challenge
    return JSONResponse(error.to_problem(identity), error.code.status, headers, "application/problem+json")


def elapsed_ms(request: Request) -> float:
    """Since the request came in."""
    return 1000 * (time.monotonic() - float(request.state.began))
