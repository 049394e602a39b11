"""Exact search against numpy, with masks and ties; the graph against exact search."""

from pathlib import Path

import faiss
import numpy as np
import pytest
from quarry_contract.manifests import ManifestError

from quarry_retriever.vectors import HERE, Graph, Marked, Vectors, best, joined

ALL = frozenset({"*"})


def unit(rows: int, dimension: int = 32, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    found = unit(500)
    found[100:160] = found[7]  # near-duplicates of real archives have one vector
    return found


@pytest.fixture(scope="module")
def index(vectors: np.ndarray) -> Vectors:
    return Vectors(np.arange(500), vectors)


@pytest.mark.parametrize("top_k", [1, 5, 40, 61, 499, 500, 800])
@pytest.mark.parametrize("share", [None, 0.5, 0.01, 0.0])
def test_exact_inside_the_mask(index: Vectors, vectors: np.ndarray, top_k: int, share: float | None) -> None:
    allowed = np.random.default_rng(1).random(500) < (1 if share is None else share)
    for question in [*unit(4, seed=2), vectors[7]]:
        hits = index.search(question, top_k, allowed)
        candidates = np.flatnonzero(allowed)
        assert len(hits.rows) == min(top_k, len(candidates))
        scores = vectors[hits.rows] @ question
        assert np.allclose(hits.scores, scores, atol=1e-5)
        assert np.isin(hits.rows, candidates).all()
        if len(candidates):
            assert np.allclose(hits.scores, np.sort(vectors[candidates] @ question)[::-1][:top_k], atol=1e-5)
        ties = [(-s, r) for s, r in zip(hits.scores.tolist(), hits.rows.tolist(), strict=True)]
        assert ties == sorted(ties)


def test_ties_at_the_cut_go_to_the_first_rows(index: Vectors, vectors: np.ndarray) -> None:
    assert index.search(vectors[7], 5, np.ones(500, bool)).rows.tolist() == [7, 100, 101, 102, 103]
    odd = np.arange(500) % 2 == 1
    assert index.search(vectors[7], 4, odd).rows.tolist() == [7, 101, 103, 105]


def test_best_keeps_the_first_of_equals() -> None:
    hits = best(np.array([9, 4, 7, 2]), np.array([1.0, 3.0, 1.0, 1.0]), 2)
    assert hits.rows.tolist() == [4, 2]


def test_a_score_does_not_depend_on_where_its_vector_stands(vectors: np.ndarray) -> None:
    order = np.random.default_rng(3).permutation(500)
    mixed = Vectors(order, vectors[order])
    for question in unit(4, seed=4):
        some, others = np.random.default_rng(5).random(500) < 0.9, np.arange(500) < 3
        for allowed in (some, others):
            one, other = Vectors(np.arange(500), vectors).search(question, 20, allowed), mixed.search(question, 20, allowed[order])
            assert (one.rows.tolist(), one.scores.tobytes()) == (other.rows.tolist(), other.scores.tobytes())


def test_empty() -> None:
    assert Vectors(np.zeros(0, np.int64), np.zeros((0, 8), np.float32)).search(np.zeros(8, np.float32), 5, np.zeros(0, bool)).rows.tolist() == []
    assert joined([], 5).rows.tolist() == []


def test_vectors_of_any_length_are_ranked_by_inner_product() -> None:
    vectors = np.eye(8, dtype=np.float32)[:3] * np.array([[1], [5], [2]], np.float32)
    hits = Vectors(np.array([10, 20, 30]), vectors).search(np.ones(8, np.float32), 3, np.ones(3, bool))
    assert (hits.rows.tolist(), hits.scores.tolist()) == ([20, 30, 10], [5.0, 2.0, 1.0])


def alike(rows: int, seed: int) -> np.ndarray:
    """Unit vectors as encoders give them: topics within topics, not spread evenly; 64 numbers."""
    choose = np.random.default_rng(seed)
    fields, topics = np.random.default_rng(0).normal(size=(20, 64)), np.random.default_rng(1).normal(size=(400, 64)) * 0.7
    topic = choose.integers(400, size=rows)
    made = fields[topic % 20] + topics[topic] + choose.normal(size=(rows, 64)) * 0.5
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def many() -> Vectors:
    return Vectors(np.arange(20_000) * 3, alike(20_000, seed=2))


@pytest.fixture(scope="module")
def graph(many: Vectors) -> Graph:
    return Graph.build(ALL, many.rows, 64, lambda rows: many.stored[rows // 3])


@pytest.mark.parametrize("share", [1.0, 0.6, 0.15, 0.05, 0.0001, 0.0])
def test_the_graph_finds_nearly_all(graph: Graph, many: Vectors, share: float) -> None:
    allowed = np.random.default_rng(6).random(20_000) < share
    found = wanted = 0
    for question in alike(100, seed=7):
        assert graph.size < 20_000, "the last step is not whole"
        hits = joined([graph.search(question, 10, Marked(allowed[: graph.size])), many.search(question, 10, allowed & (np.arange(20_000) >= graph.size))], 10)
        truth = many.search(question, 10, allowed)
        assert len(hits.rows) == len(truth.rows) == min(10, int(allowed.sum()))
        assert np.isin(hits.rows, many.rows[allowed]).all()
        found, wanted = found + len(np.intersect1d(hits.rows, truth.rows)), wanted + len(truth.rows)
    assert found >= 0.98 * wanted


def test_the_same_vectors_make_the_same_graph_with_any_number_of_threads(tmp_path: Path) -> None:
    made, vectors = [], alike(6_000, seed=3)
    for threads in (1, 2, 3):
        faiss.omp_set_num_threads(threads)
        index = faiss.IndexHNSWFlat(64, 32, faiss.METRIC_INNER_PRODUCT)
        index.add(vectors)
        made.append(faiss.serialize_index(index).tobytes())
    assert made[0] == made[1] == made[2], "of faiss: ingestion and retrievers rely on it"


def test_vectors_are_in_memory_once_and_move_with_their_readers() -> None:
    vectors, rows = unit(100, 8), np.arange(100) * 2
    a, b = (Graph.build(frozenset({name}), rows[some], 8, lambda of: vectors[of // 2]) for name, some in (("a", slice(0, 40)), ("b", slice(30, 60))))
    numbers = np.repeat([0, 1, HERE], [35, 45, 20]).astype(np.int16)  # five of a's are b's now; some of b's are not in its graph
    based = Vectors(rows, vectors).based([a, b], numbers, np.arange(100) != 99)
    assert (based.count(a, np.ones(100, bool)), based.count(b, np.ones(100, bool)), len(based.stored)) == (35, 25, 39)
    assert np.array_equal(based.values(np.arange(99)), vectors[:99])
    allowed = np.arange(100) % 3 == 0
    found, rest = based.divided(allowed)
    assert [(graph, rows[: len(places)].shape) for graph, places in found] == [(a, (12,)), (b, (8,))]
    assert np.flatnonzero(rest).tolist() == [at for at in range(60, 100) if at % 3 == 0]
    truth = Vectors(rows, vectors).search(vectors[3], 9, allowed)
    by_graph = [graph.search(vectors[3], 9, Marked(np.isin(np.arange(graph.size), places))) for graph, places in found]
    hits = joined([*by_graph, based.search(vectors[3], 9, rest & (np.arange(100) != 99))], 9)
    assert hits.rows.tolist() == [row for row in truth.rows.tolist() if row != 198]
    left = np.arange(100) % 2 == 0
    merged = Vectors.merged(rows[left], [based], [np.where(left, np.cumsum(left) - 1, -1)])
    assert np.array_equal(merged.values(np.arange(50)), vectors[left]) and len(merged.stored) == 20
    alone = merged.based([], np.full(50, HERE, np.int16), np.ones(50, bool))
    assert np.array_equal(alone.values(np.arange(50)), vectors[left]) and alone.divided(left[::2])[0] == []


def write_graph(path: Path, vectors: np.ndarray, rows: np.ndarray) -> None:
    made = faiss.IndexIDMap2(faiss.IndexHNSWFlat(vectors.shape[1], 16, faiss.METRIC_INNER_PRODUCT))
    made.add_with_ids(vectors, rows)
    faiss.write_index(made, str(path))


def test_a_stored_graph(tmp_path: Path) -> None:
    vectors, rows = unit(200, 8), np.random.default_rng(8).permutation(1000)[:200].astype(np.int64)
    write_graph(tmp_path / "graph", vectors, rows)
    graph, flat = Graph.load(tmp_path / "graph", 8, ALL), Vectors(np.sort(rows), vectors[np.argsort(rows)])
    has, places = graph.find(np.arange(1000))
    assert np.flatnonzero(has).tolist() == sorted(rows.tolist()) and rows[places].tolist() == sorted(rows.tolist())
    for question in unit(5, 8, seed=9):
        assert graph.search(question, 5, Marked(np.ones(200, bool))).rows.tolist() == flat.search(question, 5, np.ones(200, bool)).rows.tolist()


def test_other_files_are_no_graph(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not an index")
    flat = faiss.IndexFlatIP(8)
    flat.add(unit(3, 8))
    faiss.write_index(flat, str(tmp_path / "flat"))
    far = faiss.IndexIDMap2(faiss.IndexHNSWFlat(8, 16))
    far.add_with_ids(unit(3, 8), np.arange(3))
    faiss.write_index(far, str(tmp_path / "l2"))
    write_graph(tmp_path / "empty", np.zeros((0, 8), np.float32), np.zeros(0, np.int64))
    write_graph(tmp_path / "narrow", unit(3, 4), np.arange(3))
    for name, says in [("text", "not a faiss"), ("flat", "IndexIDMap2"), ("l2", "by inner product"), ("empty", "with vectors"), ("narrow", "of 8 numbers")]:
        with pytest.raises(ManifestError, match=says):
            Graph.load(tmp_path / name, 8, ALL)
