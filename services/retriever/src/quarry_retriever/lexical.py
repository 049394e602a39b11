"""BM25 and TF-IDF over the passages' words, built at load: the words are the only truth they need."""

import logging
import re
from collections.abc import Sequence
from typing import Protocol

import bm25s
import numpy as np
import Stemmer
from quarry_runtime.session import Array
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer

logging.getLogger("bm25s").setLevel(logging.WARNING)

# Codes, decimals and units stay whole ("c32/40", "ms-014", "3.1"), and give their parts too.
_WORD = re.compile(r"[^\W_]+(?:[./:-][^\W_]+)*")
_PART = re.compile(r"[^\W_]+")


class LexicalIndex(Protocol):
    """Scores of all passages for a question."""

    def scores(self, question: str) -> Array:
        """float32 (passages,), 0 where no word is shared."""
        ...


class Analyser:
    """Text to index terms: lower case, stop words out, stems (Porter 2)."""

    def __init__(self) -> None:
        self._stemmer = Stemmer.Stemmer("english")

    def __call__(self, text: str) -> list[str]:
        """The terms, in order, repeated as they repeat."""
        terms = []
        for word in _WORD.findall(text.lower()):
            parts = _PART.findall(word)
            terms += [p for p in parts if p not in ENGLISH_STOP_WORDS]
            if len(parts) > 1:
                terms.append(word)
        return list(self._stemmer.stemWords(terms))


class Bm25:
    """Robertson and Zaragoza 2009, as Lucene computes it."""

    def __init__(self, texts: Sequence[Sequence[str]]) -> None:
        self._index = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
        self._known = {term for terms in texts for term in terms}
        self._size = len(texts)
        if self._known:
            self._index.index([list(t) for t in texts], show_progress=False)

    def scores(self, terms: Sequence[str]) -> Array:
        """float32 (passages,)."""
        asked = [t for t in terms if t in self._known]
        return np.asarray(self._index.get_scores(asked), np.float32) if asked else np.zeros(self._size, np.float32)


class TfIdf:
    """Cosine of sublinear tf-idf vectors (Salton and Buckley 1988)."""

    def __init__(self, texts: Sequence[Sequence[str]]) -> None:
        self._size = len(texts)
        self._vectorizer = TfidfVectorizer(analyzer=lambda terms: terms, sublinear_tf=True, dtype=np.float32)
        self._matrix = self._vectorizer.fit_transform(texts) if any(texts) else None

    def scores(self, terms: Sequence[str]) -> Array:
        """float32 (passages,)."""
        if self._matrix is None:
            return np.zeros(self._size, np.float32)
        asked = self._vectorizer.transform([terms])
        return np.asarray((self._matrix @ asked.T).todense(), np.float32).ravel()


def best(scores: Array, top_k: int, allowed: Array | None) -> list[tuple[int, float]]:
    """(row, score) of the best passages with any score, ties by row."""
    if allowed is not None:
        scores = np.where(allowed, scores, 0.0)
    order = np.lexsort((np.arange(len(scores)), -scores))[:top_k]
    return [(int(row), float(scores[row])) for row in order if scores[row] > 1e-9]
