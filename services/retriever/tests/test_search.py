"""Each retrieval against brute force; fusion against a calculation by hand; filters inside; degradation."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from quarry_contract.errors import ErrorCode, QuarryError
from quarry_contract.messages import SearchRequest
from quarry_runtime.encode import Encoder

from quarry_retriever.index import Index
from quarry_retriever.search import Searcher, fuse

from .making import DOCUMENTS, POISON, make_index, paragraphs

QUESTION = "At what wind speed is the crane stopped?"
ROWS = [(d, i, d.text[a:b]) for d in DOCUMENTS for i, (a, b) in enumerate(paragraphs(d))]


@pytest.fixture(scope="module")
def encoder(model_dir: Path) -> Encoder:
    return Encoder.load(model_dir)


@pytest.fixture(scope="module")
def index(index_dir: Path, encoder: Encoder) -> Index:
    return Index.open(index_dir, encoder.manifest.digest, encoder.encode)


@pytest.fixture(scope="module")
def searcher(index: Index, encoder: Encoder) -> Searcher:
    return Searcher(index, encoder.encode, "tiny@1")


def found(searcher: Searcher, **request: object) -> list[str]:
    return [p.passage.passage_id.split("@")[0] for p in searcher.search(SearchRequest(**{"question": QUESTION, **request})).passages]  # type: ignore[arg-type]


def order(scores: Sequence[float], floor: float = -np.inf) -> list[str]:
    rows = sorted((i for i, s in enumerate(scores) if s > floor), key=lambda i: (-scores[i], i))
    return [f"{ROWS[i][0].document_id}#{ROWS[i][1]}" for i in rows]


def dense_scores(encoder: Encoder) -> list[float]:
    vectors = encoder.encode([text for _, _, text in ROWS])
    return [round(float(s), 6) for s in vectors @ encoder.encode([QUESTION])[0]]


def lexical_scores(index: Index, retrieval: str) -> list[float]:
    [scores] = getattr(index.snapshot.view(frozenset()).collection, retrieval)(index.analyse_question(QUESTION))
    return scores.tolist()  # type: ignore[no-any-return]


def test_dense_is_exact(searcher: Searcher, encoder: Encoder) -> None:
    assert found(searcher, retrieval="dense", top_k=10) == order(dense_scores(encoder))[:10]


@pytest.mark.parametrize("retrieval", ["bm25", "tfidf"])
def test_lexical_is_every_match_and_nothing_else(searcher: Searcher, index: Index, retrieval: str) -> None:
    scores = lexical_scores(index, retrieval)
    expected = order(scores, 1e-6)
    assert found(searcher, retrieval=retrieval, top_k=100) == expected
    assert 3 <= len(expected) < len(ROWS)
    assert expected[0] == "crane.md#0"


def test_lexical_reads_names_titles_and_sections(searcher: Searcher) -> None:
    assert found(searcher, question="minutes.txt", retrieval="bm25", top_k=3) == [f"minutes.txt#{i}" for i in (0, 2, 1)]
    assert found(searcher, question="curing", retrieval="bm25") == ["wall.md#0"]
    assert found(searcher, question="basement", retrieval="tfidf", top_k=9) == [f"wall.md#{i}" for i in (1, 2, 0)]


def test_fusion_by_hand() -> None:
    hits = fuse([(np.array([5, 3, 9]), 0.6), (np.array([3, 8, 5]), 1.0)], 10)
    by_hand = {3: 0.6 / 12 + 1 / 11, 5: 0.6 / 11 + 1 / 13, 8: 1 / 12, 9: 0.6 / 13}
    assert hits.rows.tolist() == [3, 5, 8, 9]
    assert hits.scores.tolist() == pytest.approx([0.140909, 0.131469, 0.083333, 0.046154], abs=1e-6)
    assert hits.scores.tolist() == pytest.approx([by_hand[r] for r in (3, 5, 8, 9)], abs=1e-15)
    assert fuse([(np.array([4, 2]), 1.0), (np.array([2, 4]), 1.0)], 1).rows.tolist() == [2]  # a tie: the first row
    assert fuse([(np.array([], np.int64), 1.0)] * 2, 3).rows.tolist() == []


def test_hybrid_is_the_fusion_of_both(searcher: Searcher, index: Index, encoder: Encoder) -> None:
    dense, lexical = order(dense_scores(encoder))[:50], order(lexical_scores(index, "bm25"), 1e-6)[:50]
    scores: dict[str, float] = {}
    for ranking, weight in ((dense, 0.6), (lexical, 1.0)):
        for rank, name in enumerate(ranking, 1):
            scores[name] = scores.get(name, 0) + weight / (10 + rank)
    names = order([0.0] * len(ROWS))
    expected = sorted(scores, key=lambda n: (-scores[n], names.index(n)))[:8]
    assert found(searcher, retrieval="hybrid", top_k=8) == expected


@pytest.mark.parametrize("retrieval", ["dense", "bm25", "tfidf", "hybrid"])
def test_filters_are_inside_the_search(searcher: Searcher, retrieval: str) -> None:
    asked = {"question": "wall crane scaffold inspection gate", "retrieval": retrieval, "top_k": 3}
    assert not any(name.startswith("crane") for name in found(searcher, **asked, filters={"kind": "report"}))
    for document in ("wall.md", "crane.md", "scaffold.txt"):
        names = found(searcher, **asked, filters={"document_id": document})
        assert len(names) == 3 and all(name.startswith(document) for name in names)


@pytest.mark.parametrize(
    ("filters", "rows"),
    [
        ({"kind": "minutes"}, 3),
        ({"kind": ("minutes", "report")}, 43),
        ({"kind": "method", "revision": 2}, 3),
        ({"revision": 2.0}, 3),
        ({"approved": True}, 3),
        ({"approved": 1}, 0),  # true is not 1
        ({"revision": True}, 0),
        ({"title": "Minutes 🏗️"}, 3),
        ({"section": "Size"}, 3),
        ({"page": 1}, 4),
        ({"page": (1, 2), "kind": "method"}, 4),
        ({"version": DOCUMENTS[0].version}, 3),
        ({"kind": "nothing"}, 0),
        ({"kind": ()}, 0),
        ({"revision": 10**400}, 0),
    ],
)
def test_filter_values(searcher: Searcher, filters: dict[str, object], rows: int) -> None:
    assert len(found(searcher, retrieval="dense", top_k=100, filters=filters)) == rows


def test_an_unknown_field_is_named_as_a_mistake_and_not_echoed(searcher: Searcher) -> None:
    with pytest.raises(QuarryError, match="unknown to this index: it knows approved, document_id, kind, page") as caught:
        found(searcher, filters={"colour-of-secrets": "red"})
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert "colour" not in caught.value.detail and "red" not in caught.value.detail


@pytest.mark.parametrize("retrieval", ["dense", "bm25", "tfidf", "hybrid"])
def test_the_same_question_has_the_same_answer(searcher: Searcher, index_dir: Path, encoder: Encoder, retrieval: str) -> None:
    again = Searcher(Index.open(index_dir, encoder.manifest.digest, encoder.encode), encoder.encode, "tiny@1")
    asked = SearchRequest("scaffold inspection at the gate", 30, retrieval)  # type: ignore[arg-type]
    assert searcher.search(asked) == searcher.search(asked) == again.search(asked)


def test_a_failing_encoder_leaves_bm25(searcher: Searcher) -> None:
    poisoned = f"crane wind {POISON}"
    response = searcher.search(SearchRequest(poisoned, 4))
    assert response.degraded == ("dense",)
    assert [p.passage.passage_id.split("@")[0] for p in response.passages] == found(searcher, question=poisoned, retrieval="bm25", top_k=4)
    with pytest.raises(QuarryError) as caught:
        searcher.search(SearchRequest(poisoned, 4, "dense"))
    assert caught.value.code is ErrorCode.INTERNAL and caught.value.__cause__ is not None
    assert searcher.search(SearchRequest("crane wind", 4)).degraded == ()


def test_passages_are_true_to_their_documents(searcher: Searcher) -> None:
    texts = {d.document_id: d for d in DOCUMENTS}
    for scored in searcher.search(SearchRequest("site team gate", 49, "dense")).passages:
        p = scored.passage
        document = texts[p.document_id]
        assert document.text[p.start : p.end] == p.text
        assert (p.version, p.title, p.metadata) == (document.version, document.title, document.metadata)


@pytest.mark.parametrize("retrieval", ["dense", "bm25", "tfidf", "hybrid"])
def test_an_empty_index_finds_nothing(tmp_path: Path, model_dir: Path, encoder: Encoder, retrieval: str) -> None:
    folder = make_index(tmp_path, model_dir, [])
    empty = Searcher(Index.open(folder, encoder.manifest.digest, encoder.encode), encoder.encode, "m")
    assert found(empty, retrieval=retrieval, filters={"page": 3}) == []
