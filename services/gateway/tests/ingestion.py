"""A stand-in of the ingestion service: a small real HTTP server that speaks its interface."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from aiohttp import web
from quarry_contract.messages import Job
from quarry_contract.uploads import HEADER_PRINCIPALS, HEADER_SUBMITTER, decode_name, decode_principals

from .conftest import problem


@dataclass(frozen=True)
class Asked:
    """One request that came."""

    method: str
    document_id: str
    submitter: str | None
    principals: tuple[str, ...] | None
    media_type: str
    query: str
    size: int
    sha256: str
    request_id: str


@dataclass
class IngestionStandIn:
    """What came, and the jobs it knows."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    jobs: dict[str, tuple[Job, str | None]] = field(default_factory=dict)
    fault: Callable[[web.Request], Any] | None = None
    hangs: bool = False

    def add(self, job_id: str, submitter: str | None, document_id: str = "a", action: Any = "put") -> Job:
        job = Job(job_id, document_id, action, "queued", "2026-11-25T12:00:00+00:00")
        self.jobs[job_id] = (job, submitter)
        return job

    async def change(self, request: web.Request) -> web.StreamResponse:
        if self.hangs:
            await asyncio.sleep(30)
        if self.fault and (reply := self.fault(request)) is not None:
            return reply  # type: ignore[no-any-return]
        digest, size = sha256(), 0
        async for part in request.content.iter_any():
            digest.update(part)
            size += len(part)
        document_id, principals = request.match_info["document_id"], request.headers.get(HEADER_PRINCIPALS)
        told = (request.content_type, request.query_string, size, digest.hexdigest(), request.headers["X-Request-Id"])
        self.asked.append(Asked(request.method, document_id, _submitter(request), None if principals is None else decode_principals(principals), *told))
        action = {"PUT": "put", "DELETE": "forget" if request.query_string == "forget=true" else "delete"}[request.method]
        return web.json_response(self.add(f"j-{len(self.jobs)}", _submitter(request), document_id, action).to_dict(), status=202)

    async def job(self, request: web.Request) -> web.StreamResponse:
        if self.fault and (reply := self.fault(request)) is not None:
            return reply  # type: ignore[no-any-return]
        job, submitter = self.jobs.get(request.match_info["job_id"], (None, None))
        if job is None or submitter != _submitter(request):
            return problem("not_found", 404, "no such job")
        return web.json_response(job.to_dict())


def _submitter(request: web.Request) -> str | None:
    given = request.headers.get(HEADER_SUBMITTER)
    return None if given is None else decode_name(given, HEADER_SUBMITTER)


@asynccontextmanager
async def ingesting() -> AsyncIterator[IngestionStandIn]:
    """Served on loopback."""
    made = IngestionStandIn()
    app = web.Application(client_max_size=0)
    app.router.add_put("/documents/{document_id}", made.change)
    app.router.add_delete("/documents/{document_id}", made.change)
    app.router.add_get("/jobs/{job_id}", made.job)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()
