"""Dense search by inner product: exact, and by a graph (HNSW, Malkov & Yashunin 2018) where there are too many vectors to compare each.

A graph holds vectors of documents with the same readers, so that who may search it may read all of it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from quarry_contract.index_store import graph_sizes
from quarry_contract.manifests import ManifestError
from quarry_runtime.session import Array

LINKS = 32  # per vector in the graph
BUILD_DEPTH = 100
SEARCH_DEPTH = 256  # candidates kept while searching; widened for large graphs, and when a mask leaves out part of them
DEEP_ENOUGH_UP_TO = 250_000  # vectors
AT_ONCE = 16_384  # vectors copied to be compared
HERE = -1  # the number of no graph
MIN_SHARE = 0.1  # of the graph's vectors; a mask that leaves fewer is searched exactly


@dataclass(frozen=True)
class Hits:
    """Rows of the database found, best first, equal scores by row: int64 (n,) and float (n,)."""

    rows: Array
    scores: Array


def search_depth(size: int) -> float:
    """For a graph of so many vectors: at the same depth the larger one finds fewer of the nearest (docs/measurements.md)."""
    return SEARCH_DEPTH * math.cbrt(max(1.0, size / DEEP_ENOUGH_UP_TO))


def best(rows: Array, scores: Array, top_k: int) -> Hits:
    """The `top_k` highest scores; equal ones in the order of their rows."""
    if len(scores) > top_k:
        kept = np.flatnonzero(scores >= -np.partition(-scores, top_k - 1)[top_k - 1])  # all that tie with the last
        rows, scores = rows[kept], scores[kept]
    order = np.lexsort((rows, -scores))[:top_k]
    return Hits(rows[order], scores[order])


def compared(rows: Array, vectors: Array, question: Array, top_k: int) -> Hits:
    """The nearest of float32 (rows, dimension). In double precision, each alone, so that a score does not depend on where a vector stands."""
    return best(rows, (vectors.astype(np.float64) * question).sum(axis=1).astype(np.float32), top_k)


def joined(found: Sequence[Hits], top_k: int) -> Hits:
    """The best of several searches over different rows."""
    if not found:
        return Hits(np.zeros(0, np.int64), np.zeros(0, np.float32))
    return best(np.concatenate([hits.rows for hits in found]), np.concatenate([hits.scores for hits in found]), top_k)


@dataclass(frozen=True, eq=False)
class Vectors:
    """Of some rows in the database, int64 (rows,). Each vector is in memory once: in the graph that finds it, or here, to be compared."""

    rows: Array
    stored: Array  # float32 (n, dimension): those that are here
    places: Array | None = None  # int32 (rows,): where it is, in its graph or in `stored`; None = all are in `stored`, in the same order
    owner: Array | None = None  # int16 (rows,): the number of its graph in `graphs`, or HERE; None = all are here
    graphs: tuple["Graph", ...] = ()

    @classmethod
    def merged(cls, rows: Array, parts: Sequence["Vectors"], places: Sequence[Array]) -> "Vectors":
        """Those of several, put where `places` (int64 (rows,) per part, -1 = left out) says; what graphs have stays there."""
        graphs = tuple(dict.fromkeys(graph for part in parts for graph in part.graphs))
        owner, at = np.full(len(rows), HERE, np.int16), np.zeros(len(rows), np.int32)
        for part, place in zip(parts, places, strict=True):
            for number, graph in enumerate(part.graphs):
                chosen = (part.owner == number) & (place >= 0)
                owner[place[chosen]], at[place[chosen]] = graphs.index(graph), part.places[chosen]  # type: ignore[index]
        here = np.flatnonzero(owner == HERE)
        at[here] = np.arange(len(here))
        stored = np.empty((len(here), parts[0].stored.shape[1]), np.float32)
        for part, place in zip(parts, places, strict=True):
            chosen = np.flatnonzero(place >= 0)
            for block in np.array_split(chosen[owner[place[chosen]] == HERE], len(place) // AT_ONCE + 1):
                stored[at[place[block]]] = part.values(block)
        return cls(rows, stored, at, owner, graphs) if graphs else cls(rows, stored)

    def based(self, graphs: Sequence["Graph"], numbers: Array, alive: Array) -> "Vectors":
        """The same, searched by these graphs: int16 (rows,) `numbers` says by which each row is if it has it, or HERE.

        Rows that bool (rows,) `alive` does not mark are never looked at.
        """
        if not (self.graphs or graphs):
            return self
        owner, at = np.full(len(self.rows), HERE, np.int16), np.zeros(len(self.rows), np.int32)
        for number, graph in enumerate(graphs):
            asked = np.flatnonzero(numbers == number)
            has, places = graph.find(self.rows[asked])
            owner[asked[has]], at[asked[has]] = number, places
        here = np.flatnonzero((owner == HERE) & alive)
        at[here] = np.arange(len(here))
        stored = np.empty((len(here), self.stored.shape[1]), np.float32)
        for i in range(0, len(here), AT_ONCE):
            stored[i : i + AT_ONCE] = self.values(here[i : i + AT_ONCE])
        return Vectors(self.rows, stored, at, owner, tuple(graphs))

    def values(self, at: Array) -> Array:
        """float32 (n, dimension): of those at these places."""
        if self.places is None or self.owner is None:
            return np.asarray(self.stored[at])
        found, owner, places = np.empty((len(at), self.stored.shape[1]), np.float32), self.owner[at], self.places[at]
        for number, stored in enumerate([*(graph.stored for graph in self.graphs), self.stored]):
            chosen = np.flatnonzero(owner == (number if number < len(self.graphs) else HERE))
            found[chosen] = stored[places[chosen]]
        return found

    def divided(self, allowed: Array) -> tuple[list[tuple["Graph", Array]], Array]:
        """Of the rows that bool (rows,) `allowed` marks: the places in each graph that finds some, and bool (rows,) those that none does."""
        if self.owner is None or self.places is None:
            return [], allowed
        at = np.flatnonzero(allowed)
        owner = self.owner[at]
        numbers = np.flatnonzero(np.bincount(owner + 1, minlength=1)[1:])  # so that what graphs there are for others takes no step
        return [(self.graphs[number], self.places[at[owner == number]]) for number in numbers], allowed & (self.owner == HERE)

    def count(self, graph: "Graph", alive: Array) -> int:
        """How many of the rows that bool (rows,) `alive` marks the graph finds."""
        return int((alive & (self.owner == self.graphs.index(graph))).sum()) if graph in self.graphs else 0

    @cached_property
    def longest(self) -> float:
        """Euclidean length, of none here longer; DPR's own encoders do not normalise."""
        return math.sqrt(np.einsum("ij,ij->i", self.stored, self.stored).max(initial=0))

    def search(self, question: Array, top_k: int, allowed: Array) -> Hits:
        """The nearest among those here that bool (rows,) `allowed` marks: every one is compared."""
        at = np.flatnonzero(allowed)
        places = at if self.places is None else self.places[at]
        scores = self._scores(places, question)
        if len(at) > top_k:  # the last bits depend on the library's order of adding: keep all that may be among the best
            slack = 2 * len(question) * float(np.finfo(np.float32).eps) * float(np.linalg.norm(question)) * self.longest
            kept = scores >= -np.partition(-scores, top_k - 1)[top_k - 1] - slack
            at, places = at[kept], places[kept]
        return compared(self.rows[at], self.stored[places], question, top_k)

    def _scores(self, places: Array, question: Array) -> Array:
        """About the inner products of those at these places in `stored`."""
        if len(places) >= len(self.stored) // 4:
            return np.asarray(np.einsum("ij,j->i", self.stored, question)[places])
        blocks = [np.einsum("ij,j->i", self.stored[places[i : i + AT_ONCE]], question) for i in range(0, len(places), AT_ONCE)]
        return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


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
    """HNSW over vectors with the same readers, by inner product, and which rows of the database they are."""

    def __init__(self, readers: frozenset[str], index: Any, rows: Array, owner: object = None, revision: int | None = None) -> None:
        self.readers, self.revision = readers, revision  # of the snapshot that it was built from here; None = the writer's
        self._index, self._owner = index, owner  # faiss frees an index with what it is part of
        storage: Any = faiss.downcast_index(index.storage)
        self.stored = faiss.rev_swig_ptr(storage.get_xb(), index.ntotal * index.d).reshape(index.ntotal, index.d)
        self._vectors = Vectors(rows, self.stored)
        self._order = np.argsort(rows)
        self._ordered = rows[self._order]

    @property
    def size(self) -> int:
        """How many vectors it holds."""
        return len(self._order)

    @classmethod
    def build(cls, readers: frozenset[str], rows: Array, dimension: int, values: Callable[[Array], Array], revision: int = 0) -> "Graph":
        """Over those of int64 (rows,) `rows`, whose vectors `values` gives: the same as ingestion saves (quarry_ingestion.graphs)."""
        faiss.omp_set_num_threads(1)  # of the calling thread; the other cores are the questions'
        index = faiss.IndexHNSWFlat(dimension, LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = BUILD_DEPTH
        for size in graph_sizes(0, len(rows)):
            index.hnsw.rng = faiss.RandomGenerator(index.ntotal)  # type: ignore[attr-defined]
            index.add(np.ascontiguousarray(values(rows[index.ntotal : size])))
        return cls(readers, index, rows[: index.ntotal], revision=revision)

    @classmethod
    def load(cls, path: Path, dimension: int, readers: frozenset[str]) -> "Graph":
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
        return cls(readers, index, faiss.vector_to_array(wrapped.id_map), wrapped)

    def find(self, rows: Array) -> tuple[Array, Array]:
        """Which of these it has: bool (rows,), and their places in it."""
        at = np.minimum(np.searchsorted(self._ordered, rows), self.size - 1)
        has = self._ordered[at] == rows
        return has, self._order[at[has]]

    def check(self, rows: Array, values: Callable[[Array], Array]) -> None:
        """See that the vectors of these rows, which it has, are those that `values` gives.

        Raises:
            UntrueGraph: they are not.
        """
        _, places = self.find(rows)
        for i in range(0, len(rows), AT_ONCE):
            if not np.array_equal(values(rows[i : i + AT_ONCE]), self.stored[places[i : i + AT_ONCE]]):
                raise UntrueGraph("it holds other vectors than index.db")

    def search(self, question: Array, top_k: int, marked: Marked) -> Hits:
        """Nearly the nearest among the marked; exactly when they are few."""
        count = marked.count
        if count < MIN_SHARE * self.size:
            return self._vectors.search(question, top_k, marked.places)
        depth = math.ceil(max(search_depth(self.size), 2 * top_k) * self.size / count)
        selector = faiss.IDSelectorBitmap(marked.bits)  # type: ignore[call-arg, arg-type]
        params = faiss.SearchParametersHNSW(sel=selector, efSearch=depth)  # type: ignore[attr-defined]
        faiss.omp_set_num_threads(1)
        _, [found] = self._index.search(np.ascontiguousarray(question[None], np.float32), min(top_k, count), params=params)
        if (found < 0).any():  # its paths did not reach enough of them
            return self._vectors.search(question, top_k, marked.places)
        return compared(self._vectors.rows[found], self.stored[found], question, top_k)
