"""Documents of any number, made from the sample corpus's vocabulary and structure, with made-up vectors: the same for the same number.

A document is sections of `examples/documents` put together anew: headings as they are, in every sentence some words replaced by others of the
corpus and every digit by another. Vectors are not an encoder's: they are fields, topics, documents and passages nested in each other, with
variances that fall off as those of encoders do, of length 1.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import numpy as np
from quarry_runtime.session import Array

from quarry_ingestion.blocks import Document
from quarry_ingestion.chunk import sentence_spans
from quarry_ingestion.extract import extract, preload

EXAMPLES = Path(__file__).parents[3] / "examples" / "documents"
DIMENSION = 384
REPLACED = 0.25  # of a sentence's words
SECTIONS = 30  # of a document, so that it has about as many passages
FIELDS, TOPICS = 20, 2000


@dataclass(frozen=True)
class Corpus:
    """What documents are made of: (heading, sentences as words) of each section, and all words as often as they stand there."""

    sections: Sequence[tuple[str, Sequence[Sequence[str]]]]
    words: Sequence[str]

    @classmethod
    def read(cls) -> "Corpus":
        """From the sample corpus."""
        preload()
        sections = [section for path in sorted(EXAMPLES.iterdir()) for section in _sections(extract(path, EXAMPLES))]
        return cls(sections, [word for _, sentences in sections for sentence in sentences for word in sentence])

    def document(self, number: int, version: int = 1) -> Document:
        """The document of this number; another version of it has other words."""
        choose = random.Random(f"{number}/{version}")  # noqa: S311 - the same documents each time
        parts, starts, length = [], [], 0
        for heading, sentences in choose.choices(self.sections, k=SECTIONS):
            text = f"{heading}\n\n{' '.join(self._sentence(choose, words) for words in sentences)}"
            starts.append((heading, length))
            parts.append(text)
            length += len(text) + 2
        text = "\n\n".join(parts)
        title = f"Document {number:06} {starts[0][0]}"
        return Document(f"made/{number:06}.txt", sha256(text.encode()).hexdigest(), title, "made", "text/plain", text, (), tuple(starts), {"format": "txt"})

    def _sentence(self, choose: random.Random, words: Sequence[str]) -> str:
        """One like it."""
        mixed = [choose.choice(self.words) if choose.random() < REPLACED else word for word in words[:-1]]
        return re.sub(r"\d", lambda _: choose.choice("0123456789"), " ".join([*mixed, words[-1]]))


def _sections(document: object) -> Iterator[tuple[str, Sequence[Sequence[str]]]]:
    assert isinstance(document, Document), document
    starts = [*document.sections, ("", len(document.text))]
    for (heading, start), (_, end) in pairwise(starts):
        body = document.text[start:end].removeprefix(heading)
        sentences = [body[a:b].split() for a, b in sentence_spans(body)]
        if sentences and heading:
            yield heading, sentences


class Vectors:
    """The vectors of each document's passages."""

    @cached_property
    def _spread(self) -> Array:
        return (np.arange(DIMENSION, dtype=np.float32) + 1) ** -0.5

    @cached_property
    def _turn(self) -> Array:
        turned, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(DIMENSION, DIMENSION)))
        return turned.astype(np.float32)

    @cached_property
    def _topics(self) -> Array:
        make = np.random.default_rng(2)
        fields = make.normal(size=(FIELDS, DIMENSION))
        return (fields[np.arange(TOPICS) % FIELDS] + make.normal(size=(TOPICS, DIMENSION))).astype(np.float32)

    def of(self, number: int, passages: int) -> Array:
        """float32 (passages, DIMENSION)."""
        make = np.random.default_rng([3, number])
        centre = self._topics[make.integers(TOPICS)] + _normal(make, 1)
        mixed = centre + _normal(make, passages)
        made = (mixed * self._spread) @ self._turn
        return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True))


def _normal(make: np.random.Generator, rows: int) -> Array:
    return make.standard_normal((rows, DIMENSION), np.float32)
