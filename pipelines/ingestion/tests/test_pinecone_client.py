"""The client against the stand-in, through the real SDK over HTTP: limits, throttling, failures, and when a change counts as done."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from pinecone import Index
from pinecone.errors.exceptions import ApiError
from quarry_contract.vector_store import Sparse, VectorStoreError, passage_terms, question_terms, weighted

from quarry_ingestion.pinecone_client import Namespace, Pace, Record

from .pinecone_process import API_KEY, Standin, standin

DIMENSION = 16
RANDOM = np.random.default_rng(3)


@pytest.fixture(scope="module")
def process() -> Iterator[Standin]:
    with standin(DIMENSION) as started:
        yield started


@pytest.fixture
def pinecone(process: Standin, monkeypatch: pytest.MonkeyPatch) -> Standin:
    process.reset()
    monkeypatch.setenv("PINECONE_API_KEY", API_KEY)
    return process


@pytest.fixture
def make(pinecone: Standin) -> Iterator[Callable[..., Namespace]]:
    made = []

    def namespace(**more: Any) -> Namespace:
        made.append(Namespace(pinecone.url, "generation", DIMENSION, **{"call_sec": 180.0, **more}))
        return made[-1]

    yield namespace
    for each in made:
        each.close()


def record(number: int, **metadata: Any) -> Record:
    return Record(f"passage-{number:05}", RANDOM.normal(size=DIMENSION).astype(np.float32), {"document_id": "a", **metadata})


def records(count: int) -> list[Record]:
    return [record(number) for number in range(count)]


def raw(pinecone: Standin) -> Index:
    return Index(host=pinecone.url, api_key=API_KEY)


def entries(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"id": str(i), "values": [1.0] * DIMENSION, **more} for i in range(count)]


REFUSALS: dict[str, Callable[[Index], Any]] = {
    "1001 vectors": lambda i: i.upsert(vectors=entries(1001)),
    "more than 2 MB": lambda i: i.upsert(vectors=entries(80, metadata={"x": "y" * 30_000})),
    "40 KB of metadata": lambda i: i.upsert(vectors=entries(1, metadata={"x": "y" * 41_000})),
    "another dimension": lambda i: i.upsert(vectors=[{"id": "a", "values": [1.0]}]),
    "no direction": lambda i: i.upsert(vectors=[{"id": "a", "values": [0.0] * DIMENSION}]),
    "1001 terms": lambda i: i.upsert(vectors=entries(1, sparse_values={"indices": list(range(1001)), "values": [1.0] * 1001})),
    "1001 to delete": lambda i: i.upsert(vectors=entries(1)) and i.delete(ids=[str(n) for n in range(1001)]),
    "1001 to fetch": lambda i: i.fetch(ids=[str(n) for n in range(1001)]),
    "a long URL": lambda i: i.fetch(ids=["x" * 500 + str(n) for n in range(40)]),
    "10001 listed": lambda i: i.query(vector=[1.0] * DIMENSION, top_k=1, filter={"x": {"$in": [str(n) for n in range(10_001)]}}),
    "an operator": lambda i: i.query(vector=[1.0] * DIMENSION, top_k=1, filter={"x": {"$like": "a"}}),
    "4 MB found": lambda i: (
        i.upsert(vectors=entries(60, metadata={"x": "y" * 30_000}))
        and i.upsert(vectors=[e | {"id": "b" + e["id"]} for e in entries(60, metadata={"x": "y" * 30_000})])
        and i.upsert(vectors=[e | {"id": "c" + e["id"]} for e in entries(60, metadata={"x": "y" * 30_000})])
        and i.query(vector=[1.0] * DIMENSION, top_k=180, include_metadata=True)
    ),
}


@pytest.mark.parametrize("limit", REFUSALS)
def test_the_stand_in_refuses_what_pinecone_does_not_take(limit: str, pinecone: Standin) -> None:
    with pytest.raises(ApiError) as refused:
        REFUSALS[limit](raw(pinecone))
    assert refused.value.status_code in (400, 414), refused.value


def test_the_stand_in_asks_for_key_and_version(pinecone: Standin) -> None:
    with pytest.raises(ApiError) as refused:
        Index(host=pinecone.url, api_key="another").describe_index_stats()
    assert refused.value.status_code == 401
    with pytest.raises(ApiError) as refused:
        Index(host=pinecone.url, api_key=API_KEY, additional_headers={"x-pinecone-api-version": "2024-01"}).describe_index_stats()
    assert refused.value.status_code == 400


def test_filters_of_the_stand_in(pinecone: Standin) -> None:
    index = raw(pinecone)
    index.upsert(
        vectors=[{"id": str(n), "values": [1.0] * DIMENSION, "metadata": {"n": n, "who": ["x", "y"] if n % 2 else ["z"], "odd": bool(n % 2)}} for n in range(6)]
    )

    def found(filter_: dict[str, Any]) -> str:
        return "".join(sorted(m.id for m in index.query(vector=[1.0] * DIMENSION, top_k=10, filter=filter_).matches))

    assert found({"n": 3}) == found({"n": {"$eq": 3}}) == "3"
    assert found({"n": {"$ne": 3}}) == "01245"
    assert (found({"n": {"$gt": 3}}), found({"n": {"$gte": 3}}), found({"n": {"$lt": 2}}), found({"n": {"$lte": 2}})) == ("45", "345", "01", "012")
    assert (found({"who": {"$in": ["y", "q"]}}), found({"who": {"$nin": ["y"]}})) == ("135", "024")
    assert found({"$or": [{"n": 0}, {"$and": [{"odd": True}, {"n": {"$gt": 1, "$lt": 5}}]}]}) == "03"
    assert found({"odd": 1}) == ""  # true is no number
    index.delete(filter={"odd": True})
    assert found({"n": {"$gte": 0}}) == "024"
    assert [n.name for page in index.list_namespaces() for n in page.namespaces] == ["__default__"]
    index.delete(delete_all=True)
    assert index.describe_index_stats().total_vector_count == 0


def test_batches_are_bounded_by_count_and_bytes(pinecone: Standin, make: Callable[..., Namespace]) -> None:
    namespace = make()
    namespace.put(records(2_500))
    assert [r["status"] for r in pinecone.requests("/vectors/upsert")] == [200] * 3
    assert sorted(namespace.ids()) == [f"passage-{n:05}" for n in range(2_500)]
    assert len(pinecone.requests("/vectors/list")) == 25
    assert list(namespace.ids("passage-0124")) == [f"passage-0124{n}" for n in range(10)]
    pinecone.reset()
    namespace.put(record(number, text="é" * 15_000) for number in range(200))  # 30 kB each
    sizes = [r["bytes"] for r in pinecone.requests("/vectors/upsert")]
    assert len(sizes) == 4
    assert max(sizes) <= 2_000_000 + 100


def test_ten_thousand_are_deleted_and_ids_of_any_number_fetched(pinecone: Standin, make: Callable[..., Namespace]) -> None:
    namespace = make()
    namespace.put(records(10_050))
    namespace.delete(f"passage-{n:05}" for n in range(10_000))
    assert [r["status"] for r in pinecone.requests("/vectors/delete") if r["status"] != 429] == [200] * 10
    left = [f"passage-{n:05}" for n in range(10_000, 10_050)]
    assert sorted(namespace.ids()) == left
    assert sorted(namespace.fetch(f"passage-{n:05}" for n in range(8_000, 10_050))) == left
    assert {r["status"] for r in pinecone.requests("/vectors/fetch")} == {200}


def test_vectors_come_back_to_the_last_bit(make: Callable[..., Namespace]) -> None:
    namespace, sent = make(), records(100)
    namespace.put(sent)
    stored = namespace.fetch(r.passage_id for r in sent)
    assert all(np.array(stored[r.passage_id].values, np.float32).tobytes() == r.vector.tobytes() for r in sent)


def test_too_large_metadata_are_refused_before_they_are_sent(pinecone: Standin, make: Callable[..., Namespace]) -> None:
    with pytest.raises(VectorStoreError, match="metadata and principals of document a are more than"):
        make().put([record(1, principals=["group:" + "x" * 200] * 300)])
    assert pinecone.requests() == []


def test_pace_spreads_what_is_asked_for_at_once() -> None:
    async def spend() -> float:
        pace, began = Pace(200), time.monotonic()
        for amount in (1, 10, 10, 1):
            await pace.wait(amount)
        return time.monotonic() - began

    assert asyncio.run(spend()) >= 21 / 200


@pytest.mark.parametrize(
    ("fault", "tries"),
    [
        ({"status": 429, "times": 2, "retry_after": 1}, 3),
        ({"status": 503, "times": 4}, 5),
        ({"status": 0, "times": 2}, 1),  # only what was done is counted
        ({"status": 1, "times": 2}, 3),
        ({"status": 2, "times": 1, "seconds": 3.0}, 1),
    ],
    ids=["throttled", "failing", "dropped", "done, and dropped", "hanging"],
)
@pytest.mark.parametrize("path", ["/vectors/upsert", "/vectors/delete"])
def test_what_passes_is_tried_again_by_one_layer(path: str, fault: dict[str, Any], tries: int, pinecone: Standin, make: Callable[..., Namespace]) -> None:
    namespace = make(attempt_sec=1.0)
    namespace.put(records(3))
    before = len(pinecone.requests(path))
    pinecone.set(faults=[{"path": path, **fault}])
    if path.endswith("upsert"):
        namespace.put([record(3)])
    else:
        namespace.delete(["passage-00000"])
    assert sorted(namespace.ids()) == [f"passage-{n:05}" for n in ((0, 1, 2, 3) if path.endswith("upsert") else (1, 2))]
    asked = pinecone.requests(path)[before:]
    assert len(asked) == tries
    if "retry_after" in fault:
        assert all(later["at"] - earlier["at"] >= 1 for earlier, later in pairwise(asked))


def test_what_does_not_pass_ends_with_its_reason(pinecone: Standin, make: Callable[..., Namespace]) -> None:
    pinecone.set(faults=[{"path": "/vectors/upsert", "times": 10_000, "status": 503}])
    with pytest.raises(VectorStoreError, match=r"failed \d+ times within 1 s"):
        make(call_sec=1.0).put(records(1))
    assert len(pinecone.requests()) > 1
    pinecone.reset()
    pinecone.set(faults=[{"path": "/", "times": 1, "status": 429, "retry_after": 60}])
    with pytest.raises(VectorStoreError, match=r"failed 1 times within 5 s.*\[429\]"):
        make(call_sec=5.0).put(records(1))
    assert len(pinecone.requests()) == 1
    pinecone.reset()
    pinecone.set(faults=[{"path": "/", "times": 1, "status": 400}])
    with pytest.raises(VectorStoreError, match="refuses a request"):
        make().put(records(1))
    assert len(pinecone.requests()) == 1


def test_without_key_or_sequence_numbers_it_says_so(pinecone: Standin, make: Callable[..., Namespace], monkeypatch: pytest.MonkeyPatch) -> None:
    pinecone.set(lsn_headers=False)
    with pytest.raises(VectorStoreError, match="no log sequence number"):
        make().put(records(1))
    monkeypatch.delenv("PINECONE_API_KEY")
    with pytest.raises(VectorStoreError, match="PINECONE_API_KEY is not set"):
        make()


def test_nothing_to_do_asks_nothing_or_finds_nothing(pinecone: Standin, make: Callable[..., Namespace]) -> None:
    namespace = make()
    namespace.put([])
    namespace.delete([])
    assert pinecone.requests() == []
    namespace.delete(["of a namespace that is not there yet"])
    assert list(namespace.ids()) == []


@pytest.mark.parametrize("change", ["put", "delete"])
def test_a_change_is_not_done_while_queries_do_not_see_it(change: str, pinecone: Standin, make: Callable[..., Namespace]) -> None:
    namespace = make()
    namespace.put(records(2))
    pinecone.set(hold=True)
    asked = len(pinecone.requests("/query"))
    work = (lambda: namespace.put([record(2)])) if change == "put" else (lambda: namespace.delete(["passage-00001"]))
    thread = threading.Thread(target=work)
    thread.start()
    while len(pinecone.requests("/query")) < asked + 3:  # it looks, and looks again
        assert thread.is_alive()
    assert thread.is_alive()
    pinecone.set(hold=False)
    thread.join()
    assert len(seen(raw(pinecone))) == (3 if change == "put" else 1)


def test_a_change_that_is_never_seen_ends(pinecone: Standin, make: Callable[..., Namespace]) -> None:
    pinecone.set(hold=True)
    with pytest.raises(VectorStoreError, match=r"do not see what was written|not asked again"):
        make(call_sec=1.0).put(records(1))


def test_done_is_never_said_too_early(pinecone: Standin, make: Callable[..., Namespace]) -> None:
    """200 changes, each visible after another random delay; queries see all of it the moment it is done."""
    namespace, index, there = make(), raw(pinecone), set[str]()
    pinecone.set(delay=[0.0, 0.03], rate=1000)
    for number in range(200):
        if number % 3 == 2:
            gone = min(there)
            namespace.delete([gone])
            there.remove(gone)
        else:
            namespace.put([record(number)])
            there.add(f"passage-{number:05}")
        assert seen(index) == there


def seen(index: Index) -> set[str]:
    return {m.id for m in index.query(vector=[1.0] * DIMENSION, top_k=1000, namespace="generation").matches}


def test_hybrid_ranks_by_meaning_and_terms(pinecone: Standin, make: Callable[..., Namespace]) -> None:
    texts = ["crane wind wind", "crane gate", "wall wind"]
    dense = np.eye(3, DIMENSION, dtype=np.float32)
    made = [Record(str(n), dense[n], {"document_id": "a"}, passage_terms(text.split())) for n, text in enumerate(texts)]
    make().put(made)
    terms = question_terms({"wind": 2.0, "crane": 0.5})
    index = raw(pinecone)

    def ranked(share: float) -> list[tuple[str, float]]:
        vector, sparse = weighted(dense[1].tolist(), terms, share)
        sent = {"indices": list(sparse.indices), "values": list(sparse.values)}
        return [(m.id, m.score) for m in index.query(vector=vector, sparse_vector=sent, top_k=3, namespace="generation").matches]

    def score(number: int, share: float) -> float:
        own = made[number].sparse
        assert own is not None
        weights = dict(zip(own.indices, own.values, strict=True))
        lexical = sum(weights.get(i, 0.0) * v for i, v in zip(terms.indices, terms.values, strict=True))
        return share * float(dense[1] @ dense[number]) + (1 - share) * lexical

    for share, first in ((0.999, "1"), (0.5, "0"), (0.001, "0"), (0.9, "1")):
        found = ranked(share)
        assert [i for i, _ in found] == sorted("012", key=lambda i: -score(int(i), share))
        assert found[0][0] == first
        assert [s for _, s in found] == pytest.approx([score(int(i), share) for i, _ in found], abs=1e-5)


def test_terms_weigh_as_bm25_says() -> None:
    once, twice = passage_terms(["a"]), passage_terms(["a", "a", "b"])
    assert dict(zip(twice.indices, twice.values, strict=True))[once.indices[0]] > once.values[0]
    assert len(passage_terms([str(n) for n in range(3_000)]).indices) == 1_000
    assert passage_terms([]) == Sparse((), ())
