"""The search: dense, BM25, TF-IDF, and hybrid by reciprocal rank fusion (docs/adr/0009). Blocks while it computes; knows no web framework."""

import logging
from collections.abc import Sequence

import numpy as np
from quarry_contract.errors import ErrorCode, QuarryError
from quarry_contract.messages import ScoredPassage, SearchRequest, SearchResponse
from quarry_contract.vector_store import Sparse, question_terms
from quarry_runtime.session import Array

from .index import Encode, Index
from .pinecone_index import PineconeIndex, StaleSnapshot
from .snapshot import Snapshot
from .vectors import Hits, best, joined

log = logging.getLogger("quarry")
# Reciprocal rank fusion (Cormack, Clarke and Buettcher 2009), with their 60 lowered to 10 and BM25 trusted more: chosen on the
# sample corpus's train and dev questions and on Wikipedia paragraphs; `make eval` prints the recall that results.
RRF_K = 10
DENSE_WEIGHT = 0.6
MIN_CANDIDATES = 50
ATTEMPTS = 4  # the first and three more
NO_SCORE = 1e-6  # a lexical score up to this is no match


class Searcher:
    """Questions to passages, over one index generation."""

    def __init__(self, index: Index, encode_questions: Encode, model: str, pinecone: PineconeIndex | None = None) -> None:
        self._index, self._pinecone = index, pinecone
        self._encode = encode_questions
        self._model = model

    def search(self, request: SearchRequest) -> SearchResponse:
        """The best passages; equal scores in the order of their rows, so that the same question always gives the same answer.

        A passage that changed since the snapshot was made means another search on a newer one. When they still change after
        ATTEMPTS, the answer is those that did not.

        Raises:
            QuarryError: `invalid_request` for an unknown filter field; `internal` when dense search was asked for and fails.
        """
        for attempt in range(1, ATTEMPTS + 1):
            snapshot = self._index.snapshot
            try:
                hits, degraded = self._hits(request, snapshot, attempt == ATTEMPTS)
            except StaleSnapshot:
                self._index.try_refresh()
                continue
            passages = self._index.store.passages(hits.rows.tolist(), snapshot.revision, request.principals)
            if all(passages) or attempt == ATTEMPTS:
                break
            self._index.try_refresh()
        scored = tuple(ScoredPassage(p, float(score)) for p, score in zip(passages, hits.scores, strict=True) if p)
        return SearchResponse(scored, self._index.manifest.generation, self._model, degraded)

    def _hits(self, request: SearchRequest, snapshot: Snapshot, final: bool) -> tuple[Hits, tuple[str, ...]]:
        view = snapshot.view(frozenset(request.principals))
        allowed = view.allowed(request.filters)
        if request.retrieval == "dense":
            return self._dense(request, request.top_k, snapshot, allowed, final), ()
        terms = self._index.analyse_question(request.question)
        if request.retrieval == "hybrid":
            return self._hybrid(request, terms, snapshot, allowed, final)
        scores = view.collection.tfidf(terms) if request.retrieval == "tfidf" else view.collection.bm25(terms)
        return _lexical(snapshot, scores, request.top_k, allowed), ()

    def _dense(self, request: SearchRequest, top_k: int, snapshot: Snapshot, allowed: Sequence[Array], final: bool, terms: Sparse | None = None) -> Hits:
        """By vector; with `terms`, which Pinecone alone takes, by both together."""
        try:
            vector = self._encode([request.question])[0]
            if not np.isfinite(vector).all():
                raise ValueError("the question's vector is not finite")
            if self._pinecone:
                return self._pinecone.search(vector, request, top_k, snapshot, allowed, terms=terms, final=final)
            return snapshot.view(frozenset(request.principals)).dense(vector, top_k, allowed)
        except StaleSnapshot:
            raise
        except Exception as error:  # whatever the model's or the index's library raises
            raise QuarryError(ErrorCode.INTERNAL) from error

    def _hybrid(
        self, request: SearchRequest, question: Sequence[str], snapshot: Snapshot, allowed: Sequence[Array], final: bool
    ) -> tuple[Hits, tuple[str, ...]]:
        """Dense and BM25 fused by rank, or Pinecone's search by vector and terms together; BM25 alone when that fails."""
        collection, depth = snapshot.view(frozenset(request.principals)).collection, max(MIN_CANDIDATES, 4 * request.top_k)
        together = self._pinecone is not None and self._pinecone.together
        terms = question_terms(collection.telling(question)) if together else None
        try:
            dense = self._dense(request, request.top_k if together else depth, snapshot, allowed, final, terms)
        except QuarryError as error:
            log.error("dense search failed, answered by BM25 alone", exc_info=error.__cause__)
            return _lexical(snapshot, collection.bm25(question), request.top_k, allowed), ("dense",)
        if together:
            return dense, ()
        lexical = _lexical(snapshot, collection.bm25(question), depth, allowed)
        return fuse([(dense.rows, DENSE_WEIGHT), (lexical.rows, 1.0)], request.top_k), ()


def _lexical(snapshot: Snapshot, scores: Sequence[Array], top_k: int, allowed: Sequence[Array]) -> Hits:
    found = []
    for part, score, mask in zip(snapshot.parts, scores, allowed, strict=True):
        at = np.flatnonzero((score > NO_SCORE) & mask)
        found.append(best(part.rows[at], score[at], top_k))
    return joined(found, top_k)


def fuse(rankings: Sequence[tuple[Array, float]], top_k: int) -> Hits:
    """Weighted reciprocal rank fusion: score = sum over (rows, weight) of weight / (RRF_K + rank), ranks counted from 1."""
    scores: dict[int, float] = {}
    for ranking, weight in rankings:
        for rank, row in enumerate(ranking.tolist(), start=1):
            scores[row] = scores.get(row, 0.0) + weight / (RRF_K + rank)
    return best(np.array(list(scores), np.int64), np.array(list(scores.values()), np.float64), top_k)
