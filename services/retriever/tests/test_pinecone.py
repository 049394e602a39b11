"""Dense search in Pinecone against the embedded search, through the real SDK and the stand-in that ingestion's tests start too."""

import importlib.util
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pinecone import Index as Namespaces
from prometheus_client import CollectorRegistry
from quarry_contract.errors import ErrorCode, QuarryError
from quarry_contract.manifests import ManifestError
from quarry_contract.messages import SearchRequest, SearchResponse
from quarry_contract.vector_store import metadata_of, passage_terms, question_terms
from quarry_runtime.encode import Encoder
from quarry_runtime.terms import searched_words

from quarry_retriever import pinecone_index
from quarry_retriever.core import Retriever, RetrieverSettings
from quarry_retriever.index import Index
from quarry_retriever.pinecone_index import PineconeIndex
from quarry_retriever.search import Searcher

from .making import DIMENSION, DOCUMENTS, Document, Writer, make_index

_FILE = Path(__file__).resolve().parents[3] / "pipelines/ingestion/tests/pinecone_process.py"
_SPEC = importlib.util.spec_from_file_location("pinecone_process", _FILE)
assert _SPEC is not None
assert _SPEC.loader is not None
process = importlib.util.module_from_spec(_SPEC)
sys.modules["pinecone_process"] = process
_SPEC.loader.exec_module(process)

QUESTION = "At what wind speed is the crane stopped?"
SECRET = Document("secret.md", "Secret", "The crane wind speed limit is secret.\n\nThe crane stops.", {"kind": "method"}, principals=("group:a",))


@pytest.fixture(scope="module")
def encoder(model_dir: Path) -> Encoder:
    return Encoder.load(model_dir)


@pytest.fixture(scope="module")
def started() -> Iterator[Any]:
    with process.standin(DIMENSION) as running:
        yield running


