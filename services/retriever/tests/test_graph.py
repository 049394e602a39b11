"""The graph over the vectors of an index that is followed: the writer's, or one of our own."""

import random
from hashlib import sha256

import faiss
import numpy as np
import pytest
from quarry_runtime.encode import Encoder

from .following import Make, everything, some_document, until
from .making import DIMENSION, DOCUMENTS


def test_more_vectors_than_are_compared_get_a_graph_and_keep_it_up(make: Make) -> None:
    choose = random.Random(6)
    followed = make(*[some_document(choose, f"d{n}") for n in range(30)], exact_up_to=40)
    assert followed.index.snapshot.graph is None
    followed.index.follow()
    until(lambda: followed.index.snapshot.graph is not None)
    graph = followed.index.snapshot.graph
    assert graph is not None and followed.index.snapshot.covered(graph) == followed.index.snapshot.passages
    for n in range(30, 60):
        followed.writer.put(some_document(choose, f"d{n}"))
    until(lambda: followed.index.snapshot.revision == 60 and followed.index.snapshot.graph not in (None, graph))
    for n in range(55):
        followed.writer.delete(f"d{n}")
    until(lambda: followed.index.snapshot.revision == 115 and followed.index.snapshot.graph is None)


@pytest.mark.parametrize("damage", ["none", "digest", "missing", "elsewhere"])
def test_the_writers_graph_is_used_when_it_is_whole(make: Make, encoder: Encoder, damage: str) -> None:
    followed = make(*DOCUMENTS, exact_up_to=40)
    part = followed.index.snapshot.parts[0]
    made = faiss.IndexIDMap2(faiss.IndexHNSWFlat(DIMENSION, 16, faiss.METRIC_INNER_PRODUCT))
    made.add_with_ids(part.vectors.stored[:30], part.rows[:30])
    faiss.write_index(made, str(followed.folder / "graph"))
    digest = sha256((followed.folder / "graph").read_bytes()).hexdigest()
    if damage == "missing":
        (followed.folder / "graph").unlink()
    name = f"../{followed.folder.name}/graph" if damage == "elsewhere" else "graph"
    with followed.writer.change() as (database, revision):
        database.execute("INSERT INTO graphs VALUES (?, ?, 30, ?)", (name, revision, "0" * 64 if damage == "digest" else digest))
    exact = everything(followed.searcher)
    followed.index.tend_graph()
    graph = followed.index.snapshot.graph
    assert graph is not None and graph.size == (30 if damage == "none" else 49)
    assert np.isin(part.rows[:30], part.rows[graph.places(part.vectors)[0]]).all()
    assert everything(followed.searcher) == exact  # the nineteen others are compared one by one


@pytest.mark.parametrize("true", [True, False])
def test_a_start_takes_the_writers_graph_and_keeps_its_vectors_once(make: Make, true: bool) -> None:
    choose = random.Random(7)
    followed = make(*[some_document(choose, f"d{n}") for n in range(60)], exact_up_to=40)
    part = followed.index.snapshot.parts[0]
    stored = part.vectors.stored.copy()
    if not true:
        stored[-1] = -stored[-1]  # and a digest that says so
    made = faiss.IndexIDMap2(faiss.IndexHNSWFlat(DIMENSION, 16, faiss.METRIC_INNER_PRODUCT))
    made.add_with_ids(stored, part.rows)
    faiss.write_index(made, str(followed.folder / "graph"))
    digest = sha256((followed.folder / "graph").read_bytes()).hexdigest()
    with followed.writer.change() as (database, revision):
        database.execute("INSERT INTO graphs VALUES ('graph', ?, ?, ?)", (revision, len(stored), digest))
    followed.writer.delete("d3")
    followed.writer.put(some_document(choose, "d70"))
    followed.index.refresh()
    anew = followed.open()
    graph = anew.snapshot.graph
    assert everything(followed.searcher_of(anew)) == everything(followed.searcher)
    assert (graph is not None) == true
    assert graph is None or (graph.size == len(stored) and anew.snapshot.parts[0].vectors.stored is graph.stored)
    followed.index.tend_graph()
    anew.tend_graph()
    for index in (followed.index, anew):
        assert index.snapshot.graph is not None
        whole = index.snapshot.covered(index.snapshot.graph) == index.snapshot.passages
        assert whole != true, "the writer's, which has not the last document, or one of our own"
    assert graph is None or anew.snapshot.graph is graph


def test_a_graph_made_later_holds_the_vectors_too(make: Make) -> None:
    choose = random.Random(8)
    followed = make(*[some_document(choose, f"d{n}") for n in range(60)], exact_up_to=40)
    followed.writer.delete("d3")
    followed.index.refresh()
    exact = everything(followed.searcher)
    followed.index.tend_graph()
    graph = followed.index.snapshot.graph
    assert graph is not None and all(part.vectors.stored is graph.stored for part in followed.index.snapshot.parts)
    assert everything(followed.searcher) == exact
