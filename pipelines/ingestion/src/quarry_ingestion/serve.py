"""Uploads over HTTP, for the gateway alone: what is accepted is on the disk before it is answered, and one thread works it off in order.

PUT /documents/{id}, DELETE /documents/{id}[?forget=true] -> 202 and a Job; GET /jobs/{id}; /healthz, /readyz, /metrics. It trusts who
asks to say who submits (X-Quarry-Submitter), so it must not be reachable by others than the gateway.
"""

import argparse
import asyncio
import errno
import logging
import os
import re
import sqlite3
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from quarry_contract.errors import ErrorCode, QuarryError, invalid
from quarry_contract.messages import HEADER_REQUEST_ID, Job
from quarry_contract.uploads import HEADER_PRINCIPALS, HEADER_SUBMITTER, check_document_id, decode_name, decode_principals
from quarry_runtime.draining import Server
from quarry_runtime.logs import configure_logging
from quarry_runtime.server import request_id, uvicorn_config
from quarry_runtime.settings import ServerSettings, number
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from . import jobs
from .ledger import now
from .locks import only_server
from .sources import SourceError
from .work import Metrics, Worker

log = logging.getLogger("quarry")
PORT = 9004
MAX_UPLOAD_BYTES = 200_000_000
UPLOAD_TIMEOUT_SEC = 600.0
FULL_RETRY_SEC = 60
JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass
class State:
    """What the application and its server share."""

    home: Path
    max_upload_bytes: int
    stopping: bool = False


class Uploads:
    """The application's handlers."""

    def __init__(self, worker: Worker, state: State) -> None:
        self._worker, self._state = worker, state

    async def put(self, request: Request) -> Response:
        """Bytes, and who may read them."""
        document_id = check_document_id(request.path_params["document_id"])
        given = request.headers.get(HEADER_PRINCIPALS)
        if given is None:
            raise invalid(f"{HEADER_PRINCIPALS} must say who may read the document")
        principals, submitter, kind = decode_principals(given), _submitter(request), request.headers.get("content-type")
        job_id = uuid4().hex
        path = jobs.upload_path(self._state.home, job_id)
        try:
            async with asyncio.timeout(UPLOAD_TIMEOUT_SEC):
                version = await self._receive(request, path)
        except BaseException as error:
            path.unlink(missing_ok=True)
            if refusal := _refusal(error):
                raise refusal from error
            raise
        return await self._accept(_job(job_id, document_id, "put", version), principals, kind, submitter)

    async def delete(self, request: Request) -> Response:
        """Out of the index; with forget=true, out of everything."""
        document_id = check_document_id(request.path_params["document_id"])
        forget = request.query_params.get("forget", "false")
        if forget not in ("true", "false"):
            raise invalid("forget must be true or false")
        return await self._accept(_job(uuid4().hex, document_id, "forget" if forget == "true" else "delete"), (), None, _submitter(request))

    async def job(self, request: Request) -> Response:
        """A job, for its submitter."""
        job_id, submitter = request.path_params["job_id"], _submitter(request)
        found = await asyncio.to_thread(jobs.get, self._state.home, job_id) if JOB_ID.match(job_id) else None
        if found is None or found.submitter != submitter:
            raise QuarryError(ErrorCode.NOT_FOUND, "there is no such job of this submitter")
        return JSONResponse(found.job.to_dict())

    async def live(self, _: Request) -> Response:
        """Whether the process lives."""
        return JSONResponse({"status": "alive"})

    async def ready(self, _: Request) -> Response:
        """Whether jobs are taken and worked off."""
        if reason := "stopping" if self._state.stopping else self._worker.stuck:
            raise QuarryError(ErrorCode.NOT_READY, f"not ready: {reason}", retry_after_sec=1)
        return JSONResponse({"status": "ready"})

    async def _receive(self, request: Request, path: Path) -> str:
        """The body into a file that is on the disk, under its name, when this returns; its SHA-256, hex.

        Raises:
            QuarryError: `too_large`; at once when the length was said before.
            ClientDisconnect, OSError: it did not come whole, or cannot be kept.
        """
        digest, size, limit = sha256(), 0, self._state.max_upload_bytes
        too_large = QuarryError(ErrorCode.TOO_LARGE, f"the document is larger than {limit} bytes")
        declared = request.headers.get("content-length", "0")
        if not declared.isdigit() or int(declared[:20]) > limit:
            raise too_large
        with path.open("wb") as file:
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise too_large
                digest.update(part)
                file.write(part)
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
            await asyncio.to_thread(_sync, path.parent)
        return digest.hexdigest()

    async def _accept(self, made: Job, principals: tuple[str, ...], kind: str | None, submitter: str | None) -> Response:
        def enqueue() -> None:  # goes on when its caller is cut off: a job that is written down keeps its bytes
            try:
                jobs.enqueue(self._state.home, made, None, principals, kind, submitter)
            except BaseException:
                jobs.upload_path(self._state.home, made.job_id).unlink(missing_ok=True)
                raise

        try:
            await asyncio.to_thread(enqueue)
        except Exception as error:
            if refusal := _refusal(error):
                raise refusal from error
            raise
        self._worker.metrics.accepted.labels(made.action).inc()
        self._worker.wake()
        return JSONResponse(made.to_dict(), 202)