@pytest.fixture
def pinecone(started: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    started.reset()
    monkeypatch.setenv("PINECONE_API_KEY", process.API_KEY)
    return started


class Both:
    """One index.db, its namespace, and a searcher with Pinecone beside one without."""

    def __init__(self, folder: Path, model_dir: Path, encoder: Encoder, standin: Any) -> None:
        self.encoder = encoder
        self.folder = make_index(folder, model_dir, (*DOCUMENTS, SECRET))
        self.namespace = Namespaces(host=standin.url, api_key=process.API_KEY)
        self.index = Index.open(self.folder, encoder.manifest.digest, encoder.encode, vectors=False)
        self.with_vectors = Index.open(self.folder, encoder.manifest.digest, encoder.encode)
        self.pinecone = PineconeIndex(standin.url, "g1", self.index.store)
        self.searcher = Searcher(self.index, encoder.encode, "tiny@1", self.pinecone)
        self.together = PineconeIndex(standin.url, "g1", self.index.store, together=True)
        self.searchers = {"sparse-dense": Searcher(self.index, encoder.encode, "tiny@1", self.together)}
        self.embedded = Searcher(self.with_vectors, encoder.encode, "tiny@1")
        for document in (*DOCUMENTS, SECRET):
            self.upsert(document)

    def upsert(self, document: Document, **more: Any) -> None:
        vectors = self.encoder.encode([text for *_, text, _, _ in document.passages])
        entries = []
        for (passage_id, _, _, text, page, section), vector in zip(document.passages, vectors, strict=True):
            built_in = {"document_id": document.document_id, "version": document.version, "title": document.title, "section": section, "page": page}
            metadata = metadata_of(built_in, document.metadata, document.principals) | more
            terms = passage_terms(self.index.analyse_question(searched_words(document.document_id, document.title, section, text)))
            sparse = {"indices": list(terms.indices), "values": list(terms.values)}
            entries.append({"id": passage_id, "values": vector.tolist(), "metadata": metadata, "sparse_values": sparse})
        self.namespace.upsert(vectors=entries, namespace="g1")

    def ask(self, retrieval: str = "dense", **more: Any) -> SearchResponse:
        """`sparse-dense` is hybrid search as Pinecone does it."""
        searcher = self.searchers.get(retrieval, self.searcher)
        retrieval = "hybrid" if retrieval == "sparse-dense" else retrieval
        return searcher.search(SearchRequest(**{"question": QUESTION, "retrieval": retrieval, **more}))


@pytest.fixture
def both(tmp_path: Path, model_dir: Path, encoder: Encoder, pinecone: Any) -> Iterator[Both]:
    made = Both(tmp_path / "index", model_dir, encoder, pinecone)
    yield made
    made.pinecone.close()
    made.together.close()
    made.with_vectors.close()
    made.namespace.close()
    made.index.close()


CASES: list[dict[str, Any]] = [
    {},
    {"top_k": 100},
    {"principals": ("group:a",), "top_k": 100},
    {"filters": {"kind": "method"}, "top_k": 100},
    {"filters": {"kind": ("minutes", "method"), "page": (1, 2)}, "principals": ("group:a", "user:b"), "top_k": 100},
    {"filters": {"approved": True}},
    {"filters": {"revision": 1, "section": "Size"}},
    {"filters": {"document_id": "secret.md"}},
    {"filters": {"revision": 2**60}},  # which Pinecone cannot hold
]


@pytest.mark.parametrize("retrieval", ["dense", "hybrid"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_finds_what_the_embedded_index_finds(retrieval: str, case: dict[str, Any], both: Both) -> None:
    found, expected = both.ask(retrieval, **case), both.embedded.search(SearchRequest(**{"question": QUESTION, "retrieval": retrieval, **case}))
    assert found.degraded == ()
    scores = [{p.passage.passage_id: p.score for p in response.passages} for response in (found, expected)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


def test_what_index_db_hides_is_never_found_whatever_pinecone_says(both: Both) -> None:
    both.upsert(SECRET, principals=["*"])  # as after a revocation that did not reach Pinecone
    for retrieval in ("dense", "hybrid", "sparse-dense"):
        for principals in ((), ("group:b",), ("user:x", "*")):
            assert "secret.md" not in {p.passage.document_id for p in both.ask(retrieval, top_k=100, principals=principals).passages}
        assert "secret.md" in {p.passage.document_id for p in both.ask(retrieval, top_k=100, principals=("group:a",)).passages}
    snapshot = both.index.snapshot
    request, allowed = SearchRequest(QUESTION, 100, "dense"), snapshot.view(frozenset()).allowed({})
    hits = both.pinecone.search(both.encoder.encode([QUESTION])[0], request, 100, snapshot, allowed)
    assert len(hits.rows) == sum(int(mask.sum()) for mask in allowed) == snapshot.passages - len(SECRET.passages)


def test_many_that_do_not_count_leave_room_for_those_that_do(both: Both) -> None:
    """Orphans and hidden passages nearer to the question than anything else."""
    vector = both.encoder.encode([QUESTION])[0]
    vectors = [{"id": f"orphan-{n}", "values": (2 * vector).tolist(), "metadata": {"principals": ["*"]}} for n in range(400)]
    both.namespace.upsert(vectors=vectors, namespace="g1")
    found, expected = both.ask(top_k=10), both.embedded.search(SearchRequest(QUESTION, 10, "dense"))
    assert [p.passage.passage_id for p in found.passages] == [p.passage.passage_id for p in expected.passages]


def test_a_change_that_the_snapshot_does_not_have_yet_is_searched_again(both: Both) -> None:
    old = DOCUMENTS[0]
    new = replace(old, text=old.text.replace("20 m/s", "15 m/s").replace("55 m", "66 m").replace("gate 2", "gate 1"))
    writer = Writer(both.folder, both.encoder.encode)
    both.upsert(new)
    assert found_of(both, old) == {p[0] for p in old.passages}  # inserted, not switched
    writer.put(new)
    assert found_of(both, old) == {p[0] for p in new.passages}  # switched, the old ones not deleted yet
    both.namespace.delete(ids=[p[0] for p in old.passages], namespace="g1")
    assert found_of(both, old) == {p[0] for p in new.passages}
    writer.delete(old.document_id)
    assert found_of(both, old) == set()
    writer.close()


def found_of(both: Both, document: Document) -> set[str]:
    return {p.passage.passage_id for p in both.ask(top_k=100).passages if p.passage.document_id == document.document_id}


@pytest.mark.parametrize(
    "fault",
    [{"status": 429, "retry_after": 600}, {"status": 503, "retry_after": 600}, {"status": 2, "seconds": 600}, {"status": 401}],
    ids=["throttled", "failing", "hanging", "refused"],
)
def test_without_pinecone_bm25_answers_in_time(fault: dict[str, Any], both: Both, pinecone: Any) -> None:
    pinecone.set(faults=[{"path": "/query", "times": 100, **fault}])
    answer = both.ask("hybrid", top_k=5)
    assert 100 - pinecone.left() == 1  # one attempt: it waited neither for Retry-After nor for the SDK's own timeout
    assert answer.degraded == ("dense",)
    assert [p.passage.passage_id for p in answer.passages] == [p.passage.passage_id for p in both.ask("bm25", top_k=5).passages]
    with pytest.raises(QuarryError) as refused:
        both.ask("dense")
    assert refused.value.code is ErrorCode.INTERNAL


def test_a_pinecone_that_fails_is_left_alone_for_a_while(both: Both, pinecone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pinecone.set(faults=[{"path": "/query", "times": 100, "status": 401}])
    assert both.ask("sparse-dense", top_k=5).degraded == ("dense",)
    assert both.ask("sparse-dense", top_k=5).passages == both.ask("bm25", top_k=5).passages
    pinecone.set(faults=[{"path": "/query", "times": 100, "status": 401}])
    for _ in range(6):
        assert both.ask("hybrid").degraded == ("dense",)
    assert 100 - pinecone.left() == pinecone_index.FAILURES
    pinecone.set(faults=[])
    assert both.ask("hybrid").degraded == ("dense",)
    monkeypatch.setattr(both.pinecone, "_rests_until", 0.0)  # the while is over
    assert both.ask("hybrid").degraded == ()


def test_no_vectors_are_held_where_pinecone_has_them(both: Both) -> None:
    assert sum(part.vectors.stored.size for part in both.with_vectors.snapshot.parts) == both.index.snapshot.passages * DIMENSION
    writer = Writer(both.folder, both.encoder.encode)
    new = replace(DOCUMENTS[0], text="The crane stops at 15 m/s wind.")
    both.upsert(new)
    writer.put(new)
    writer.close()
    assert found_of(both, new) == {p[0] for p in new.passages}
    assert [part.vectors.stored.size for part in both.index.snapshot.parts if part.vectors.stored.size] == []
    assert both.index.snapshot.graphs == ()


def test_the_retriever_as_served_holds_none_either(both: Both, model_dir: Path, pinecone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUARRY_RETRIEVER_PINECONE_HOST", pinecone.url)
    for hybrid in ("fused", "sparse-dense"):
        monkeypatch.setenv("QUARRY_RETRIEVER_PINECONE_HYBRID", hybrid)
        served = Retriever.load(RetrieverSettings(model_dir, both.folder), CollectorRegistry())
        assert [part.vectors.stored.size for part in served.index.snapshot.parts] == [0]
        found = served._search(SearchRequest(QUESTION, 5, "hybrid"))
        assert found.passages == both.ask("hybrid" if hybrid == "fused" else hybrid, top_k=5).passages
        served.close()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_sparse_dense_is_half_the_vector_and_half_the_terms(case: dict[str, Any], both: Both) -> None:
    """Each score from first principles; how telling a term is counts the passages that the caller may see, hidden ones nowhere."""
    response = both.ask("sparse-dense", **case)
    assert response.degraded == ()
    visible = [d for d in (*DOCUMENTS, SECRET) if {"*", *case.get("principals", ())} & set(d.principals)]
    passages = {p[0]: (d, p) for d in visible for p in d.passages}
    terms = {i: both.index.analyse_question(searched_words(d.document_id, d.title, p[5], p[3])) for i, (d, p) in passages.items()}
    standing = {t: sum(t in found for found in terms.values()) for t in both.index.analyse_question(QUESTION)}
    idf = {t: math.log(1 + (len(terms) - n + 0.5) / (n + 0.5)) for t, n in standing.items() if n}
    asked = question_terms({t: weight / sum(idf.values()) for t, weight in idf.items()})
    question = both.encoder.encode([QUESTION])[0]

    def score(passage_id: str) -> float:
        own = passage_terms(terms[passage_id])
        weights = dict(zip(own.indices, own.values, strict=True))
        sparse = sum(weights.get(i, 0.0) * v for i, v in zip(asked.indices, asked.values, strict=True))
        [vector] = both.encoder.encode([passages[passage_id][1][3]])
        return float(question @ vector) / 2 + sparse / 2

    found = {p.passage.passage_id: p.score for p in response.passages}
    assert found == pytest.approx({i: score(i) for i in found}, abs=1e-5)
    every = both.embedded.search(SearchRequest(**{"question": QUESTION, "retrieval": "dense", **case, "top_k": 100}))
    eligible = {p.passage.passage_id for p in every.passages}
    best = sorted(eligible, key=lambda i: -score(i))[: case.get("top_k", SearchRequest(QUESTION).top_k)]
    assert set(found) == set(best)


def test_without_a_known_term_the_vector_alone_decides(both: Both) -> None:
    for question in ("???", "zyxwv"):
        scores = [{p.passage.passage_id: p.score for p in both.ask(mode, question=question).passages} for mode in ("sparse-dense", "dense")]
        assert scores[0] == pytest.approx(scores[1], abs=1e-6)


def test_settings(both: Both, pinecone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert PineconeIndex.from_environment("g1", both.index.store) is None
    monkeypatch.setenv("QUARRY_RETRIEVER_PINECONE_HYBRID", "both")
    assert PineconeIndex.from_environment("g1", both.index.store) is None
    monkeypatch.setenv("QUARRY_RETRIEVER_PINECONE_HOST", pinecone.url)
    monkeypatch.setenv("QUARRY_RETRIEVER_PINECONE_NAMESPACE", "other")
    with pytest.raises(ManifestError, match="must be fused or sparse-dense"):
        PineconeIndex.from_environment("g1", both.index.store)
    for hybrid in ("fused", "sparse-dense"):
        monkeypatch.setenv("QUARRY_RETRIEVER_PINECONE_HYBRID", hybrid)
        read = PineconeIndex.from_environment("g1", both.index.store)
        assert read is not None
        assert read.together == (hybrid == "sparse-dense")
        read.close()
    made = PineconeIndex.from_environment("g1", both.index.store)
    assert made is not None
    assert Searcher(both.index, both.encoder.encode, "m", made).search(SearchRequest(QUESTION, retrieval="dense")).passages == ()
    made.close()
    monkeypatch.delenv("PINECONE_API_KEY")
    with pytest.raises(ManifestError, match="PINECONE_API_KEY is not set"):
        PineconeIndex.from_environment("g1", both.index.store)
