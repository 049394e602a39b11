"""Texts that are the same or nearly so: what must not stand on both sides of a split.

Near means that most word 5-shingles of the shorter text stand in the longer one: containment, Broder 1997, "On the
resemblance and containment of documents". Shingles are 64-bit hashes in an inverted index, so only texts that share some are compared.
"""

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import sparse

SHINGLE = 5
MIN_SHINGLES = 6  # shorter texts are compared as wholes: five words in common say nothing
NEAR = 0.8
# A shingle in more texts than this (a licence, a form) is compared with its first text only, which keeps the index linear.
COMMON = 64
EXAMPLES = 20  # pairs and ids shown of each kind
WORD = re.compile(r"\w+")
MULTIPLIERS = np.array([pow(0x9E3779B97F4A7C15, i + 1, 1 << 64) for i in range(SHINGLE)], np.uint64)

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Item:
    """A question as leakage sees it: its id, its answers' texts (none: unanswerable) and the contexts it is answered from."""

    id: str
    question: str
    answers: tuple[str, ...]
    contexts: tuple[str, ...]


@dataclass
class Leaks:
    """Held-out questions that training has seen, by kind; `pairs` names some as (training id, held-out id)."""

    questions: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    pairs: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def add(self, kind: str, train: str, held_out: str) -> None:
        """Count a leak of this kind and keep its pair, if not many are kept already."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        shown = self.pairs.setdefault(kind, [])
        if len(shown) < EXAMPLES:
            shown.append((train, held_out))


def leaks(train: Sequence[Item], held_out: Sequence[Item]) -> Leaks:
    """Held-out questions with a context of the training side (same words, or near), or with its question and answer."""
    found = Leaks()
    leaking = set()
    near = _near_contexts(train, held_out)
    words = {c: _words(c) for c in {c for i in (*train, *held_out) for c in i.contexts}}
    contexts = _first_ids((words[c], i.id) for i in train for c in i.contexts)
    asked = _first_ids((key, i.id) for i in train if (key := _asked(i)))
    for item in held_out:
        same = next((contexts[words[c]] for c in item.contexts if words[c] in contexts), None)
        other = next((near[c] for c in item.contexts if c in near), None)
        question = asked.get(_asked(item))
        for kind, twin in (("same_context", same), ("near_context", other if same is None else None), ("same_question_and_answer", question)):
            if twin is not None:
                found.add(kind, twin, item.id)
                leaking.add(item.id)
    found.questions = len(leaking)
    return found


def repeats(train: Sequence[Item], held_out: Sequence[Item]) -> list[bool]:
    """Whether each training question is asked, with the same answer, on the held-out side."""
    asked = {key for i in held_out if (key := _asked(i))}
    return [_asked(i) in asked for i in train]


def groups(texts: Sequence[str], labels: Sequence[str]) -> list[int]:
    """A group number for each text: texts of one label, of the same words, or near each other share it, and so do their neighbours."""
    parent = list(range(len(texts)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[tuple[str, str], int] = {}
    for i, (text, label) in enumerate(zip(texts, labels, strict=True)):
        for key in (("label", label), ("words", _words(text))):
            parent[root(i)] = root(first.setdefault(key, i))
    for i, j, _ in near_pairs(texts):
        parent[root(i)] = root(j)
    return [root(i) for i in range(len(texts))]


def near_pairs(texts: Sequence[str], threshold: float = NEAR) -> Iterator[tuple[int, int, float]]:
    """(i, j, containment) with i < j for texts of which the shorter stands in the longer by at least `threshold`."""
    sets = [shingles(t) for t in texts]
    sizes = np.array([len(s) for s in sets])
    if sizes.sum() == 0:
        return
    pairs, shared = _candidates(sets, sizes)
    for (i, j), most in zip(pairs.tolist(), shared.tolist(), strict=True):
        smaller = int(min(sizes[i], sizes[j]))
        if most < threshold * smaller:
            continue
        containment = len(np.intersect1d(sets[i], sets[j], assume_unique=True)) / smaller
        if containment >= threshold:
            yield i, j, containment


def shingles(text: str) -> Array:
    """Sorted, distinct 64-bit hashes of the text's word 5-shingles; none if it has fewer than MIN_SHINGLES."""
    words = WORD.findall(text.casefold())
    if len(words) < SHINGLE + MIN_SHINGLES - 1:
        return np.zeros(0, np.uint64)
    known = {w: zlib.crc32(w.encode("utf-8", "surrogatepass")) for w in set(words)}
    codes = np.array([known[w] for w in words], np.uint64)
    codes = (codes ^ (codes >> np.uint64(15))) * np.uint64(0xD6E8FEB86659FD93)
    windows = np.lib.stride_tricks.sliding_window_view(codes, SHINGLE)
    return np.unique((windows * MULTIPLIERS).sum(axis=1, dtype=np.uint64))


def _candidates(sets: Sequence[Array], sizes: Array) -> tuple[Array, Array]:
    """Pairs that share shingles, (n, 2), and an upper bound of how many each shares."""
    _, column = np.unique(np.concatenate(sets), return_inverse=True)
    row = np.repeat(np.arange(len(sets)), sizes)
    frequency = np.bincount(column)
    common = frequency[column] > COMMON
    light = sparse.csr_matrix((np.ones(int((~common).sum()), np.int32), (row[~common], column[~common])), shape=(len(sets), len(frequency)))
    together = sparse.triu(light @ light.T, k=1).tocoo()
    first = np.full(len(frequency), len(sets))
    np.minimum.at(first, column[common], row[common])
    starred = np.stack([first[column[common]], row[common]], axis=1)
    starred = np.unique(starred[starred[:, 0] < starred[:, 1]], axis=0)
    pairs = np.concatenate([np.stack([together.row, together.col], axis=1), starred])
    shared = np.concatenate([together.data, np.zeros(len(starred), np.int32)])
    pairs, inverse = np.unique(pairs, axis=0, return_inverse=True)
    total = np.bincount(inverse.ravel(), shared, minlength=len(pairs))
    heavy = np.bincount(row[common], minlength=len(sets))
    return pairs, total + np.minimum(heavy[pairs[:, 0]], heavy[pairs[:, 1]])


def _near_contexts(train: Sequence[Item], held_out: Sequence[Item]) -> dict[str, str]:
    """Held-out contexts near one of the training side: context -> a training question's id."""
    seen = _first_ids((c, i.id) for i in train for c in i.contexts)
    unseen = list(dict.fromkeys(c for i in held_out for c in i.contexts if c not in seen))
    texts = [*seen, *unseen]
    near: dict[str, str] = {}
    for i, j, _ in near_pairs(texts):
        if i < len(seen) <= j:
            near.setdefault(texts[j], seen[texts[i]])
    return near


def _first_ids(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, name in pairs:
        found.setdefault(key, name)
    return found


def _asked(item: Item) -> str:
    """Question and answers without regard to case, punctuation and order; empty for unanswerable questions."""
    return f"{_words(item.question)}?{sorted({_words(a) for a in item.answers})}" if item.answers else ""


def _words(text: str) -> str:
    return " ".join(WORD.findall(text.casefold()))