def _sync(folder: Path) -> None:
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _refusal(error: BaseException) -> QuarryError | None:
    """What the caller is told of failures that pass; None for all others."""
    if isinstance(error, TimeoutError):
        return QuarryError(ErrorCode.DEADLINE_EXCEEDED)
    full = (isinstance(error, OSError) and error.errno in FULL) or (isinstance(error, sqlite3.Error) and error.sqlite_errorcode == sqlite3.SQLITE_FULL)
    return QuarryError(ErrorCode.OVERLOADED, "the disk is full: nothing was taken", FULL_RETRY_SEC) if full else None


def _job(job_id: str, document_id: str, action: Literal["put", "delete", "forget"], version: str | None = None) -> Job:
    return Job(job_id, document_id, action, "queued", now(), version=version)


def _submitter(request: Request) -> str | None:
    given = request.headers.get(HEADER_SUBMITTER)
    return None if given is None else decode_name(given, HEADER_SUBMITTER)


def create_app(state: State, drain_timeout_sec: float) -> Starlette:
    """The application. Its worker begins with what an earlier process left undone."""
    worker = Worker(state.home, Metrics())
    uploads = Uploads(worker, state)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        worker.start()
        yield
        await asyncio.to_thread(worker.stop, drain_timeout_sec)

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(worker.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    pages: list[tuple[str, str, Any]] = [
        ("PUT", "/documents/{document_id:path}", uploads.put),
        ("DELETE", "/documents/{document_id:path}", uploads.delete),
        ("GET", "/jobs/{job_id}", uploads.job),
        ("GET", "/healthz", uploads.live),
        ("GET", "/readyz", uploads.ready),
        ("GET", "/metrics", metrics),
    ]
    handlers: Any = {HTTPException: _http_error, QuarryError: _quarry_error, ClientDisconnect: _gone, Exception: _unexpected}
    app = Starlette(routes=[Route(path, page, methods=[method]) for method, path, page in pages], exception_handlers=handlers, lifespan=lifespan)
    app.router.redirect_slashes = False
    return app


async def _quarry_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, QuarryError)
    identity = request_id(request)
    headers = {HEADER_REQUEST_ID: identity} | ({} if error.retry_after_sec is None else {"Retry-After": str(error.retry_after_sec)})
    return JSONResponse(error.to_problem(identity), error.code.status, headers, "application/problem+json")


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: ErrorCode.NOT_FOUND, 405: ErrorCode.METHOD_NOT_ALLOWED}.get(error.status_code, ErrorCode.INVALID_REQUEST)
    return await _quarry_error(request, QuarryError(code))


async def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=499)


async def _unexpected(request: Request, error: Exception) -> Response:
    log.error("unexpected error", exc_info=error, extra={"fields": {"http.request.id": request_id(request)}})
    return await _quarry_error(request, QuarryError(ErrorCode.INTERNAL))


def serve(home: Path) -> None:
    """Serve until SIGTERM; QUARRY_INGESTION_HOST, _PORT, _MAX_UPLOAD_BYTES and those of ServerSettings say how.

    Raises:
        SourceError: another process serves this home.
        OSError, sqlite3.Error: the home cannot be used.
    """
    settings = ServerSettings.from_environment("ingestion", "QUARRY_INGESTION", PORT)
    state = State(home, int(number("QUARRY_INGESTION_MAX_UPLOAD_BYTES", MAX_UPLOAD_BYTES, 1_000, 10_000_000_000)))
    configure_logging(settings.service)
    with only_server(home):
        jobs.sweep(home)
        (home / jobs.UPLOADS_FOLDER).mkdir(exist_ok=True)
        _sync(home)
        app = create_app(state, settings.drain_timeout_sec)
        Server(uvicorn_config(app, settings), settings, state).run()


def main(arguments: Sequence[str]) -> None:
    """`python -m quarry_ingestion serve --home DIR`."""
    parser = argparse.ArgumentParser(prog="quarry_ingestion serve", description="take uploads over HTTP, for the gateway")
    parser.add_argument("--home", type=Path, required=True, help="QUARRY_HOME")
    home: Path = parser.parse_args(arguments).home.resolve()
    try:
        home.mkdir(parents=True, exist_ok=True)
        serve(home)
    except (SourceError, sqlite3.Error, OSError) as error:
        print(f"not serving: {error}", file=sys.stderr)
        sys.exit(2)
