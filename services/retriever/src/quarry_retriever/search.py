"""The search: dense, BM25, TF-IDF, and hybrid by reciprocal rank fusion. Blocks while it computes; knows no web framework."""

import logging
from collections.abc import Sequence

import numpy as np
from quarry_contract.errors import ErrorCode, QuarryError
from quarry_contract.messages import ScoredPassage, SearchRequest, SearchResponse
from quarry_runtime.session import Array

from .index import Encode, Index
from .vectors import Hits, best

log = logging.getLogger("quarry")
# Reciprocal rank fusion (Cormack, Clarke and Buettcher 2009), with their 60 lowered to 10 and BM25 trusted more: chosen on the
# sample corpus's train and dev questions and on Wikipedia paragraphs; `make eval` prints the recall that results.
RRF_K = 10
DENSE_WEIGHT = 0.6
MIN_CANDIDATES = 50
NO_SCORE = 1e-6  # a lexical score up to this is no match


class Searcher:
    """Questions to passages, over one index generation."""

    def __init__(self, index: Index, encode_questions: Encode, model: str) -> None:
        self._index = index
        self._encode = encode_questions
        self._model = model

    def search(self, request: SearchRequest) -> SearchResponse:
        """The best passages; equal scores in the order of their rows, so that the same question always gives the same answer.

        Raises:
            QuarryError: `invalid_request` for an unknown filter field; `internal` when dense search was asked for and fails.
        """
        allowed = self._index.filters.allowed(request.filters)
        hits, degraded = self._hits(request, allowed)
        passages = self._index.store.passages([int(row) for row in hits.rows])
        scored = tuple(ScoredPassage(p, float(score)) for p, score in zip(passages, hits.scores, strict=True))
        return SearchResponse(scored, self._index.manifest.generation, self._model, degraded)

    def _hits(self, request: SearchRequest, allowed: Array | None) -> tuple[Hits, tuple[str, ...]]:
        if request.retrieval == "dense":
            return self._dense(request.question, request.top_k, allowed), ()
        terms = self._index.analyse(request.question)
        if request.retrieval == "tfidf":
            return _lexical(self._index.tfidf.scores(terms), request.top_k, allowed), ()
        if request.retrieval == "bm25":
            return _lexical(self._index.bm25.scores(terms), request.top_k, allowed), ()
        return self._hybrid(request, terms, allowed)

    def _dense(self, question: str, top_k: int, allowed: Array | None) -> Hits:
        try:
            vector = self._encode([question])[0]
            if not np.isfinite(vector).all():
                raise ValueError("the question's vector is not finite")
            return self._index.dense.search(vector, top_k, allowed)
        except Exception as error:  # whatever the model's or the index's library raises
            raise QuarryError(ErrorCode.INTERNAL) from error

    def _hybrid(self, request: SearchRequest, terms: Sequence[str], allowed: Array | None) -> tuple[Hits, tuple[str, ...]]:
        """Dense and BM25 fused by rank; BM25 alone when the dense side fails."""
        depth = max(MIN_CANDIDATES, 4 * request.top_k)
        lexical = _lexical(self._index.bm25.scores(terms), depth, allowed)
        try:
            dense = self._dense(request.question, depth, allowed)
        except QuarryError as error:
            log.error("dense search failed, answered by BM25 alone", exc_info=error.__cause__)
            return Hits(lexical.rows[: request.top_k], lexical.scores[: request.top_k]), ("dense",)
        return fuse([(dense.rows, DENSE_WEIGHT), (lexical.rows, 1.0)], request.top_k), ()


def _lexical(scores: Array, top_k: int, allowed: Array | None) -> Hits:
    matching = scores > NO_SCORE
    rows = np.flatnonzero(matching if allowed is None else matching & allowed)
    return best(rows, scores[rows], top_k)


def fuse(rankings: Sequence[tuple[Array, float]], top_k: int) -> Hits:
    """Weighted reciprocal rank fusion: score = sum over (rows, weight) of weight / (RRF_K + rank), ranks counted from 1."""
    scores: dict[int, float] = {}
    for ranking, weight in rankings:
        for rank, row in enumerate(ranking.tolist(), start=1):
            scores[row] = scores.get(row, 0.0) + weight / (RRF_K + rank)
    return best(np.array(list(scores), np.int64), np.array(list(scores.values()), np.float64), top_k)
