"""Exact search against numpy, with masks and ties; the graph against exact search."""

from pathlib import Path

import faiss
import numpy as np
import pytest
from quarry_contract.manifests import ManifestError

from quarry_retriever.vectors import Graph, Marked, Vectors, best, joined


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
    return Graph.build([(many, np.arange(15_000)), (many, np.arange(15_000, 20_000))])


@pytest.mark.parametrize("share", [1.0, 0.6, 0.15, 0.05, 0.0001, 0.0])
def test_the_graph_finds_nearly_all(graph: Graph, many: Vectors, share: float) -> None:
    allowed = np.random.default_rng(6).random(20_000) < share
    found = wanted = 0
    for question in alike(100, seed=7):
        hits, truth = graph.search(question, 10, Marked(allowed)), many.search(question, 10, allowed)
        assert len(hits.rows) == len(truth.rows) == min(10, int(allowed.sum()))
        assert np.isin(hits.rows, many.rows[allowed]).all()
        found, wanted = found + len(np.intersect1d(hits.rows, truth.rows)), wanted + len(truth.rows)
    assert found >= 0.98 * wanted


def write_graph(path: Path, vectors: np.ndarray, rows: np.ndarray) -> None:
    made = faiss.IndexIDMap2(faiss.IndexHNSWFlat(vectors.shape[1], 16, faiss.METRIC_INNER_PRODUCT))
    made.add_with_ids(vectors, rows)
    faiss.write_index(made, str(path))


def test_a_stored_graph(tmp_path: Path) -> None:
    vectors, rows = unit(200, 8), np.random.default_rng(8).permutation(1000)[:200].astype(np.int64)
    write_graph(tmp_path / "graph", vectors, rows)
    graph, flat = Graph.load(tmp_path / "graph", 8), Vectors(np.sort(rows), vectors[np.argsort(rows)])
    has, places = graph.places(Vectors(np.arange(1000), np.zeros((1000, 8), np.float32)))
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
            Graph.load(tmp_path / name, 8)
