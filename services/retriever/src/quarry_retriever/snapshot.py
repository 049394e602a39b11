"""What the index holds at one revision, in memory, never changed: searches read one snapshot, refreshing makes the next one.

A snapshot is a few parts, each made once from rows; changes make a new small part and mark rows of older ones as gone. Parts are
merged so that each is several times larger than the next, which keeps them few and the work per change small (as in a
log-structured merge tree, O'Neil et al. 1996); rows that are gone are dropped when they are a tenth of their part.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
from quarry_contract.codec import Scalar
from quarry_runtime.session import Array
from quarry_runtime.terms import Analyser, searched_words

from .filters import BUILT_IN, Fields, FieldsMaker, Seen, unknown_field
from .lexical import Collection, Postings, PostingsMaker, Vocabulary
from .passages import Row
from .vectors import AT_ONCE, Graph, Hits, Marked, Vectors, joined

GROWTH = 10  # a part is at least so many times larger than the next
GONE_SHARE = 0.1
VIEWS = 64  # kept per snapshot


@dataclass(frozen=True, eq=False)
class Part:
    """Some rows, ascending: vectors, terms and fields."""

    vectors: Vectors
    postings: Postings
    fields: Fields

    @classmethod
    def merged(cls, parts: Sequence["Part"], alive: Sequence[Array]) -> "Part":
        """Those rows of several parts that bool (rows,) per part marks."""
        kept = np.concatenate([part.rows[mask] for part, mask in zip(parts, alive, strict=True)])
        rows = np.sort(kept)
        places = [np.where(mask, np.searchsorted(rows, part.rows), -1) for part, mask in zip(parts, alive, strict=True)]
        stored = np.empty((len(rows), parts[0].vectors.stored.shape[1]), np.float32)
        for part, place in zip(parts, places, strict=True):
            for at in np.array_split(np.flatnonzero(place >= 0), len(place) // AT_ONCE + 1):
                stored[place[at]] = part.vectors.values(at)
        vectors = Vectors(rows, stored)
        return cls(vectors, Postings.merged([part.postings for part in parts], places), Fields.merged([part.fields for part in parts], places))

    @property
    def rows(self) -> Array:
        """int64 (rows,): their rows in the database."""
        return self.vectors.rows


class PartMaker:
    """Makes a Part of rows as they are in the database, given in blocks, ascending; with a graph, of rows that it has: their vectors stay there."""

    def __init__(self, dimension: int, analyse: Analyser, vocabulary: Vocabulary, graph: Graph | None = None) -> None:
        self._dimension, self._analyse, self._graph = dimension, analyse, graph
        self._postings, self._fields = PostingsMaker(vocabulary), FieldsMaker()
        self._rows: list[Array] = [np.zeros(0, np.int64)]
        self._vectors: list[Array] = []

    def add(self, rows: Sequence[Row], places: Array | None = None) -> None:
        """Some more; `places` (n,) are theirs in the graph."""
        for row in rows:
            self._postings.add(self._analyse(searched_words(row.document_id, row.title, row.section, row.text)))
            self._fields.add(row)
        self._rows.append(np.array([row.row for row in rows], np.int64))
        if places is None:
            self._vectors.append(np.array([row.vector for row in rows], np.float32).reshape(len(rows), self._dimension))
        else:
            self._vectors.append(places.astype(np.int32))

    def made(self) -> Part:
        """Of all that were added."""
        rows = np.concatenate(self._rows)
        if self._graph:
            vectors = Vectors(rows, self._graph.stored, np.concatenate([np.zeros(0, np.int32), *self._vectors]), self._graph)
        else:
            vectors = Vectors(rows, self._stored(len(rows)))
        return Part(vectors, self._postings.made(), self._fields.made())

    def _stored(self, rows: int) -> Array:
        """The blocks as one; each goes when it is copied, so that memory never has all of them twice."""
        stored, at = np.empty((rows, self._dimension), np.float32), rows
        while self._vectors:
            block = self._vectors.pop()
            stored[at - len(block) : at] = block
            at -= len(block)
        return stored


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Everything that can be found at `revision`."""

    revision: int
    documents: int
    vocabulary: Vocabulary
    parts: tuple[Part, ...] = ()
    alive: tuple[Array, ...] = ()  # bool (rows,) per part
    graph: Graph | None = None

    @cached_property
    def passages(self) -> int:
        """How many there are."""
        return sum(int(mask.sum()) for mask in self.alive)

    def changed(self, revision: int, documents: int, gone: Array, added: Part) -> "Snapshot":
        """The next one: without the rows `gone` (int64 (n,)), with those of `added`, which may be old rows whose document changed."""
        gone, more = np.union1d(gone, added.rows), [added] if len(added.rows) else []
        left = [_without(part.rows, mask, gone) for part, mask in zip(self.parts, self.alive, strict=True)]
        parts, alive = _compact([*self.parts, *more], [*left, *(np.ones(len(part.rows), bool) for part in more)])
        return Snapshot(revision, documents, self.vocabulary, parts, alive, self.graph)

    @cached_property
    def view(self) -> Callable[[frozenset[str]], "View"]:
        """What a caller with these principals may see; the most recent ones are kept."""
        parts, alive, vocabulary, graph = self.parts, self.alive, self.vocabulary, self.graph  # not self: what refers to itself stays in memory for long

        def make(principals: frozenset[str]) -> View:
            return View(parts, tuple(mask & part.fields.visible(principals) for part, mask in zip(parts, alive, strict=True)), vocabulary, graph)

        return lru_cache(VIEWS)(make)

    def covered(self, graph: Graph) -> int:
        """How many of the passages a graph has."""
        return sum(int((mask & graph.places(part.vectors)[0]).sum()) for part, mask in zip(self.parts, self.alive, strict=True))

    def with_graph(self, graph: Graph | None) -> "Snapshot":
        """The same, searched by this graph, which also holds the vectors of the parts that it knows all of."""
        parts = self.parts
        if graph:
            parts = tuple(replace(part, vectors=graph.based(part.vectors, mask)) for part, mask in zip(parts, self.alive, strict=True))
        return replace(self, parts=parts, graph=graph)


