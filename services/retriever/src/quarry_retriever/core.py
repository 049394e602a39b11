"""The retriever as the model server sees it: settings, loading, JSON in and out, metrics. No web framework here."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from quarry_contract.codec import decode
from quarry_contract.errors import QuarryError, invalid
from quarry_contract.index_store import EXACT_UP_TO
from quarry_contract.messages import DocumentRequest, DocumentResponse, SearchRequest, SearchResponse
from quarry_runtime.encode import Encoder
from quarry_runtime.server import BUCKETS
from quarry_runtime.session import cpus
from quarry_runtime.settings import number

from .index import Index
from .pinecone_index import PineconeIndex, configured
from .search import Searcher
from .workers import Workers


@dataclass(frozen=True)
class RetrieverSettings:
    """Where model and index are, and how much work is taken."""

    model_dir: Path
    index_dir: Path  # one generation
    model_ref: str = ""  # as in models:/retriever/3; empty = name and digest
    threads: int = 1
    max_waiting: int = 64
    exact_up_to: int = EXACT_UP_TO  # passages whose vectors are all compared; more are searched by a graph

    @classmethod
    def from_environment(cls) -> "RetrieverSettings":
        """Read QUARRY_RETRIEVER_MODEL_DIR, _INDEX_DIR, _MODEL_REF, _THREADS, _MAX_WAITING, _EXACT_UP_TO.

        Raises:
            SystemExit: a number is out of range.
        """
        return cls(
            Path(os.environ.get("QUARRY_RETRIEVER_MODEL_DIR", "/mnt/models")),
            Path(os.environ.get("QUARRY_RETRIEVER_INDEX_DIR", "/mnt/index")),
            os.environ.get("QUARRY_RETRIEVER_MODEL_REF", ""),
            int(number("QUARRY_RETRIEVER_THREADS", cpus(), 1, 256)),
            int(number("QUARRY_RETRIEVER_MAX_WAITING", cls.max_waiting, 0, 100_000)),
            int(number("QUARRY_RETRIEVER_EXACT_UP_TO", cls.exact_up_to, 0, 1_000_000_000)),
        )


class Retriever:
    """Searches one index generation and gives exact words of its documents."""

    def __init__(self, encoder: Encoder, index: Index, settings: RetrieverSettings, registry: CollectorRegistry) -> None:
        self._encoder = encoder
        self.index = index
        self._name = settings.model_ref or f"{encoder.manifest.name}@{encoder.manifest.digest[:12]}"
        self._pinecone = PineconeIndex.from_environment(index.manifest.generation, index.store)
        self._searcher = Searcher(index, encoder.encode, self._name, self._pinecone)
        self._workers = Workers(settings.threads, settings.max_waiting)
        self._searches = Counter("quarry_searches", "Searches", ["retrieval", "outcome"], registry=registry)
        self._seconds = Histogram("quarry_search_seconds", "Time to encode and search, without waiting", ["retrieval"], buckets=BUCKETS, registry=registry)
        self._describe(registry)

    @classmethod
    def load(cls, settings: RetrieverSettings, registry: CollectorRegistry) -> "Retriever":
        """Open model and index, check that they belong together, and search once.

        Raises:
            ManifestError: either is damaged, or they do not belong together.
        """
        encoder = Encoder.load(settings.model_dir, "question")
        manifest = encoder.manifest
        tied = manifest.question_encoder == manifest.passage_encoder
        passage_encoder = encoder if tied else Encoder.load(settings.model_dir, "passage")
        index = Index.open(settings.index_dir, manifest.digest, passage_encoder.encode, settings.exact_up_to, vectors=not configured())
        retriever = cls(encoder, index, settings, registry)
        ready = SearchRequest("ready?", retrieval="hybrid" if retriever._pinecone else "dense")  # without Pinecone, BM25 still answers
        retriever._searcher.search(ready)
        index.follow()
        return retriever

    async def predict(self, data: Any, deadline: float) -> dict[str, Any]:
        """{"search": SearchRequest} or {"documents": DocumentRequest}, and the answer under the same name."""
        if not isinstance(data, dict) or len(data) != 1 or not data.keys() <= {"search", "documents"}:
            raise invalid('jsonData must be {"search": {...}} or {"documents": {...}}')
        if "search" in data:
            return {"search": (await self.search(decode(SearchRequest, data["search"], "search"), deadline)).to_dict()}
        return {"documents": (await self.documents(decode(DocumentRequest, data["documents"], "documents"), deadline)).to_dict()}

    async def search(self, request: SearchRequest, deadline: float) -> SearchResponse:
        """The best passages. `deadline` is on time.monotonic()'s clock.

        Raises:
            QuarryError: `invalid_request`, `overloaded`, `deadline_exceeded`, `internal`.
        """
        outcome = "cancelled"
        try:
            response = await self._workers.run(lambda: self._search(request), deadline)
            outcome = "degraded" if response.degraded else "ok"
            return response
        except QuarryError as error:
            outcome = error.code.code
            raise
        except Exception:
            outcome = "internal"
            raise
        finally:
            self._searches.labels(request.retrieval, outcome).inc()

    async def documents(self, request: DocumentRequest, deadline: float) -> DocumentResponse:
        """The words of each range; None where there is no such document or version, or not for this caller."""
        return await self._workers.run(lambda: DocumentResponse(self.index.texts(request.ranges, request.principals)), deadline)

    def metadata(self) -> dict[str, Any]:
        """What Seldon's /metadata tells."""
        state = {"generation": self.index.manifest.generation, "revision": str(self.index.snapshot.revision)}  # Seldon wants strings
        custom = {"digest": self._encoder.manifest.digest, **state}
        return {"name": self._encoder.manifest.name, "versions": [self._name], "platform": "onnxruntime", "custom": custom}

    def close(self) -> None:
        """Stop the threads."""
        self._workers.close()
        self.index.close()
        if self._pinecone:
            self._pinecone.close()

    def _search(self, request: SearchRequest) -> SearchResponse:
        began = time.perf_counter()
        try:
            return self._searcher.search(request)
        finally:
            self._seconds.labels(request.retrieval).observe(time.perf_counter() - began)

    def _describe(self, registry: CollectorRegistry) -> None:
        """Gauges: what is served, and the queue."""
        index, workers = self.index, self._workers
        info = Gauge("quarry_index_info", "The generation served", ["generation", "encoder_digest", "model"], registry=registry)
        info.labels(index.manifest.generation, index.manifest.encoder_digest, self._name).set(1)
        values: dict[str, tuple[str, Callable[[], float]]] = {
            "quarry_index_revision": ("Revision of the index that questions are answered from", lambda: index.snapshot.revision),
            "quarry_index_passages": ("Passages of the index", lambda: index.snapshot.passages),
            "quarry_index_documents": ("Documents of the index", lambda: index.snapshot.documents),
            "quarry_index_follow_errors": ("Times the index's changes could not be read, since the start", lambda: index.follow_errors),
            "quarry_search_admitted": ("Requests waiting or being computed", lambda: workers.admitted),
            "quarry_search_refused": ("Requests refused because the queue was full, since the start", lambda: workers.refused),
            "quarry_search_dropped": ("Requests dropped before they began, since the start", lambda: workers.dropped),
        }
        for name, (text, value) in values.items():
            Gauge(name, text, registry=registry).set_function(value)


def load(registry: CollectorRegistry) -> Retriever:
    """For the model server: settings from the environment, metrics into `registry`."""
    return Retriever.load(RetrieverSettings.from_environment(), registry)
