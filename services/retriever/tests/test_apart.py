"""What is searched by graphs depends on no hidden document: two worlds, one with documents that the callers may not read, one without.

Graphs are approximate, so each must hold nothing else than what who searches it may read. A search depth of 1 makes a few thousand vectors miss what
hundreds of thousands miss at the real one.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quarry_contract.messages import SearchRequest
from quarry_runtime.encode import Encoder

from quarry_retriever import vectors
from quarry_retriever.index import Index
from quarry_retriever.search import Searcher

from .following import RETRIEVALS, Followed, answer
from .making import WORDS, Document

LIMIT = 400
ALL, TEAM, HIDDEN = ("*",), ("group:a", "group:b"), ("group:z",)
CALLERS: tuple[tuple[str, ...], ...] = ((), ("group:a",), ("group:b", "user:x"))
Step = tuple[str, Any]


def documents(choose: random.Random, name: str, count: int, principals: tuple[str, ...]) -> list[Document]:
    """With twenty passages each."""
    texts = [["\n\n".join(" ".join(choose.choices(WORDS, k=choose.randint(3, 12))) for _ in range(20))] for _ in range(count)]
    return [Document(f"{name}{n}", choose.choice(WORDS), text, {"kind": choose.choice(["report", "plan"])}, (), principals) for n, [text] in enumerate(texts)]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory, model_dir: Path, encoder: Encoder) -> Iterator[tuple[Followed, Followed]]:
    """With what is hidden strewn in between, and without."""
    choose = random.Random(3)
    shown = [*documents(choose, "all", 60, ALL), *documents(choose, "team", 40, TEAM), *documents(choose, "b", 5, ("group:b",))]
    choose.shuffle(shown)
    hidden = [*documents(choose, "hidden", 60, HIDDEN), *documents(choose, "few", 5, ("user:z", "group:z"))]
    both = list(shown)
    for document in hidden:
        both.insert(choose.randrange(len(both)), document)
    made = [Followed(tmp_path_factory.mktemp("world"), model_dir, encoder, tuple(some), LIMIT) for some in (both, shown)]
    yield made[0], made[1]
    for world in made:
        world.index.close()
        world.writer.close()


def told(world: Followed, index: Index, callers: tuple[tuple[str, ...], ...] = CALLERS) -> list[str]:
    """All that each caller is answered, in every way that looks at vectors and in those that do not."""
    searcher: Searcher = world.searcher_of(index)
    filters: tuple[dict[str, Any], ...] = ({}, {"kind": "plan"}, {"document_id": ("all3", "hidden4", "team5")})
    questions = [" ".join(random.Random(n).choices(WORDS, k=4)) for n in range(8)]
    asked = [(q, k, r, f, c) for q in questions for k in (1, 5) for r in RETRIEVALS for f in filters for c in callers]
    return [answer(searcher, SearchRequest(q, k, r, f, c)) for q, k, r, f, c in asked]  # type: ignore[arg-type]


def sizes(index: Index) -> dict[frozenset[str], int]:
    return {graph.readers: graph.size for graph in index.snapshot.graphs}


@pytest.mark.parametrize("when", ["opened", "followed"])
def test_no_answer_depends_on_hidden_vectors(worlds: tuple[Followed, Followed], monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    exact = told(worlds[1], worlds[1].open()) if when == "opened" else []
    monkeypatch.setattr(vectors, "SEARCH_DEPTH", 1)
    indexes = [world.open() for world in worlds]
    for index in indexes:
        index.tend_graphs()
    assert sizes(indexes[0]).keys() - sizes(indexes[1]).keys() == {frozenset(HIDDEN)}
    if when == "followed":  # hidden documents come, change and go; one more of each kind comes to both
        choose = random.Random(4)
        for document in documents(choose, "later", 30, HIDDEN):
            worlds[0].writer.put(document)
            indexes[0].refresh()
            indexes[0].tend_graphs()
        worlds[0].writer.delete("hidden1")
        worlds[0].writer.update("hidden2", principals=json.dumps(["group:y"]))
        for name, readers in (("new-all", ALL), ("new-team", TEAM)):
            for document in documents(choose, name, 25, readers):
                for world in worlds:
                    world.writer.put(document)
        for index in indexes:
            index.refresh()
            index.tend_graphs()
    with_them, without = (told(world, index) for world, index in zip(worlds, indexes, strict=True))
    assert with_them == without
    assert told(worlds[0], indexes[0], (HIDDEN,)) != told(worlds[1], indexes[1], (HIDDEN,))
    if when == "opened":
        assert without != exact, "the graphs do miss some: else nothing is tested"


def test_who_sees_few_of_many_lists_of_readers_is_answered_well(worlds: tuple[Followed, Followed]) -> None:
    index = worlds[0].open()
    index.tend_graphs()
    choose, snapshot, found, asked = random.Random(5), index.snapshot, 0, 0
    for principals in [(), ("group:b",), ("group:z",), ("group:a", "user:z")]:
        view = snapshot.view(frozenset(principals))
        for _ in range(20):
            question = snapshot.vectors_of(np.array([choose.choice(snapshot.parts[0].rows)]))[0]
            hits = view.dense(question, 10, view.visible)
            rows = np.sort(np.concatenate([part.rows[mask] for part, mask in zip(view.parts, view.visible, strict=True)]))
            truth = vectors.compared(rows, snapshot.vectors_of(rows), question, 10)
            assert len(hits.rows) == 10 and np.isin(hits.rows, rows).all()
            found, asked = found + len(np.intersect1d(hits.rows, truth.rows)), asked + 10
    assert found >= 0.98 * asked
