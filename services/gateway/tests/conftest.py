"""The gateway over stand-ins of the two model services: small real HTTP servers that speak the contract.

They are stand-ins because the real ones need trained models; tests/e2e asks the real ones.
"""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from quarry_contract.manifests import Chunker, ReleaseManifest, write_manifest
from quarry_contract.releases import release_id

from quarry_gateway.settings import Settings

TEXT = "Cranes 🏗 and wind. Lifting with TC1 stops at 14 m/s, as Mr. Moore says. The rest is silence."
PASSAGE = {"passage_id": "p1", "document_id": "rules/ms 014.pdf", "version": "v1", "title": "TC1", "start": 10, "end": 10 + len(TEXT), "text": TEXT, "page": 3}
DIGEST = "a" * 64  # of both models
CANONICAL = "0123456789" + TEXT + "...the end"


def span(text: str = "14 m/s", confidence: float = 0.9, at: int | None = None) -> dict[str, Any]:
    start = TEXT.index(text) if at is None else at
    return {"text": text, "score": 9.0, "confidence": confidence, "evidence": [{"passage_id": "p1", "start": start, "end": start + len(text)}]}


@dataclass
class StandIn:
    """Both services on one port each; `reader` and `retriever` may be replaced by a test."""

    spans: list[dict[str, Any]] = field(default_factory=lambda: [span()])
    passages: list[dict[str, Any]] = field(default_factory=lambda: [PASSAGE])
    canonical: str = CANONICAL
    reader_fault: Callable[[web.Request], Any] | None = None
    retriever_fault: Callable[[web.Request], Any] | None = None
    ready: bool = True
    calls: list[tuple[str, dict[str, Any], Any]] = field(default_factory=list)
    custom: dict[str, str] = field(default_factory=lambda: {"digest": DIGEST, "generation": "g1"})
    model: str = "models:/reader/1"
    urls: dict[str, str] = field(default_factory=dict)
    runners: list[web.AppRunner] = field(default_factory=list)

    def connections(self) -> int:
        """How many are open."""
        return sum(len(r.server.connections) for r in self.runners if r.server)

    async def read(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.calls.append(("reader", body, request.headers))
        if self.reader_fault and (reply := await self.reader_fault(request)) is not None:
            return reply
        return _json({"spans": self.spans, "abstained": False, "null_score": 1.0, "threshold": 0.5, "tokens_read": 40, "model": self.model})

    async def retrieve(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.calls.append(("retriever", body, request.headers))
        if self.retriever_fault and (reply := await self.retriever_fault(request)) is not None:
            return reply
        data = body["jsonData"]
        if "search" in data:
            found = [{"passage": p, "score": 0.5} for p in self.passages]
            return _json({"search": {"passages": found, "generation": self.custom["generation"], "model": "models:/retriever/1"}})
        texts = [self._words(r) if r["document_id"] == PASSAGE["document_id"] else None for r in data["documents"]["ranges"]]
        return _json({"documents": {"texts": texts}})

    def _words(self, r: dict[str, Any]) -> dict[str, Any]:
        words = self.canonical[r["start"] : r["end"]]
        head = {"document_id": r["document_id"], "version": "v1", "title": "TC1", "length": len(self.canonical)}
        return {**head, "start": r["start"], "end": r["start"] + len(words), "text": words}

    async def health(self, _: web.Request) -> web.Response:
        return web.Response(status=200 if self.ready else 503)

    async def metadata(self, _: web.Request) -> web.Response:
        return web.json_response({"name": "stand-in", "versions": [], "custom": self.custom})


def _json(data: dict[str, Any]) -> web.Response:
    return web.Response(text=json.dumps({"jsonData": data, "meta": {}}), content_type="application/json")


def problem(code: str, status: int, detail: str = "", **headers: str) -> web.Response:
    return web.Response(text=json.dumps({"code": code, "detail": detail}), status=status, headers=headers, content_type="application/problem+json")


def write_release(path: Path, generation: str = "g1", threshold: float = 0.5) -> tuple[Path, str]:
    """A release manifest of the stand-ins' models; its path and id."""
    chunker = Chunker("sentences", 1, 200, 1)
    unnamed = ReleaseManifest("", "now", "models:/reader/1", DIGEST, "models:/retriever/1", DIGEST, generation, chunker, threshold)
    manifest = replace(unnamed, release_id=release_id(unnamed))
    write_manifest(path, manifest)
    return path, manifest.release_id


@pytest.fixture
def upstream() -> Iterator[StandIn]:
    with serving(StandIn()) as made:
        yield made


@contextmanager
def serving(made: StandIn) -> Iterator[StandIn]:
    """Served from a thread of its own, so that the gateway under test may have its own event loop."""
    runners = made.runners
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        for name, handler in (("reader", made.read), ("retriever", made.retrieve)):
            app = web.Application()
            app.router.add_post("/api/v1.0/predictions", handler)
            app.router.add_get("/health/status", made.health)
            app.router.add_get("/metadata", made.metadata)
            runners.append(web.AppRunner(app, shutdown_timeout=0.1))
            await runners[-1].setup()
            await web.TCPSite(runners[-1], "127.0.0.1", 0).start()
            made.urls[name] = f"http://127.0.0.1:{runners[-1].addresses[0][1]}"

    async def cleanup() -> None:
        for runner in runners:
            await runner.cleanup()

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(serve(), loop).result(10)
    yield made
    asyncio.run_coroutine_threadsafe(cleanup(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)
    loop.close()


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return write_release(tmp_path / "release.json")[0]


@pytest.fixture
def settings(upstream: StandIn, release: Path) -> Settings:
    return Settings(reader_url=upstream.urls["reader"], retriever_url=upstream.urls["retriever"], release=release)
