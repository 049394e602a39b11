"""Lexical search: one tokenisation (quarry_runtime.terms), two weightings (BM25 and TF-IDF), both over the passages the caller may see and no others."""

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from quarry_runtime.session import Array

K1, B = 1.5, 0.75
MAX_COUNT = 2**16 - 1  # of a term in a passage, which has a few hundred words
UNKNOWN = -1  # the number of a term that no passage ever had
# 1 + ln(count); looked up, so that equal counts weigh the same to the last bit wherever they stand in an array.
_DAMPED = np.array([0.0, *(1 + math.log(count) for count in range(1, MAX_COUNT + 1))])
_SQUARED = (_DAMPED**2).tolist().__getitem__


class _Numbers(dict[str, int]):
    def __missing__(self, term: str) -> int:
        number = self[term] = len(self)
        return number


class Vocabulary:
    """Terms to numbers. Only grows, by one thread; others may look terms up meanwhile."""

    def __init__(self) -> None:
        self._number = _Numbers()

    def add(self, terms: Iterable[str]) -> Iterator[int]:
        """Each term's number, a new one if need be."""
        return map(self._number.__getitem__, terms)

    def find(self, term: str) -> int:
        """The term's number; UNKNOWN when no passage ever had it."""
        return self._number.get(term, UNKNOWN)


@dataclass(frozen=True, eq=False)
class Postings:
    """Which passages have which term how often: of the term `terms[i]`, the slice `starts[i]:starts[i + 1]` of `rows` and `counts`."""

    terms: Array  # int32 (terms,), ascending
    starts: Array  # int64 (terms + 1,)
    rows: Array  # int32 (entries,), ascending within a term
    counts: Array  # uint16 (entries,)
    lengths: Array  # int64 (rows,): in terms, repeats counted
    norms: Array  # float64 (rows,): Euclidean length of the damped counts

    @classmethod
    def merged(cls, parts: Sequence["Postings"], places: Sequence[Array]) -> "Postings":
        """`places`: int64 (rows,) per part, the row each one gets, -1 for those left out. The rows given out are 0, 1, 2 ..."""
        kept = [(place >= 0)[part.rows] for part, place in zip(parts, places, strict=True)]
        terms = [np.repeat(part.terms, np.diff(part.starts))[keep] for part, keep in zip(parts, kept, strict=True)]
        rows = [place[part.rows[keep]] for part, place, keep in zip(parts, places, kept, strict=True)]
        counts = [part.counts[keep] for part, keep in zip(parts, kept, strict=True)]
        lengths, norms = (arranged([getattr(part, name) for part in parts], places) for name in ("lengths", "norms"))
        return cls.sorted(np.concatenate(terms), np.concatenate(rows), np.concatenate(counts), lengths, norms)

    @classmethod
    def sorted(cls, terms: Array, rows: Array, counts: Array, lengths: Array, norms: Array) -> "Postings":
        """Of (term, row, count) in any order."""
        ascending = bool((rows[1:] >= rows[:-1]).all())
        order = np.argsort(terms, kind="stable") if ascending else np.lexsort((rows, terms))
        terms = terms[order]
        first = np.flatnonzero(np.diff(terms, prepend=-1))
        return cls(terms[first], np.append(first, len(order)), rows[order].astype(np.int32, copy=False), counts[order], lengths, norms)

    def having(self, term: int) -> tuple[Array, Array]:
        """Rows (int64, as numpy wants to look things up) and counts of a term; empty when no row has it, by the same steps."""
        first, last = np.searchsorted(self.terms, np.array((term, term + 1), self.terms.dtype))
        found = slice(self.starts[first], self.starts[last])
        return self.rows[found].astype(np.int64), self.counts[found]


