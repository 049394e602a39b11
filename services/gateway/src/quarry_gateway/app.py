"""Wires the application together; the only place that knows everything."""

import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import Response
from fastapi.staticfiles import StaticFiles
from quarry_contract.errors import ErrorCode, QuarryError
from quarry_contract.manifests import ManifestError
from quarry_contract.messages import HEADER_RELEASE, HEADER_REQUEST_ID
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import changes, openapi
from .auth import claimed
from .draining import DrainingProtocol, Server
from .edge import EdgeError, EdgeKeys, EdgeOnly
from .keys import KeysError
from .routes import elapsed_ms, open_router, problem, request_id, router
from .service import Gateway, PipelineError
from .settings import Settings
from .telemetry import Metrics, configure_logging, log

TITLE = "Quarry"
ANSWERS = "/v1/answers"


def create_app(settings: Settings) -> FastAPI:
    """The application.

    Raises:
        ManifestError, PipelineError, KeysError, EdgeError: the release, the pipeline, the file of token keys or that of edge keys cannot be used.
    """
    gateway = Gateway(settings, Metrics())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await gateway.start()
        yield
        await gateway.close()

    app = FastAPI(title=TITLE, version="1", lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.gateway = gateway
    for part in (router, changes.router, open_router):
        app.include_router(part)
    app.add_exception_handler(QuarryError, _quarry_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _gone)
    if settings.edge_keys is not None:
        app.add_middleware(EdgeOnly, keys=EdgeKeys(settings.edge_keys), metrics=gateway.metrics)
    app.add_middleware(Observed, gateway=gateway)
    _add_docs(app)
    return app


def _add_docs(app: FastAPI) -> None:
    """/docs from files of this image: it works without the internet."""
    app.mount("/docs-files", StaticFiles(directory=str(files("fastapi_swagger.resources"))))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        script, style, icon = (f"/docs-files/{name}" for name in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png"))
        return get_swagger_ui_html(
            openapi_url="/openapi.json", title=TITLE, swagger_js_url=script, swagger_css_url=style, swagger_favicon_url=icon
        )

    def schema() -> dict[str, Any]:
        if not app.openapi_schema:
            app.openapi_schema = openapi.document(TITLE, app.routes)
        return app.openapi_schema

    app.openapi = schema  # type: ignore[method-assign]


class Observed:
    """Around every request: its clock, id and release, both in the reply, one log line, the metrics; and no traceback ever gets out."""

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self._app = app
        self._releases = gateway.releases
        self._metrics = gateway.metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # RFC 9110 9.3.2: as GET; the server leaves the body out
            scope = {**scope, "method": "GET"}
        request = Request(scope, receive)
        request.state.began = time.monotonic()
        identity = request_id(request)
        release = request.state.release = self._releases.hold(_caller(request)) if scope["path"].startswith("/v1/") else None
        added = {HEADER_REQUEST_ID: identity} | ({HEADER_RELEASE: release.manifest.release_id} if release else {})
        status = 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *((k.lower().encode(), v.encode()) for k, v in added.items())]
            await send(message)

        self._metrics.in_flight.inc()
        try:
            await self._app(scope, receive, sending)
        except Exception as error:
            if status != 500:
                raise  # the reply has begun: only the connection can still fail
            log.error("unexpected error", exc_info=error, extra={"fields": {"http.request.id": identity}})
            await problem(request, QuarryError(ErrorCode.INTERNAL))(scope, receive, sending)
        finally:
            self._metrics.in_flight.dec()
            if release is not None:
                self._releases.let_go(release)
            self._record(request, status, identity)

    def _record(self, request: Request, status: int, identity: str) -> None:
        route = getattr(request.scope.get("route"), "path", "none")
        outcome = getattr(request.state, "outcome", "ok" if status < 400 else "cancelled" if status == 499 else "internal")
        self._metrics.requests.labels(route, outcome).inc()
        self._metrics.seconds.labels(route).observe(elapsed_ms(request) / 1000)
        if route == ANSWERS and (release := request.state.release) is not None:
            self._metrics.answered.labels(release.manifest.release_id, outcome).inc()
            self._metrics.release_seconds.labels(release.manifest.release_id).observe(elapsed_ms(request) / 1000)
        call = getattr(request.state, "call", None)
        hops = {f"quarry.{name}_ms": round(1000 * seconds, 1) for name, seconds in (call.hops if call else {}).items()}
        asked = {"http.request.method": request.method, "http.route": route, "http.request.id": identity}
        replied = {"http.response.status_code": status, "event.outcome": outcome, "event.duration_ms": round(elapsed_ms(request), 1)}
        log.info("request", extra={"fields": {**asked, **replied, **hops}})


def _caller(request: Request) -> str:
    """Tells callers apart, for the choice of release alone: by the subject their token claims, else by where they come from."""
    forwarded = request.headers.get("x-forwarded-for", "").partition(",")[0].strip()
    return claimed(request.headers.get("authorization", "")) or forwarded or (request.client.host if request.client else "")


async def _quarry_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, QuarryError)
    if error.code is ErrorCode.INTERNAL:
        log.error("internal error", exc_info=error.__cause__ or error, extra={"fields": {"http.request.id": request_id(request)}})
    return problem(request, error)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: ErrorCode.NOT_FOUND, 405: ErrorCode.METHOD_NOT_ALLOWED}.get(error.status_code, ErrorCode.INVALID_REQUEST)
    reply = problem(request, QuarryError(code))
    if error.status_code == 405:  # RFC 9110 15.5.6 asks for all that are allowed; the router names one route's
        reply.headers["Allow"] = ", ".join(method for method in ("GET", "POST", "PUT", "DELETE") if _takes(request, method))
    return reply


def _takes(request: Request, method: str) -> bool:
    scope = {**request.scope, "method": method}
    return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)


async def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=499)


def serve(settings: Settings) -> None:
    """Until SIGTERM."""
    configure_logging()
    try:
        app = create_app(settings)
    except (ManifestError, PipelineError, KeysError, EdgeError) as error:
        sys.exit(f"the gateway cannot start: {error}")
    config = uvicorn.Config(
        app,
        settings.host,
        settings.port,
        loop="uvloop",
        http=DrainingProtocol,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.drain_timeout_sec,
    )
    Server(config, app.state.gateway).run()
