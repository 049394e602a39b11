"""An index that follows its writer, for tests: what each of them holds, and every answer of one."""

import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from quarry_contract.errors import QuarryError
from quarry_contract.messages import Retrieval, SearchRequest
from quarry_runtime.encode import Encoder

from quarry_retriever.index import Encode, Index
from quarry_retriever.search import Searcher

from .making import WORDS, Document, Writer, make_index

RETRIEVALS = get_args(Retrieval)
CALLERS: tuple[tuple[str, ...], ...] = ((), ("group:a",), ("user:x", "group:b"), ("group:a", "group:b"))
QUESTIONS = ("crane wind speed", "fire plan at the gate")
ACCESS = (("*",), ("*",), ("group:a",), ("group:b", "user:y"), ("user:x",), ())


@pytest.fixture(scope="module")
def encoder(model_dir: Path) -> Encoder:
    return Encoder.load(model_dir)


def remembered(encode: Encode) -> Encode:
    """Of the same few questions, asked hundreds of times, the vectors are made once."""
    known: dict[str, np.ndarray] = {}

    def encoded(texts: Sequence[str]) -> np.ndarray:
        new = [text for text in texts if text not in known]
        known.update(zip(new, encode(new) if new else (), strict=True))
        return np.stack([known[text] for text in texts])

    return encoded


class Followed:
    """A real index folder, its writer, and an index that follows it."""

    def __init__(self, folder: Path, model_dir: Path, encoder: Encoder, documents: tuple[Document, ...], exact_up_to: int = 50_000) -> None:
        self.folder = make_index(folder, model_dir, documents)
        self._digest, self._encode = encoder.manifest.digest, remembered(encoder.encode)
        self.writer = Writer(folder, encoder.encode)
        self._exact_up_to = exact_up_to
        self.index = self.open()
        self.searcher = self.searcher_of(self.index)

    def open(self) -> Index:
        return Index.open(self.folder, self._digest, self._encode, self._exact_up_to)

    def searcher_of(self, index: Index) -> Searcher:
        return Searcher(index, self._encode, "tiny@1")

    def found(self, question: str, *principals: str, retrieval: str = "bm25", **more: Any) -> list[str]:
        request = SearchRequest(question, 100, retrieval, principals=principals, **more)  # type: ignore[arg-type]
        return sorted({p.passage.document_id for p in self.searcher.search(request).passages})


Make = Callable[..., Followed]


@pytest.fixture
def make(tmp_path: Path, model_dir: Path, encoder: Encoder) -> Iterator[Make]:
    made: list[Followed] = []

    def one(*documents: Document, exact_up_to: int = 50_000) -> Followed:
        made.append(Followed(tmp_path / str(len(made)), model_dir, encoder, documents, exact_up_to))
        return made[-1]

    yield one
    for followed in made:
        followed.index.close()
        followed.writer.close()


def answer(searcher: Searcher, request: SearchRequest) -> str:
    """The whole answer, or the error, as it goes over the wire."""
    try:
        return json.dumps(searcher.search(request).to_dict())
    except QuarryError as error:
        return json.dumps(error.to_problem("r"))


def everything(searcher: Searcher, callers: tuple[tuple[str, ...], ...] = CALLERS, questions: Sequence[str] = QUESTIONS) -> list[str]:
    """Answers to all kinds of searches by several callers."""
    filters: list[dict[str, Any]] = [{}, {"kind": ("report", "plan")}, {"secret": 1}, {"page": 1}]
    asked = [(q, r, f, p) for q in questions for r in RETRIEVALS for f in filters for p in callers]
    return [answer(searcher, SearchRequest(q, 10, r, f, p)) for q, r, f, p in asked]


def some_document(choose: random.Random, name: str) -> Document:
    texts = [" ".join(choose.choices(WORDS, k=choose.randint(3, 12))) for _ in range(choose.randint(1, 4))]
    metadata: dict[str, Any] = {"kind": choose.choice(["report", "plan", "letter"])} | ({"secret": 1} if choose.random() < 0.1 else {})
    return Document(name, choose.choice(WORDS), "\n\n".join(texts), metadata, ("Wind",), choose.choice(ACCESS))


def until(true: Callable[[], bool]) -> None:
    limit = time.monotonic() + 60
    while not true():
        assert time.monotonic() < limit, "did not happen in time"
        time.sleep(0.02)
