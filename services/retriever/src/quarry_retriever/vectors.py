"""Dense search by inner product: exact, and by a graph (HNSW, Malkov & Yashunin 2018) where there are too many vectors to compare each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import faiss
import numpy as np
from quarry_contract.manifests import ManifestError
from quarry_runtime.session import Array

LINKS = 32  # per vector in the graph
BUILD_DEPTH = 100
SEARCH_DEPTH = 128  # candidates kept while searching; widened when a mask leaves out part of them
MIN_SHARE = 0.1  # of the graph's vectors; a mask that leaves fewer is searched exactly


@dataclass(frozen=True)
class Hits:
    """Rows of the database found, best first, equal scores by row: int64 (n,) and float (n,)."""

    rows: Array
    scores: Array


def best(rows: Array, scores: Array, top_k: int) -> Hits:
    """The `top_k` highest scores; equal ones in the order of their rows."""
    if len(scores) > top_k:
        kept = np.flatnonzero(scores >= -np.partition(-scores, top_k - 1)[top_k - 1])  # all that tie with the last
        rows, scores = rows[kept], scores[kept]
    order = np.lexsort((rows, -scores))[:top_k]
    return Hits(rows[order], scores[order])


def joined(found: Sequence[Hits], top_k: int) -> Hits:
    """The best of several searches over different rows."""
    if not found:
        return Hits(np.zeros(0, np.int64), np.zeros(0, np.float32))
    return best(np.concatenate([hits.rows for hits in found]), np.concatenate([hits.scores for hits in found]), top_k)


@dataclass(frozen=True, eq=False)
class Vectors:
    """float32 (rows, dimension), and their rows in the database: int64 (rows,)."""

    rows: Array
    values: Array

    @cached_property
    def longest(self) -> float:
        """Euclidean length; DPR's own encoders do not normalise."""
        return math.sqrt(np.einsum("ij,ij->i", self.values, self.values).max(initial=0))

    def search(self, question: Array, top_k: int, allowed: Array) -> Hits:
        """The nearest among those that bool (rows,) `allowed` marks: every one is compared."""
        at = np.flatnonzero(allowed)
        some = len(at) < len(allowed) // 4
        scores = np.einsum("ij,j->i", self.values[at], question) if some else np.einsum("ij,j->i", self.values, question)[at]
        if len(at) > top_k:  # the last bits depend on the library's order of adding: keep all that may be among the best
            slack = 2 * len(question) * float(np.finfo(np.float32).eps) * float(np.linalg.norm(question)) * self.longest
            at = at[scores >= -np.partition(-scores, top_k - 1)[top_k - 1] - slack]
        return self.compared(at, question, top_k)

    def compared(self, at: Array, question: Array, top_k: int) -> Hits:
        """The nearest of those at these places. In double precision, each alone, so that a score does not depend on where a vector stands."""
        scores = (self.values[at].astype(np.float64) * question).sum(axis=1).astype(np.float32)
        return best(self.rows[at], scores, top_k)


class Graph:
    """HNSW over vectors by inner product, and which rows of the database they are."""

    def __init__(self, index: Any, rows: Array, owner: object = None) -> None:
        self._index, self._owner = index, owner  # faiss frees an index with what it is part of
        storage: Any = faiss.downcast_index(index.storage)
        stored = faiss.rev_swig_ptr(storage.get_xb(), index.ntotal * index.d)
        self._vectors = Vectors(rows, stored.reshape(index.ntotal, index.d))
        self._order = np.argsort(rows)
        self._ordered = rows[self._order]
        self._known: WeakKeyDictionary[Vectors, tuple[Array, Array]] = WeakKeyDictionary()

    @property
    def size(self) -> int:
        """How many vectors it holds."""
        return len(self._order)

    @classmethod
    def build(cls, vectors: Sequence[Array], rows: Sequence[Array]) -> "Graph":
        """Over float32 (n, dimension) and int64 (n,) each."""
        faiss.omp_set_num_threads(1)  # of the calling thread; the other cores are the questions'
        index = faiss.IndexHNSWFlat(vectors[0].shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = BUILD_DEPTH
        for part in vectors:
            index.add(np.ascontiguousarray(part))
        return cls(index, np.concatenate(rows))

    @classmethod
    def load(cls, path: Path, dimension: int) -> "Graph":
        """Open an IndexIDMap2 over HNSW, ids = rows.

        Raises:
            ManifestError: it is none, or has another dimension or measure.
        """
        try:
            wrapped: Any = faiss.read_index(str(path))
        except Exception as error:  # faiss raises RuntimeError, SWIG sometimes others
            raise ManifestError(f"{path.name} is not a faiss index") from error
        index: Any = faiss.downcast_index(wrapped.index) if isinstance(wrapped, faiss.IndexIDMap2) else None
        usable = isinstance(index, faiss.IndexHNSWFlat) and index.metric_type == faiss.METRIC_INNER_PRODUCT
        if not usable or index.d != dimension or not index.ntotal:
            raise ManifestError(f"{path.name} is not an IndexIDMap2 over an IndexHNSWFlat by inner product with vectors of {dimension} numbers")
        return cls(index, faiss.vector_to_array(wrapped.id_map), wrapped)

    def places(self, vectors: Vectors) -> tuple[Array, Array]:
        """Which of these the graph has: bool (rows,), and their places in it."""
        found = self._known.get(vectors)
        if found is None:
            at = np.minimum(np.searchsorted(self._ordered, vectors.rows), self.size - 1)
            has = self._ordered[at] == vectors.rows
            found = self._known[vectors] = (has, self._order[at[has]])
        return found

    def search(self, question: Array, top_k: int, allowed: Array) -> Hits:
        """Nearly the nearest among the places that bool (size,) `allowed` marks; exactly when they are few."""
        count = int(allowed.sum())
        if count < MIN_SHARE * self.size:
            return self._vectors.search(question, top_k, allowed)
        depth = math.ceil(max(SEARCH_DEPTH, 2 * top_k) * self.size / count)
        selector = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))  # type: ignore[call-arg, arg-type]
        params = faiss.SearchParametersHNSW(sel=selector, efSearch=depth)  # type: ignore[attr-defined]
        faiss.omp_set_num_threads(1)
        _, [found] = self._index.search(np.ascontiguousarray(question[None], np.float32), min(top_k, count), params=params)
        if (found < 0).any():  # its paths did not reach enough of them
            return self._vectors.search(question, top_k, allowed)
        return self._vectors.compared(found, question, top_k)
