"""The lean model server: Seldon Core v1 REST over Starlette, with truthful readiness, our error table and draining.

Protocol: https://docs.seldon.io, "Prediction API": POST /api/v1.0/predictions with {"jsonData": ...}; /health/status, /health/ping.
"""

import asyncio
import json
import logging
import os
import re
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol
from urllib.parse import parse_qsl

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from quarry_contract.codec import loads
from quarry_contract.errors import ErrorCode, QuarryError, invalid
from quarry_contract.messages import HEADER_DEADLINE_MS, HEADER_REQUEST_ID
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from .draining import DrainingProtocol, Server
from .logs import configure_logging
from .settings import ServerSettings

log = logging.getLogger("quarry")
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
FORM = "application/x-www-form-urlencoded"
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25)


class Model(Protocol):
    """What a service gives the server. It knows nothing of HTTP."""

    async def predict(self, data: Any, deadline: float) -> dict[str, Any]:
        """jsonData in, jsonData out; `deadline` on time.monotonic()'s clock. Raises QuarryError."""
        ...

    def metadata(self) -> dict[str, Any]:
        """Name, versions and digest."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


# Builds the model: reads, checks and runs it once. Called in a thread; whatever it raises means the process is of no use.
Load = Callable[[CollectorRegistry], Model]


class State:
    """Loading, ready or stopping; and how much is in flight."""

    def __init__(self) -> None:
        self.model: Model | None = None
        self.failed: str | None = None
        self.stopping = False
        self.in_flight = 0


class Metrics:
    """The server's own metrics; the model adds its own to the same registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.requests = Counter("quarry_requests_total", "Predictions by outcome", ["code"], registry=registry)
        self.seconds = Histogram("quarry_request_seconds", "Time to answer a prediction", registry=registry, buckets=BUCKETS)
        self.in_flight = Gauge("quarry_requests_in_flight", "Predictions being worked on", registry=registry)


def create_app(settings: ServerSettings, load: Load, on_load_failure: Callable[[str], None]) -> Starlette:
    """The ASGI application. Loading starts with it; until it is done, everything but liveness answers 503."""
    state = State()
    metrics = Metrics(CollectorRegistry())

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        thread = threading.Thread(target=_load, args=(settings, load, metrics.registry, state, on_load_failure), daemon=True, name="load")
        thread.start()
        yield
        if state.model is not None:
            state.model.close()

    async def predictions(request: Request) -> Response:
        return await _predict(request, settings, state, metrics)

    async def live(_: Request) -> Response:
        return _json({"status": "alive"})

    async def ready(_: Request) -> Response:
        _model(state)
        return _json({"status": "ready"})

    async def metadata(_: Request) -> Response:
        return _json(_model(state).metadata())

    async def prometheus(_: Request) -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    posts = [Route(path, predictions, methods=["POST"]) for path in ("/api/v1.0/predictions", "/predict")]
    pages: dict[str, Callable[[Request], Awaitable[Response]]] = {
        "/health/ping": live,
        "/health/live": live,
        "/health/status": ready,
        "/api/v1.0/health/status": ready,
        "/readyz": ready,
        "/metadata": metadata,
        "/api/v1.0/metadata": metadata,
        "/metrics": prometheus,
        "/prometheus": prometheus,
    }
    gets = [Route(path, page, methods=["GET"]) for path, page in pages.items()]
    handlers: Any = {HTTPException: _http_error, QuarryError: _quarry_error, Exception: _unexpected}
    app = Starlette(routes=posts + gets, exception_handlers=handlers, lifespan=lifespan)
    app.router.redirect_slashes = False  # an unknown path is 404, never a redirect
    app.state.quarry = state
    return app


def _load(settings: ServerSettings, load: Load, registry: CollectorRegistry, state: State, failed: Callable[[str], None]) -> None:
    """Load under a time limit; any failure whatever ends the process, it must never look ready."""
    began = time.monotonic()
    timer = threading.Timer(settings.load_timeout_sec, lambda: failed(f"loading took longer than {settings.load_timeout_sec:g} s"))
    timer.daemon = True
    timer.start()
    try:
        state.model = load(registry)
    except BaseException as error:  # SystemExit and MemoryError of a model's code too
        state.failed = f"{type(error).__name__}: {error}"
        failed(state.failed)
        return
    finally:
        timer.cancel()
    log.info("model loaded", extra={"fields": {"event.duration_ms": round(1000 * (time.monotonic() - began)), **state.model.metadata()}})


def _model(state: State) -> Model:
    if state.model is None or state.stopping:
        raise QuarryError(ErrorCode.NOT_READY, "the model is loading" if not state.stopping else "the service is stopping", retry_after_sec=1)
    return state.model


async def _predict(request: Request, settings: ServerSettings, state: State, metrics: Metrics) -> Response:
    began = time.monotonic()
    code = "internal"
    state.in_flight += 1
    metrics.in_flight.inc()
    try:
        if state.model is None:
            _model(state)
        deadline = began + _remaining_sec(request, settings)
        message = loads(await _body_before(request, settings.max_body_bytes, deadline))
        reply = await _answer(request, state, message, deadline)
        code = "ok"
        return _json({"jsonData": reply, "meta": {"requestPath": {settings.service: "quarry"}}}, request_id(request))
    except QuarryError as error:
        code = error.code.code
        if error.code is ErrorCode.INTERNAL:
            log.error("prediction failed", exc_info=error.__cause__, extra={"fields": {"http.request.id": request_id(request)}})
        raise
    except ClientDisconnect:
        code = "cancelled"
        return Response(status_code=499)
    finally:
        state.in_flight -= 1
        metrics.in_flight.dec()
        metrics.requests.labels(code).inc()
        metrics.seconds.observe(time.monotonic() - began)


