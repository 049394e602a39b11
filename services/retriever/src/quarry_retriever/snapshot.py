"""What the index holds at one revision, in memory, never changed: searches read one snapshot, refreshing makes the next one.

A snapshot is a few parts, each made once from rows; changes make a new small part and mark rows of older ones as gone. Parts are
merged so that each is several times larger than the next, which keeps them few and the work per change small (as in a
log-structured merge tree, O'Neil et al. 1996); rows that are gone are dropped when they are a tenth of their part.
"""

from collections import Counter
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
from .vectors import HERE, Graph, Hits, Marked, Vectors, joined

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
        rows = np.sort(np.concatenate([part.rows[mask] for part, mask in zip(parts, alive, strict=True)]))
        places = [np.where(mask, np.searchsorted(rows, part.rows), -1) for part, mask in zip(parts, alive, strict=True)]
        vectors = Vectors.merged(rows, [part.vectors for part in parts], places)
        return cls(vectors, Postings.merged([part.postings for part in parts], places), Fields.merged([part.fields for part in parts], places))

    @property
    def rows(self) -> Array:
        """int64 (rows,): their rows in the database."""
        return self.vectors.rows


class PartMaker:
    """Makes a Part of rows as they are in the database, given in blocks, ascending; vectors that the graph of their readers has stay there."""

    def __init__(self, dimension: int, analyse: Analyser, vocabulary: Vocabulary, graphs: Sequence[Graph] = ()) -> None:
        self._dimension, self._analyse, self._graphs = dimension, analyse, tuple(graphs)
        self._numbers = {graph.readers: number for number, graph in enumerate(graphs)}
        self._postings, self._fields = PostingsMaker(vocabulary), FieldsMaker()
        self._rows, self._owner, self._places = [np.zeros(0, np.int64)], [np.zeros(0, np.int16)], [np.zeros(0, np.int32)]
        self._vectors: list[Array] = []
        self._here = 0

    def add(self, rows: Sequence[Row]) -> None:
        """Some more.

        Raises:
            UntrueGraph: a graph has one with another vector than the database.
        """
        for row in rows:
            self._postings.add(self._analyse(searched_words(row.document_id, row.title, row.section, row.text)))
            self._fields.add(row)
        self._rows.append(np.array([row.row for row in rows], np.int64))
        owner, places = self._found(rows) if self._graphs else (np.full(len(rows), HERE, np.int16), np.zeros(len(rows), np.int32))
        here = np.flatnonzero(owner == HERE)
        places[here] = self._here + np.arange(len(here))
        self._here += len(here)
        self._vectors.append(np.array([rows[at].vector for at in here.tolist()], np.float32).reshape(len(here), self._dimension))
        self._owner.append(owner)
        self._places.append(places)

    def _found(self, rows: Sequence[Row]) -> tuple[Array, Array]:
        """The graph that has each, or HERE, and its place there: int16 and int32 (n,)."""
        numbers = np.array([self._numbers.get(row.principals, HERE) for row in rows], np.int16)
        owner, places = np.full(len(rows), HERE, np.int16), np.zeros(len(rows), np.int32)
        for number, graph in enumerate(self._graphs):
            asked = np.flatnonzero(numbers == number)
            ids = self._rows[-1][asked]
            has, found = graph.find(ids)
            graph.check(ids[has], lambda wanted, ids=ids, asked=asked: np.array([rows[at].vector for at in asked[np.searchsorted(ids, wanted)].tolist()]))  # type: ignore[misc]
            owner[asked[has]], places[asked[has]] = number, found
        return owner, places

    def made(self) -> Part:
        """Of all that were added."""
        rows = np.concatenate(self._rows)
        held = (np.concatenate(self._places), np.concatenate(self._owner), self._graphs) if self._graphs else ()
        return Part(Vectors(rows, self._stored(self._here), *held), self._postings.made(), self._fields.made())

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

    @cached_property
    def passages(self) -> int:
        """How many there are."""
        return sum(int(mask.sum()) for mask in self.alive)

    def changed(self, revision: int, documents: int, gone: Array, added: Part) -> "Snapshot":
        """The next one: without the rows `gone` (int64 (n,)), with those of `added`, which may be old rows whose document changed."""
        gone, more = np.union1d(gone, added.rows), [added] if len(added.rows) else []
        left = [_without(part.rows, mask, gone) for part, mask in zip(self.parts, self.alive, strict=True)]
        parts, alive = _compact([*self.parts, *more], [*left, *(np.ones(len(part.rows), bool) for part in more)])
        return Snapshot(revision, documents, self.vocabulary, parts, alive)

    @cached_property
    def view(self) -> Callable[[frozenset[str]], "View"]:
        """What a caller with these principals may see; the most recent ones are kept."""
        parts, alive, vocabulary = self.parts, self.alive, self.vocabulary  # not self: what refers to itself stays in memory for long

        def make(principals: frozenset[str]) -> View:
            return View(parts, tuple(mask & part.fields.visible(principals) for part, mask in zip(parts, alive, strict=True)), vocabulary)

        return lru_cache(VIEWS)(make)

    @property
    def graphs(self) -> tuple[Graph, ...]:
        """Those that its parts are searched by."""
        return tuple(dict.fromkeys(graph for part in self.parts for graph in part.vectors.graphs))

    def readers_above(self, above: int) -> Mapping[frozenset[str], int]:
        """The lists of readers that more than so many passages have, and how many they are."""
        if self.passages <= above:
            return {}
        total: Counter[frozenset[str]] = Counter()
        for part, mask in zip(self.parts, self.alive, strict=True):
            total.update(part.fields.count_readers(mask))
        return {readers: passages for readers, passages in total.items() if passages > above}

    def covered(self, graph: Graph) -> int:
        """How many passages it finds, or would find."""
        if graph in self.graphs:
            return sum(part.vectors.count(graph, mask) for part, mask in zip(self.parts, self.alive, strict=True))
        return int(graph.find(self.rows_of(graph.readers))[0].sum())

    def rows_of(self, readers: frozenset[str]) -> Array:
        """int64 (n,), ascending: the rows with just these readers."""
        return np.sort(np.concatenate([part.rows[mask & (part.fields.numbered([readers]) == 0)] for part, mask in zip(self.parts, self.alive, strict=True)]))

    def vectors_of(self, rows: Array) -> Array:
        """float32 (n, dimension): of these rows, which there are."""
        found = np.empty((len(rows), self.parts[0].vectors.stored.shape[1]), np.float32)
        for part, mask in zip(self.parts, self.alive, strict=True):
            at = np.minimum(np.searchsorted(part.rows, rows), len(part.rows) - 1)
            has = (part.rows[at] == rows) & mask[at]
            found[has] = part.vectors.values(at[has])
        return found

    def with_graphs(self, graphs: Sequence[Graph]) -> "Snapshot":
        """The same, searched by these graphs, each over vectors of documents with its readers; other vectors are compared."""
        readers = [graph.readers for graph in graphs]
        vectors = [part.vectors.based(graphs, part.fields.numbered(readers), mask) for part, mask in zip(self.parts, self.alive, strict=True)]
        return replace(self, parts=tuple(replace(part, vectors=based) for part, based in zip(self.parts, vectors, strict=True)))


