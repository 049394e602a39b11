"""The graphs over the vectors of an index that is followed, one for each list of readers with many: the writer's, or our own."""

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import faiss
import numpy as np
import pytest

from .following import Followed, Make, everything, some_document, until
from .making import DIMENSION, DOCUMENTS, Document

ALL = ("*",)
TWO = (("*",), ("group:a", "user:x"))


def shared(choose: random.Random, numbers: Sequence[int], readers: Sequence[tuple[str, ...]] = (ALL,)) -> list[Document]:
    """Documents, each of one of these lists of readers in turn."""
    return [replace(some_document(choose, f"d{n}"), principals=readers[n % len(readers)]) for n in numbers]


def save(followed: Followed, name: str, readers: tuple[str, ...], rows: np.ndarray, stored: np.ndarray, digest: str = "") -> None:
    """A graph as the writer saves it."""
    made = faiss.IndexIDMap2(faiss.IndexHNSWFlat(DIMENSION, 16, faiss.METRIC_INNER_PRODUCT))
    made.add_with_ids(stored, rows)
    faiss.write_index(made, str(followed.folder / Path(name).name))
    digest = digest or sha256((followed.folder / Path(name).name).read_bytes()).hexdigest()
    with followed.writer.change() as (database, revision):
        values = (name, json.dumps(sorted(readers)), revision, len(rows), 0, digest)
        database.execute("INSERT OR REPLACE INTO graphs(file, readers, revision, vectors, missing, sha256) VALUES (?, ?, ?, ?, ?, ?)", values)


def test_more_vectors_than_are_compared_get_a_graph_and_keep_it_up(make: Make) -> None:
    choose = random.Random(6)
    followed = make(*shared(choose, range(60), TWO), exact_up_to=40)
    assert followed.index.snapshot.graphs == ()
    followed.index.follow()
    until(lambda: len(followed.index.snapshot.graphs) == 2)
    assert {graph.readers for graph in followed.index.snapshot.graphs} == {frozenset(readers) for readers in TWO}
    before = {graph.readers: graph.size for graph in followed.index.snapshot.graphs}
    assert all(followed.index.snapshot.covered(graph) == graph.size and graph.size % 40 == 0 for graph in followed.index.snapshot.graphs)
    for document in shared(choose, range(60, 120, 2)):
        followed.writer.put(document)
    grown = frozenset(ALL)
    until(lambda: any(graph.readers == grown and graph.size > before[grown] for graph in followed.index.snapshot.graphs))
    assert before[frozenset(TWO[1])] in [graph.size for graph in followed.index.snapshot.graphs], "what others may read changes nothing"
    for n in range(0, 120, 2):
        followed.writer.delete(f"d{n}")
    until(lambda: [graph.readers for graph in followed.index.snapshot.graphs] == [frozenset(TWO[1])])
    for n in range(1, 60, 2):
        followed.writer.update(f"d{n}", principals=json.dumps([f"user:{n % 8}"]))
    until(lambda: followed.index.snapshot.graphs == ())


@pytest.mark.parametrize("damage", ["none", "digest", "missing", "elsewhere", "untrue"])
def test_the_writers_graph_is_used_when_it_is_whole(make: Make, damage: str) -> None:
    followed = make(*DOCUMENTS, exact_up_to=40)
    part = followed.index.snapshot.parts[0]
    rows, stored = part.rows[:30], part.vectors.stored[:30].copy()
    if damage == "untrue":
        stored[-1] = -stored[-1]  # and a digest that says so
    name = f"../{followed.folder.name}/graph" if damage == "elsewhere" else "graph"
    save(followed, name, ALL, rows, stored, "0" * 64 if damage == "digest" else "")
    if damage == "missing":
        (followed.folder / "graph").unlink()
    exact = everything(followed.searcher)
    followed.index.tend_graphs()
    [graph] = followed.index.snapshot.graphs
    assert graph.size == (30 if damage == "none" else 40)
    assert everything(followed.searcher) == exact  # the others are compared one by one


