"""The retriever: encode the question, search, fuse, fetch. No web framework here."""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Gauge
from quarry_contract.codec import encode
from quarry_contract.errors import ErrorCode, QuarryError, invalid
from quarry_contract.messages import DocumentRequest, DocumentResponse, ScoredPassage, SearchRequest, SearchResponse
from quarry_runtime.encode import Encoder
from quarry_runtime.server import number
from quarry_runtime.session import Array, cpus

from .index import Index
from .lexical import Analyser, Bm25, TfIdf, best

RRF_K = 60  # Cormack, Clarke and Buettcher 2009
T = TypeVar("T")
Hits = list[tuple[int, float]]


@dataclass(frozen=True)
class RetrieverSettings:
    """Where model and index are, and how much work is taken."""

    model_dir: Path
    index_dir: Path
    model_ref: str = ""
    threads: int = 1
    max_waiting: int = 64

    @classmethod
    def from_environment(cls) -> "RetrieverSettings":
        """Read QUARRY_RETRIEVER_MODEL_DIR, _INDEX_DIR, _MODEL_REF, _THREADS, _MAX_WAITING.

        Raises:
            SystemExit: a number is out of range.
        """
        return cls(
            Path(os.environ.get("QUARRY_RETRIEVER_MODEL_DIR", "/mnt/models")),
            Path(os.environ.get("QUARRY_RETRIEVER_INDEX_DIR", "/mnt/index")),
            os.environ.get("QUARRY_RETRIEVER_MODEL_REF", ""),
            int(number("QUARRY_RETRIEVER_THREADS", cpus(), 1, 256)),
            int(number("QUARRY_RETRIEVER_MAX_WAITING", cls.max_waiting, 1, 100_000)),
        )


class Workers:
    """A bounded queue in front of a few threads: full means refused, cancelled means never begun."""

    def __init__(self, threads: int, max_waiting: int) -> None:
        self._pool = ThreadPoolExecutor(threads, "search")
        self._limit = threads + max_waiting
        self._waiting = 0

    async def run(self, work: Callable[[], T], deadline: float) -> T:
        """Run `work` in a thread.

        Raises:
            QuarryError: `overloaded`, `deadline_exceeded`.
        """
        if self._waiting >= self._limit:
            raise QuarryError(ErrorCode.OVERLOADED, "the queue is full", retry_after_sec=1)
        self._waiting += 1
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except TimeoutError:
            raise QuarryError(ErrorCode.DEADLINE_EXCEEDED) from None
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Begin nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class Retriever:
    """Dense, BM25, TF-IDF and hybrid search over one index generation."""

    def __init__(self, encoder: Encoder, index: Index, settings: RetrieverSettings) -> None:
        self._encoder = encoder
        self.index = index
        self._name = settings.model_ref or f"{encoder.manifest.name}@{encoder.manifest.digest[:12]}"
        self._analyse = Analyser()
        terms = [self._analyse(text) for text in index.texts()]
        self._bm25, self._tfidf = Bm25(terms), TfIdf(terms)
        self._workers = Workers(settings.threads, settings.max_waiting)
        self.degraded = 0

    @classmethod
    def load(cls, settings: RetrieverSettings) -> "Retriever":
        """Open model and index, check that they belong together, and search once.

        Raises:
            ManifestError: either is damaged, or they do not belong together.
        """
        encoder = Encoder.load(settings.model_dir, "question")
        retriever = cls(encoder, Index.open(settings.index_dir, encoder), settings)
        retriever.find(SearchRequest("ready?"))
        return retriever

    def find(self, request: SearchRequest) -> SearchResponse:
        """Search; blocks for as long as encoding the question takes.

        Raises:
            QuarryError: `invalid_request` for an unknown filter field; `internal` when dense search was asked for and fails.
        """
        allowed = self.index.allowed(request.filters)
        terms = self._analyse(request.question)
        degraded: tuple[str, ...] = ()
        if request.retrieval == "bm25":
            hits = best(self._bm25.scores(terms), request.top_k, allowed)
        elif request.retrieval == "tfidf":
            hits = best(self._tfidf.scores(terms), request.top_k, allowed)
        elif request.retrieval == "dense":
            hits = self._dense(request.question, request.top_k, allowed)
        else:
            hits, degraded = self._hybrid(request, terms, allowed)
        found = self.index.passages([row for row, _ in hits])
        passages = tuple(ScoredPassage(p, score) for p, (_, score) in zip(found, hits, strict=True))
        return SearchResponse(passages, self.index.manifest.generation, self._name, degraded)

    def _dense(self, question: str, top_k: int, allowed: Array | None) -> Hits:
        try:
            vector = self._encoder.encode([question])[0]
        except Exception as error:
            raise QuarryError(ErrorCode.INTERNAL, "the question could not be encoded") from error
        return self.index.dense.search(vector, min(top_k, self.index.manifest.passages), allowed)

    def _hybrid(self, request: SearchRequest, terms: Sequence[str], allowed: Array | None) -> tuple[Hits, tuple[str, ...]]:
        """BM25 and dense, fused by rank; BM25 alone when the encoder fails."""
        depth = max(50, 4 * request.top_k)
        lexical = best(self._bm25.scores(terms), depth, allowed)
        try:
            return fuse([self._dense(request.question, depth, allowed), lexical])[: request.top_k], ()
        except QuarryError:
            self.degraded += 1
            return lexical[: request.top_k], ("dense",)

    async def predict(self, data: Any, deadline: float) -> dict[str, Any]:
        """{"search": SearchRequest} or {"documents": DocumentRequest}, and the answer under the same name."""
        if not isinstance(data, dict) or len(data) != 1 or not data.keys() <= {"search", "documents"}:
            raise invalid('jsonData must be {"search": {...}} or {"documents": {...}}')
        if "search" in data:
            search = SearchRequest.from_dict(data["search"])
            return {"search": (await self._workers.run(lambda: self.find(search), deadline)).to_dict()}
        ranges = DocumentRequest.from_dict(data["documents"]).ranges
        texts = await self._workers.run(lambda: self.index.documents(ranges), deadline)
        return {"documents": encode(DocumentResponse(tuple(texts)))}

    def metadata(self) -> dict[str, Any]:
        """What Seldon's /metadata tells."""
        custom = {"digest": self._encoder.manifest.digest, "generation": self.index.manifest.generation}
        return {"name": self._encoder.manifest.name, "versions": [self._name], "platform": "onnxruntime", "custom": custom}

    def close(self) -> None:
        """Stop the threads."""
        self._workers.close()


def fuse(rankings: Sequence[Hits]) -> Hits:
    """Reciprocal rank fusion: score = sum of 1 / (RRF_K + rank), ranks from 1; ties by row."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, (row, _) in enumerate(ranking, start=1):
            scores[row] = scores.get(row, 0.0) + 1 / (RRF_K + rank)
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))


def load(registry: CollectorRegistry) -> Retriever:
    """For the model server: settings from the environment, metrics into `registry`."""
    retriever = Retriever.load(RetrieverSettings.from_environment())
    manifest = retriever.index.manifest
    information = Gauge("quarry_index_passages", "Passages of the generation served", ["generation"], registry=registry)
    information.labels(manifest.generation).set(manifest.passages)
    degraded = Gauge("quarry_degraded_searches", "Hybrid searches answered by BM25 alone, since the start", registry=registry)
    degraded.set_function(lambda: retriever.degraded)
    return retriever