class PostingsMaker:
    """Makes Postings of passages given one after the other as their terms."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._numbers, self._counts, self._sizes, self._lengths, self._norms = array("i"), array("H"), array("q"), array("q"), array("d")

    def add(self, terms: Sequence[str]) -> None:
        """One more."""
        counted = Counter(terms)
        counts = [min(count, MAX_COUNT) for count in counted.values()] if len(terms) > MAX_COUNT else counted.values()
        self._numbers.extend(self._vocabulary.add(counted))
        self._counts.extend(counts)
        self._sizes.append(len(counted))
        self._lengths.append(len(terms))
        self._norms.append(math.sqrt(math.fsum(map(_SQUARED, counts))))

    def made(self) -> Postings:
        """Of all that were added."""
        rows = np.repeat(np.arange(len(self._sizes), dtype=np.int32), self._sizes)
        return Postings.sorted(np.asarray(self._numbers), rows, np.asarray(self._counts), np.asarray(self._lengths), np.asarray(self._norms))


@dataclass(frozen=True, eq=False)
class Collection:
    """The passages one caller may see, and how the question's terms weigh in them: the hidden ones count nowhere."""

    postings: Sequence[Postings]
    visible: Sequence[Array]  # bool (rows,) per part
    vocabulary: Vocabulary

    @cached_property
    def passages(self) -> int:
        """How many there are."""
        return sum(int(mask.sum()) for mask in self.visible)

    @cached_property
    def terms(self) -> int:
        """The length of all of them."""
        return sum(int(part.lengths[mask].sum()) for part, mask in zip(self.postings, self.visible, strict=True))

    @cached_property
    def _damping(self) -> list[Array]:
        """float64 (rows,) per part: what BM25 adds to a count, more in long passages."""
        return [K1 * (1 - B + B * part.lengths / (self.terms / self.passages)) for part in self.postings]

    @cached_property
    def _all_visible(self) -> list[bool]:
        return [bool(mask.all()) for mask in self.visible]

    def bm25(self, question: Sequence[str]) -> list[Array]:
        """BM25 in Lucene's variant (Kamphuis et al. 2020; Robertson & Zaragoza 2009): float32 (rows,) per part, 0 where no term of the question stands."""

        def weight(found: _Found) -> Iterator[Array]:
            for damping, (rows, counts) in zip(self._damping, found.entries, strict=True):
                yield found.repeats * self._idf(found) * counts / (counts + damping[rows])

        return self._scores([(found, weight(found)) for found in self._found(question)])

    def telling(self, question: Sequence[str]) -> dict[str, float]:
        """How telling each of the question's terms is: BM25's idf, times how often it stands there, as shares of 1. Empty where none is known."""
        weights = {found.term: found.repeats * self._idf(found) for found in self._found(question)}
        total = math.fsum(weights.values())
        return {term: weight / total for term, weight in weights.items()}

    def _idf(self, found: "_Found") -> float:
        return math.log(1 + (self.passages - found.passages + 0.5) / (found.passages + 0.5))

    def tfidf(self, question: Sequence[str]) -> list[Array]:
        """Cosine of TF-IDF vectors, SMART lnc.ltc (Manning, Raghavan & Schütze 2008, 6.4.3), idf smoothed as 1 + ln((1 + N) / (1 + df)).

        float32 (rows,) per part, 0 where no term of the question stands. Without idf on the passages' side their norms are
        the same whoever asks.
        """
        asked = self._found(question)
        weights = [float(_damped(found.repeats)) * (1 + math.log((1 + self.passages) / (1 + found.passages))) for found in asked]
        norm = math.sqrt(math.fsum(w * w for w in weights))

        def weight(found: _Found, own: float) -> Iterator[Array]:
            for part, (rows, counts) in zip(self.postings, found.entries, strict=True):
                yield own / norm * _damped(counts) / part.norms[rows]

        return self._scores([(found, weight(found, own)) for found, own in zip(asked, weights, strict=True)])

    def _found(self, question: Sequence[str]) -> list["_Found"]:
        """The question's terms that stand in a visible passage, in the question's order: so the sums are the same to the last bit, whatever is hidden.

        The same steps are taken for a term that only hidden passages have and for one that none has: time must not tell them apart.
        """
        found = []
        for term, repeats in Counter(question).items():
            number = self.vocabulary.find(term)
            each = zip(self.postings, self.visible, self._all_visible, strict=True)
            entries = [part.having(number) if every else _among(part, mask, number) for part, mask, every in each]
            passages = sum(len(rows) for rows, _ in entries)
            if passages:
                found.append(_Found(term, repeats, passages, entries))
        return found

    def _scores(self, weighted: Sequence[tuple["_Found", Iterator[Array]]]) -> list[Array]:
        totals = [np.zeros(len(mask), np.float64) for mask in self.visible]
        for found, weights in weighted:
            for total, (rows, _), weight in zip(totals, found.entries, weights, strict=True):
                total[rows] += weight  # a term has a row once
        return [total.astype(np.float32) for total in totals]


@dataclass(frozen=True, eq=False)
class _Found:
    """A term of the question: how often it stands there, in how many visible passages it stands, and per part in which, how often."""

    term: str
    repeats: int
    passages: int
    entries: Sequence[tuple[Array, Array]]


def _damped(counts: Array | int) -> Array:
    return _DAMPED[np.minimum(counts, len(_DAMPED) - 1)]


def _among(part: Postings, visible: Array, term: int) -> tuple[Array, Array]:
    rows, counts = part.having(term)
    seen = visible[rows]
    return rows[seen], counts[seen]


def arranged(values: Sequence[Array], places: Sequence[Array]) -> Array:
    """One array of several: `values` (rows, ...) per part, each row put where `places` says, those with -1 left out."""
    result = np.empty((sum(int((place >= 0).sum()) for place in places), *values[0].shape[1:]), values[0].dtype)
    for value, place in zip(values, places, strict=True):
        result[place[place >= 0]] = value[place >= 0]
    return result