async def _answer(request: Request, state: State, message: Any, deadline: float) -> dict[str, Any]:
    """Run the model; give up when the deadline passes or the caller goes away."""
    if not isinstance(message, dict) or not message.keys() <= {"jsonData", "meta"} or "jsonData" not in message:
        raise invalid('the body must be {"jsonData": {...}}')
    if state.model is None:
        raise QuarryError(ErrorCode.NOT_READY)
    work = asyncio.ensure_future(state.model.predict(message["jsonData"], deadline))
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({work, gone}, timeout=max(0.0, deadline - time.monotonic()), return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        if gone.done():
            raise ClientDisconnect
        raise QuarryError(ErrorCode.DEADLINE_EXCEEDED)
    finally:
        work.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _body_before(request: Request, limit: int, deadline: float) -> bytes:
    """A caller who stops sending in the middle holds nothing longer than the deadline."""
    try:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            return await _body(request, limit)
    except TimeoutError:
        raise QuarryError(ErrorCode.DEADLINE_EXCEEDED) from None


async def _body(request: Request, limit: int) -> bytes:
    """The body, refused as soon as it is known to be too large."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("application/json", FORM):
        raise QuarryError(ErrorCode.UNSUPPORTED_MEDIA_TYPE)
    too_large = QuarryError(ErrorCode.TOO_LARGE, f"the body is larger than {limit} bytes")
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared[:20]) > limit:
        raise too_large
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise too_large
        parts.append(part)
    body = b"".join(parts)
    return form_field(body) if kind == FORM else body


def form_field(body: bytes) -> bytes:
    """The field `json` of a form: how SeldonClient.microservice() sends a message.

    Raises:
        QuarryError: `invalid_request`, there is no such field.
    """
    try:
        fields = dict(parse_qsl(body.decode("ascii"), strict_parsing=True, max_num_fields=4))
    except ValueError:
        raise invalid("the form is not valid") from None
    if "json" not in fields:
        raise invalid("the form has no field json")
    return fields["json"].encode("utf-8", "surrogatepass")


def _remaining_sec(request: Request, settings: ServerSettings) -> float:
    header = request.headers.get(HEADER_DEADLINE_MS)
    if header is None:
        return settings.deadline_default_sec
    if not re.fullmatch(r"-?\d{1,9}", header):
        raise invalid(f"{HEADER_DEADLINE_MS} must be a whole number of milliseconds")
    if int(header) <= 0:
        raise QuarryError(ErrorCode.DEADLINE_EXCEEDED)
    return min(int(header) / 1000, settings.deadline_max_sec)


def request_id(request: Request) -> str:
    """The caller's request id when it is a sane one, else a new one; the same all through one request."""
    if not hasattr(request.state, "request_id"):
        given = request.headers.get(HEADER_REQUEST_ID, "")
        request.state.request_id = given if REQUEST_ID.match(given) else uuid.uuid4().hex
    return str(request.state.request_id)


def _json(content: Any, identity: str = "") -> Response:
    headers = {HEADER_REQUEST_ID: identity} if identity else None
    return Response(json.dumps(content, ensure_ascii=False).encode(), media_type="application/json", headers=headers)


def _problem(request: Request, error: QuarryError) -> Response:
    """problem+json, with the `status` object that Seldon's clients look for."""
    identity = request_id(request)
    seldon = {"status": "FAILURE", "code": error.code.status, "reason": error.code.code, "info": error.detail}
    headers = {HEADER_REQUEST_ID: identity}
    if error.retry_after_sec is not None:
        headers["Retry-After"] = str(error.retry_after_sec)
    body = {**error.to_problem(identity), "seldon": seldon}
    return Response(json.dumps(body).encode(), error.code.status, headers, "application/problem+json")


async def _quarry_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, QuarryError)
    return _problem(request, error)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: ErrorCode.NOT_FOUND, 405: ErrorCode.METHOD_NOT_ALLOWED}.get(error.status_code, ErrorCode.INVALID_REQUEST)
    return _problem(request, QuarryError(code))


async def _unexpected(request: Request, error: Exception) -> Response:
    log.error("unexpected error", exc_info=error, extra={"fields": {"http.request.id": request_id(request)}})
    return _problem(request, QuarryError(ErrorCode.INTERNAL))


def uvicorn_config(app: Starlette, settings: ServerSettings) -> uvicorn.Config:
    """For Server: our logs, and connections that drain."""
    return uvicorn.Config(
        app,
        settings.host,
        settings.port,
        loop="uvloop",
        http=DrainingProtocol,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(settings.drain_timeout_sec),
    )


def serve(settings: ServerSettings, load: Load) -> None:
    """Serve until SIGTERM. Exits 1 when the model cannot be loaded, 0 after draining."""
    configure_logging(settings.service)

    def give_up(reason: str) -> None:
        log.critical("the model was not loaded: %s", reason)
        sys.stdout.flush()
        os._exit(1)  # a thread cannot end the process otherwise, and half a service is worse than none

    app = create_app(settings, load, give_up)
    Server(uvicorn_config(app, settings), settings, app.state.quarry).run()
    logging.shutdown()
