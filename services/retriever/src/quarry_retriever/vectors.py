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

from .passages import Row

LINKS = 32  # per vector in the graph
BUILD_DEPTH = 100
SEARCH_DEPTH = 256  # candidates kept while searching; widened when a mask leaves out part of them
AT_ONCE = 16_384  # vectors copied to be compared
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
    """Of some rows in the database, int64 (rows,): their own float32 (rows, dimension), or places in a graph's, so that memory has them once."""

    rows: Array
    stored: Array  # float32 (n, dimension)
    places: Array | None = None  # int32 (rows,) in `stored`; None = the same order
    owner: object = None  # of `stored`, kept alive

    def values(self, at: Array) -> Array:
        """float32 (n, dimension): of those at these places."""
        return np.asarray(self.stored[at if self.places is None else self.places[at]])

    @cached_property
    def longest(self) -> float:
        """Euclidean length, of none longer; DPR's own encoders do not normalise."""
        return math.sqrt(np.einsum("ij,ij->i", self.stored, self.stored).max(initial=0))

    def search(self, question: Array, top_k: int, allowed: Array) -> Hits:
        """The nearest among those that bool (rows,) `allowed` marks: every one is compared."""
        at = np.flatnonzero(allowed)
        scores = self._scores(at, question)
        if len(at) > top_k:  # the last bits depend on the library's order of adding: keep all that may be among the best
            slack = 2 * len(question) * float(np.finfo(np.float32).eps) * float(np.linalg.norm(question)) * self.longest
            at = at[scores >= -np.partition(-scores, top_k - 1)[top_k - 1] - slack]
        return self.compared(at, question, top_k)

    def _scores(self, at: Array, question: Array) -> Array:
        """About the inner products of those at these places."""
        if self.places is None and len(at) >= len(self.rows) // 4:
            return np.asarray(np.einsum("ij,j->i", self.stored, question)[at])
        blocks = [np.einsum("ij,j->i", self.values(at[i : i + AT_ONCE]), question) for i in range(0, len(at), AT_ONCE)]
        return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)

    def compared(self, at: Array, question: Array, top_k: int) -> Hits:
        """The nearest of those at these places. In double precision, each alone, so that a score does not depend on where a vector stands."""
        scores = (self.values(at).astype(np.float64) * question).sum(axis=1).astype(np.float32)
        return best(self.rows[at], scores, top_k)


@dataclass(frozen=True, eq=False)
class Marked:
    """Places in a graph that a search may give: bool (size,)."""

    places: Array

    @cached_property
    def count(self) -> int:
        """How many they are."""
        return int(self.places.sum())

    @cached_property
    def bits(self) -> Array:
        """As faiss wants them."""
        return np.packbits(self.places, bitorder="little")


class UntrueGraph(ManifestError):
    """A graph does not hold the vectors that index.db has."""


class Graph:
    """HNSW over vectors by inner product, and which rows of the database they are."""

    def __init__(self, index: Any, rows: Array, owner: object = None) -> None:
        self._index, self._owner = index, owner  # faiss frees an index with what it is part of
        storage: Any = faiss.downcast_index(index.storage)
        self.stored = faiss.rev_swig_ptr(storage.get_xb(), index.ntotal * index.d).reshape(index.ntotal, index.d)
        self._vectors = Vectors(rows, self.stored)
        self._order = np.argsort(rows)
        self._ordered = rows[self._order]
        self._known: WeakKeyDictionary[Vectors, tuple[Array, Array]] = WeakKeyDictionary()

    @property
    def size(self) -> int:
        """How many vectors it holds."""
        return len(self._order)

    @classmethod
    def build(cls, chosen: Sequence[tuple[Vectors, Array]]) -> "Graph":
        """Over those at these places of each."""
        faiss.omp_set_num_threads(1)  # of the calling thread; the other cores are the questions'
        index = faiss.IndexHNSWFlat(chosen[0][0].stored.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = BUILD_DEPTH
        for vectors, at in chosen:
            for i in range(0, len(at), AT_ONCE):
                index.add(np.ascontiguousarray(vectors.values(at[i : i + AT_ONCE])))
        return cls(index, np.concatenate([vectors.rows[at] for vectors, at in chosen]))

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
            found = self._known[vectors] = self._places(vectors.rows)
        return found

    def holding(self, rows: Sequence[Row]) -> tuple[Array, Array]:
        """Which of these it has: bool (n,), and their places.

        Raises:
            UntrueGraph: it has one with another vector than the database.
        """
        has, places = self._places(np.array([row.row for row in rows], np.int64))
        own = [row.vector for row, known in zip(rows, has, strict=True) if known]
        if own and not np.array_equal(np.array(own), self.stored[places]):
            raise UntrueGraph("it holds other vectors than index.db")
        return has, places

    def check(self, vectors: Vectors, alive: Array) -> None:
        """See that those marked by bool (rows,) that it has are the same here.

        Raises:
            UntrueGraph: they are not.
        """
        has, places = self.places(vectors)
        kept = alive[has]
        at, places = np.flatnonzero(has)[kept], places[kept]
        for i in range(0, len(at), AT_ONCE):
            if not np.array_equal(vectors.values(at[i : i + AT_ONCE]), self.stored[places[i : i + AT_ONCE]]):
                raise UntrueGraph("it holds other vectors than index.db")

    def _places(self, rows: Array) -> tuple[Array, Array]:
        at = np.minimum(np.searchsorted(self._ordered, rows), self.size - 1)
        has = self._ordered[at] == rows
        return has, self._order[at[has]]

    def based(self, vectors: Vectors, alive: Array) -> Vectors:
        """The same with their numbers here alone, if the graph has all of those that bool (rows,) `alive` marks; the others are never looked at."""
        has, places = self.places(vectors)
        if not has[alive].all():
            return vectors
        of_row = np.zeros(len(has), np.int32)
        of_row[has] = places
        return Vectors(vectors.rows, self.stored, of_row, self)

    def search(self, question: Array, top_k: int, marked: Marked) -> Hits:
        """Nearly the nearest among the marked; exactly when they are few."""
        count = marked.count
        if count < MIN_SHARE * self.size:
            return self._vectors.search(question, top_k, marked.places)
        depth = math.ceil(max(SEARCH_DEPTH, 2 * top_k) * self.size / count)
        selector = faiss.IDSelectorBitmap(marked.bits)  # type: ignore[call-arg, arg-type]
        params = faiss.SearchParametersHNSW(sel=selector, efSearch=depth)  # type: ignore[attr-defined]
        faiss.omp_set_num_threads(1)
        _, [found] = self._index.search(np.ascontiguousarray(question[None], np.float32), min(top_k, count), params=params)
        if (found < 0).any():  # its paths did not reach enough of them
            return self._vectors.search(question, top_k, marked.places)
        return self._vectors.compared(found, question, top_k)
