"""faiss against numpy, with masks and ties."""

from pathlib import Path

import faiss
import numpy as np
import pytest
from quarry_contract.manifests import ManifestError

from quarry_retriever.vectors import FlatIndex, best

from .making import write_vectors


def unit(rows: int, dimension: int = 32, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    found = unit(500)
    found[100:160] = found[7]  # near-duplicates of real archives have one vector
    return found


@pytest.fixture(scope="module")
def index(vectors: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> FlatIndex:
    path = tmp_path_factory.mktemp("vectors") / "dense.faiss"
    write_vectors(path, vectors)
    return FlatIndex.load(path, 32, 500)


@pytest.mark.parametrize("top_k", [1, 5, 40, 61, 499, 500, 800])
@pytest.mark.parametrize("share", [None, 0.5, 0.01, 0.0])
def test_exact_inside_the_mask(index: FlatIndex, vectors: np.ndarray, top_k: int, share: float | None) -> None:
    allowed = None if share is None else np.random.default_rng(1).random(500) < share
    for question in [*unit(4, seed=2), vectors[7]]:
        hits = index.search(question, top_k, allowed)
        candidates = np.arange(500) if allowed is None else np.flatnonzero(allowed)
        assert len(hits.rows) == min(top_k, len(candidates))
        scores = vectors[hits.rows] @ question
        assert np.allclose(hits.scores, scores, atol=1e-5)
        assert np.isin(hits.rows, candidates).all()
        if len(candidates):
            assert np.allclose(hits.scores, np.sort(vectors[candidates] @ question)[::-1][:top_k], atol=1e-5)
        ties = [(-s, r) for s, r in zip(hits.scores.tolist(), hits.rows.tolist(), strict=True)]
        assert ties == sorted(ties)


def test_ties_at_the_cut_go_to_the_first_rows(index: FlatIndex, vectors: np.ndarray) -> None:
    assert index.search(vectors[7], 5).rows.tolist() == [7, 100, 101, 102, 103]
    odd = np.arange(500) % 2 == 1
    assert index.search(vectors[7], 4, odd).rows.tolist() == [7, 101, 103, 105]


def test_best_keeps_the_first_of_equals() -> None:
    hits = best(np.array([9, 4, 7, 2]), np.array([1.0, 3.0, 1.0, 1.0]), 2)
    assert hits.rows.tolist() == [4, 2]


def test_empty(tmp_path: Path) -> None:
    write_vectors(tmp_path / "x", np.zeros((0, 8), np.float32))
    assert FlatIndex.load(tmp_path / "x", 8, 0).search(np.zeros(8, np.float32), 5).rows.tolist() == []


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not an index")
    l2 = faiss.IndexFlatL2(8)
    l2.add(unit(3, 8))
    faiss.write_index(l2, str(tmp_path / "l2"))
    write_vectors(tmp_path / "nan", np.full((3, 8), np.nan, np.float32))
    write_vectors(tmp_path / "ok", unit(3, 8))
    for name, says in [("text", "not a faiss"), ("l2", "IndexFlatIP"), ("nan", "not finite")]:
        with pytest.raises(ManifestError, match=says):
            FlatIndex.load(tmp_path / name, 8, 3)
    for dimension, rows in [(9, 3), (8, 4)]:
        with pytest.raises(ManifestError, match="holds 3 vectors of 8 numbers"):
            FlatIndex.load(tmp_path / "ok", dimension, rows)
    assert FlatIndex.load(tmp_path / "ok", 8, 3).search(unit(3, 8)[1], 1).rows.tolist() == [1]


def test_vectors_of_any_length_are_ranked_by_inner_product(tmp_path: Path) -> None:
    vectors = np.eye(8, dtype=np.float32)[:3] * np.array([[1], [5], [2]], np.float32)
    write_vectors(tmp_path / "x", vectors)
    hits = FlatIndex.load(tmp_path / "x", 8, 3).search(np.ones(8, np.float32), 3)
    assert (hits.rows.tolist(), hits.scores.tolist()) == ([1, 2, 0], [5.0, 2.0, 1.0])