@dataclass(frozen=True, eq=False)
class View:
    """The parts, and which of their rows one caller may see: bool (rows,) per part."""

    parts: tuple[Part, ...]
    visible: tuple[Array, ...]
    vocabulary: Vocabulary
    graph: Graph | None

    @cached_property
    def collection(self) -> Collection:
        """For lexical search."""
        return Collection([part.postings for part in self.parts], self.visible, self.vocabulary)

    @cached_property
    def field_names(self) -> set[str]:
        """That a visible passage has a value in."""
        return {name for part, mask in zip(self.parts, self.visible, strict=True) for name in part.fields.names(mask)}

    def shows(self, document_id: str) -> bool:
        """Whether any passage of this document is visible; found out by the same steps whether it is hidden or there is none."""
        return any(seen.has(document_id) for seen in self._documents)

    @cached_property
    def _documents(self) -> list[Seen]:
        return [part.fields.seen("document_id", mask) for part, mask in zip(self.parts, self.visible, strict=True)]

    def allowed(self, filters: Mapping[str, Scalar | tuple[Scalar, ...]]) -> Sequence[Array]:
        """bool (rows,) per part: the visible rows that match every field.

        Raises:
            QuarryError: `invalid_request` for a field that no visible passage has.
        """
        if not filters:
            return self.visible
        if not filters.keys() <= {*self.field_names, *BUILT_IN}:
            raise unknown_field(self.field_names)
        return [mask & part.fields.matching(filters) for part, mask in zip(self.parts, self.visible, strict=True)]

    def dense(self, question: Array, top_k: int, allowed: Sequence[Array]) -> Hits:
        """The nearest among the rows that bool (rows,) per part marks; what the graph does not have is compared exactly."""
        found, rest = [], list[Array | None](allowed)
        if self.graph:
            marked, rest = self._graph_and_rest if allowed is self.visible else self._divided(self.graph, allowed)
            found.append(self.graph.search(question, top_k, marked))
        found += [part.vectors.search(question, top_k, mask) for part, mask in zip(self.parts, rest, strict=True) if mask is not None]
        return joined(found, top_k)

    @cached_property
    def _graph_and_rest(self) -> tuple[Marked, list[Array | None]]:
        assert self.graph
        return self._divided(self.graph, self.visible)

    def _divided(self, graph: Graph, allowed: Sequence[Array]) -> tuple[Marked, list[Array | None]]:
        """What of these rows the graph has, and per part those that it has not; None for none."""
        marked = np.zeros(graph.size, bool)
        rest: list[Array | None] = []
        for part, mask in zip(self.parts, allowed, strict=True):
            has, places = graph.places(part.vectors)
            marked[places] |= mask[has]
            left = mask & ~has
            rest.append(left if left.any() else None)
        return Marked(marked), rest


def _without(rows: Array, alive: Array, gone: Array) -> Array:
    """`alive` with the rows `gone` taken out; both `rows` and `gone` ascend."""
    at = np.minimum(np.searchsorted(rows, gone), len(rows) - 1)
    left = alive.copy()
    left[at[rows[at] == gone]] = False
    return left


def _compact(parts: Sequence[Part], alive: Sequence[Array]) -> tuple[tuple[Part, ...], tuple[Array, ...]]:
    """Drop what is gone and merge what is small, as the module's docstring says."""
    counts = [int(mask.sum()) for mask in alive]
    first = len(parts)  # from here on everything becomes one part
    for at, part in enumerate(parts):
        small = at + 1 < len(parts) and counts[at] < GROWTH * sum(counts[at + 1 :])
        if small or len(part.rows) - counts[at] > GONE_SHARE * len(part.rows):
            first = at
            break
    if first == len(parts):
        return tuple(parts), tuple(alive)
    last = Part.merged(parts[first:], alive[first:])
    more = [last] if len(last.rows) else []
    return (*parts[:first], *more), (*alive[:first], *(np.ones(len(part.rows), bool) for part in more))
