"""Lexical search: one tokenisation, two weightings (BM25 and TF-IDF)."""

import logging
import re
import unicodedata
from collections.abc import Sequence

import bm25s
import numpy as np
import Stemmer
from bm25s.stopwords import STOPWORDS_EN
from quarry_runtime.session import Array
from sklearn.feature_extraction.text import TfidfVectorizer

logging.getLogger("bm25s").setLevel(logging.WARNING)

# Words with inner apostrophes; codes and numbers joined by . / - or a comma: "c32/40", "ms-014", "3.1", "9,500".
_TOKEN = re.compile(r"[^\W_]+(?:['.,/-][^\W_]+)*")
_PART = re.compile(r"[^\W_]+")
_GROUPED = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?\Z")
_LETTERS_DIGITS = re.compile(r"[^\W\d_]+|\d+")

# How a question asks says nothing of what it asks for; left in, these words pull towards passages that happen to hold them.
_QUESTION_WORDS = "what which who whom whose when where why how many much do does did".split()


class Analyser:
    """Text to terms, the same for passages and questions: lower case, no accents, English stop and question words out, Snowball stems.

    A token with digits or joints stays whole and also gives its parts, so that "C32/40" is found by "C32/40" (best),
    "C32" and "40", and "MS-014" by "ms 014"; "9,500" is "9500"; letters glued to digits ("8km", "TC1") give both too.
    """

    def __init__(self) -> None:
        self._stem = Stemmer.Stemmer("english").stemWord
        self._stop = frozenset([*STOPWORDS_EN, *_QUESTION_WORDS])

    def __call__(self, text: str) -> list[str]:
        """The terms, in order, repeats kept."""
        return [term for token in _TOKEN.findall(_plain(text)) for term in self._terms(token)]

    def _terms(self, token: str) -> list[str]:
        if token.isalpha():
            return [] if token in self._stop else [self._stem(token)]
        if _GROUPED.match(token):
            return [token.replace(",", "")]
        parts = [piece for part in _PART.findall(token) for piece in _pieces(part)]
        words = [self._stem(part) if part.isalpha() else part for part in parts if part not in self._stop]
        return words if token in words else [token, *words]


def _pieces(part: str) -> list[str]:
    """A part of a token, and what letters and digits it is glued together from."""
    if part.isalpha() or part.isdigit():
        return [part]
    return [part, *_LETTERS_DIGITS.findall(part)]


def _plain(text: str) -> str:
    folded = unicodedata.normalize("NFKD", text.casefold().replace("\u2019", "'"))
    return "".join(c for c in folded if not unicodedata.combining(c))


class Bm25:
    """BM25 in Lucene's variant (Kamphuis et al. 2020; Robertson & Zaragoza 2009), by bm25s."""

    def __init__(self, passages: Sequence[Sequence[str]], k1: float = 1.5, b: float = 0.75) -> None:
        self._rows = len(passages)
        self._terms: dict[str, int] = {}
        ids = [[self._terms.setdefault(term, len(self._terms)) for term in terms] for terms in passages]
        self._index = bm25s.BM25(k1=k1, b=b, method="lucene")
        if self._terms:
            self._index.index((ids, dict(self._terms)), show_progress=False)

    def scores(self, question: Sequence[str]) -> Array:
        """float32 (rows,): 0 where no term of the question stands."""
        known = [self._terms[term] for term in question if term in self._terms]
        if not known:
            return np.zeros(self._rows, np.float32)
        found: Array = self._index.get_scores_from_ids(known)
        return found


class TfIdf:
    """Cosine of TF-IDF vectors, term frequencies damped by 1 + log(tf) (scikit-learn's TfidfVectorizer)."""

    def __init__(self, passages: Sequence[Sequence[str]]) -> None:
        self._rows = len(passages)
        self._vectorizer = TfidfVectorizer(analyzer=_unchanged, sublinear_tf=True, dtype=np.float32)
        self._by_term = self._vectorizer.fit_transform(passages).T.tocsr() if any(passages) else None

    def scores(self, question: Sequence[str]) -> Array:
        """float32 (rows,): 0 where no term of the question stands."""
        if self._by_term is None:
            return np.zeros(self._rows, np.float32)
        found: Array = (self._vectorizer.transform([question]) @ self._by_term).toarray()[0]
        return found


def _unchanged(terms: Sequence[str]) -> Sequence[str]:
    return terms
