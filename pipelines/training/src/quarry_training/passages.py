"""Contexts cut into passages, and BM25 over them (Robertson and Zaragoza 2009; k1 and b as Anserini has them, which DPR's negatives used)."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

MAX_WORDS = 150
K1, B = 0.9, 0.4
QUERIES_AT_ONCE = 128
SENTENCE_END = re.compile(r"[.!?][\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])|\n\s*\n")
WORD = re.compile(r"\S+")
TERM = re.compile(r"\w+")


@dataclass(frozen=True)
class Ctx:
    """A passage as DPR's files name it. `passage_id` stands for title and text: equal ids, equal passages."""

    passage_id: str
    title: str
    text: str


def passage(title: str, text: str) -> Ctx:
    """A passage named by its content."""
    return Ctx(hashlib.sha256(f"{title}\n{text}".encode()).hexdigest()[:16], title, text)


def cut(context: str, max_words: int = MAX_WORDS) -> list[tuple[int, int]]:
    """(start, end) in characters of passages of whole sentences, at most `max_words` words each; only a longer sentence is cut inside."""
    spans: list[tuple[int, int]] = []
    start = end = words = 0
    for a, b, n in _pieces(context, max_words):
        if words and words + n > max_words:
            spans.append((start, end))
            words = 0
        start = a if not words else start
        end, words = b, words + n
    return [*spans, (start, end)] if words else spans


def _pieces(context: str, max_words: int) -> Iterator[tuple[int, int, int]]:
    """(start, end, words) of every sentence, trimmed; sentences of more than `max_words` words in parts."""
    begin = 0
    for stop in [*(m.end() for m in SENTENCE_END.finditer(context)), len(context)]:
        words = [m.span() for m in WORD.finditer(context, begin, stop)]
        for i in range(0, len(words), max_words):
            part = words[i : i + max_words]
            yield part[0][0], part[-1][1], len(part)
        begin = stop


def _terms(text: str) -> list[str]:
    return TERM.findall(text.casefold())


class Bm25:
    """BM25 over fixed texts, as one sparse matrix of term weights."""

    def __init__(self, texts: Sequence[str]) -> None:
        from sklearn.feature_extraction.text import CountVectorizer  # here, for it is slow to import

        self.vectorizer = CountVectorizer(dtype=np.float32, analyzer=_terms)
        counts = self.vectorizer.fit_transform(texts).tocoo()
        lengths = np.asarray(counts.sum(axis=1)).ravel()
        found_in = np.bincount(counts.col, minlength=counts.shape[1])
        idf = np.log1p((len(texts) - found_in + 0.5) / (found_in + 0.5))
        damping = K1 * (1 - B + B * lengths / max(float(lengths.mean()), 1.0))
        weights = idf[counts.col] * counts.data * (K1 + 1) / (counts.data + damping[counts.row])
        self.weights = sparse.csr_matrix((weights.astype(np.float32), (counts.row, counts.col)), shape=counts.shape).T.tocsr()

    def best(self, queries: Sequence[str], k: int) -> Iterator[np.ndarray[Any, Any]]:
        """For each query the indices of the (at most) `k` best texts, best first; equal scores in the order of the texts."""
        for i in range(0, len(queries), QUERIES_AT_ONCE):
            scores = (self.vectorizer.transform(queries[i : i + QUERIES_AT_ONCE]) @ self.weights).toarray()
            yield from np.argsort(-scores, axis=1, kind="stable")[:, :k]
