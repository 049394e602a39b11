"""What lexical search looks at in a passage, and its terms: the same for the retriever and for what ingestion writes to a vector store.

PyStemmer is installed by those two projects only.
"""

import re
import unicodedata
from functools import lru_cache
from itertools import chain

import Stemmer

TOKENS_KEPT = 2**16  # whose terms are remembered: most words are the same few

# Words with inner apostrophes; codes and numbers joined by . / - or a comma: "c32/40", "ms-014", "3.1", "9,500".
_TOKEN = re.compile(r"[^\W_]+(?:['.,/-][^\W_]+)*")
_PART = re.compile(r"[^\W_]+")
_GROUPED = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?\Z")
_LETTERS_DIGITS = re.compile(r"[^\W\d_]+|\d+")

# Lucene's English stop words.
_STOP_WORDS = "a an and are as at be but by for if in into is it no not of on or such that the their then there these they this to was will with".split()
# How a question asks says nothing of what it asks for; left in, these words pull towards passages that happen to hold them.
_QUESTION_WORDS = "what which who whom whose when where why how many much do does did".split()


class Analyser:
    """Text to terms, the same for passages and questions: lower case, no accents, English stop and question words out, Snowball stems.

    A token with digits or joints stays whole and also gives its parts, so that "C32/40" is found by "C32/40" (best),
    "C32" and "40", and "MS-014" by "ms 014"; "9,500" is "9500"; letters glued to digits ("8km", "TC1") give both too.
    """

    def __init__(self, kept: int = TOKENS_KEPT) -> None:
        """The terms of so many tokens are remembered."""
        self._stem = Stemmer.Stemmer("english").stemWord
        self._stop = frozenset([*_STOP_WORDS, *_QUESTION_WORDS])
        self._terms = lru_cache(kept)(self._terms_of)

    def __call__(self, text: str) -> list[str]:
        """The terms, in order, repeats kept."""
        return list(chain.from_iterable(map(self._terms, _TOKEN.findall(_plain(text)))))

    def _terms_of(self, token: str) -> list[str]:
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
    if text.isascii():
        return text.lower()
    folded = unicodedata.normalize("NFKD", text.casefold().replace("\u2019", "'"))
    return "".join(c for c in folded if not unicodedata.combining(c))


def searched_words(document_id: str, title: str, section: str | None, text: str) -> str:
    """A passage as lexical search sees it: file name, title and section name the subject, number and revision that the passage itself leaves out."""
    return " \n ".join(part for part in (document_id, title, section, text) if part)