def test_an_index_whose_one_graph_held_all_is_searched_without_it(make: Make) -> None:
    followed = make(*DOCUMENTS, exact_up_to=40)
    with followed.writer.change() as (database, _):
        database.execute("DROP TABLE graphs")
        database.execute("CREATE TABLE graphs(file TEXT PRIMARY KEY, revision INTEGER, vectors INTEGER, sha256 TEXT)")
        database.execute("INSERT INTO graphs VALUES ('graph', 1, 49, '')")
    anew = followed.open()
    anew.tend_graphs()
    assert everything(followed.searcher_of(anew)) == everything(followed.searcher)
    assert [graph.size for graph in anew.snapshot.graphs] == [40]


@pytest.mark.parametrize("true", [True, False])
def test_a_start_takes_the_writers_graphs_and_keeps_their_vectors_once(make: Make, true: bool) -> None:
    choose = random.Random(7)
    followed = make(*shared(choose, range(120), (*TWO, ("group:b",), ("group:c",))), exact_up_to=40)
    for number, readers in enumerate((*TWO, ("group:b",))):
        rows = followed.index.snapshot.rows_of(frozenset(readers))
        stored = followed.index.snapshot.vectors_of(rows)
        if not true and number == 1:
            stored[-1] = -stored[-1]
        save(followed, f"graph{number}", readers, rows, stored)
    followed.writer.delete("d4")
    followed.writer.put(shared(choose, [121], TWO)[0])
    followed.writer.update("d8", principals=json.dumps(TWO[1]), title="moved")
    followed.index.refresh()
    anew = followed.open()
    assert everything(followed.searcher_of(anew)) == everything(followed.searcher)
    assert len(anew.snapshot.graphs) == (3 if true else 0)
    if true:
        here = sum(len(part.vectors.stored) for part in anew.snapshot.parts)
        assert here == anew.snapshot.passages - sum(anew.snapshot.covered(graph) for graph in anew.snapshot.graphs), "no vector is there twice"
        assert len(followed.index.snapshot.rows_of(frozenset(["group:c"]))) < here < followed.index.snapshot.passages // 2
    for index in (followed.index, anew):
        index.tend_graphs()
        assert len(index.snapshot.graphs) == 4, "one of our own for the fourth"
        assert everything(followed.searcher_of(index)) == everything(followed.searcher)


def test_a_graph_made_later_holds_the_vectors_too(make: Make) -> None:
    choose = random.Random(8)
    followed = make(*shared(choose, range(80), TWO), exact_up_to=40)
    followed.writer.delete("d3")
    followed.index.refresh()
    exact = everything(followed.searcher)
    followed.index.tend_graphs()
    assert len(followed.index.snapshot.graphs) == 2
    here = sum(len(part.vectors.stored) for part in followed.index.snapshot.parts)
    assert here + sum(graph.size for graph in followed.index.snapshot.graphs) == followed.index.snapshot.passages
    assert everything(followed.searcher) == exact
    followed.writer.update("d4", title="another")
    before = [followed.index.snapshot.covered(graph) for graph in followed.index.snapshot.graphs]
    followed.index.refresh()
    assert [followed.index.snapshot.covered(graph) for graph in followed.index.snapshot.graphs] == before, "its readers are the same"


def test_one_of_our_own_is_made_anew_when_somebody_loses_a_document(make: Make) -> None:
    followed = make(*shared(random.Random(9), range(40)), exact_up_to=40)
    followed.index.tend_graphs()
    [graph] = followed.index.snapshot.graphs
    with followed.writer.change() as (database, revision):
        database.execute("UPDATE documents SET principals = '[]', revision = ? WHERE document_id = 'd0'", (revision,))
        database.execute("INSERT INTO narrowed VALUES (?, ?)", (json.dumps(ALL), revision))
    followed.index.refresh()
    followed.index.tend_graphs()
    [anew] = followed.index.snapshot.graphs
    assert anew is not graph and not anew.find(np.array([1]))[0].any(), "what was shown before is in it no more"
    followed.index.tend_graphs()
    assert followed.index.snapshot.graphs == (anew,)