@dataclass(frozen=True, eq=False)
class View:
    """The parts, and which of their rows one caller may see: bool (rows,) per part."""

    parts: tuple[Part, ...]
    visible: tuple[Array, ...]
    vocabulary: Vocabulary

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
        """The nearest among the rows that bool (rows,) per part marks; what no graph has is compared exactly."""
        marked, rest = self._all_divided if allowed is self.visible else self._divided(allowed)
        found = [graph.search(question, top_k, places) for graph, places in marked]
        found += [part.vectors.search(question, top_k, mask) for part, mask in zip(self.parts, rest, strict=True) if mask is not None]
        return joined(found, top_k)

    @cached_property
    def _all_divided(self) -> tuple[list[tuple[Graph, Marked]], list[Array | None]]:
        return self._divided(self.visible)

    def _divided(self, allowed: Sequence[Array]) -> tuple[list[tuple[Graph, Marked]], list[Array | None]]:
        """Which of these rows each graph finds, and per part those that none does; None for no row."""
        marked: dict[Graph, Array] = {}
        rest: list[Array | None] = []
        for part, mask in zip(self.parts, allowed, strict=True):
            found, left = part.vectors.divided(mask)
            for graph, places in found:
                marked.setdefault(graph, np.zeros(graph.size, bool))[places] = True
            rest.append(left if left.any() else None)
        return [(graph, Marked(places)) for graph, places in marked.items()], rest


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
