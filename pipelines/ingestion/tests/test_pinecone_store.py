"""index.db and Pinecone changed together: what a question sees meanwhile, what crashes leave behind, and reconciliation."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from pinecone import Index
from quarry_contract.index_store import INDEX_DATABASE, connect
from quarry_contract.releases import index_dir
from quarry_contract.vector_store import VectorStoreError, filter_of, passage_terms
from quarry_runtime import tiny
from quarry_runtime.encode import Encoder

from quarry_ingestion.blocks import Document
from quarry_ingestion.chunk import CHUNKER, Chunk
from quarry_ingestion.pinecone_client import Record
from quarry_ingestion.pinecone_store import UNDER_WAY, PineconeStore
from quarry_ingestion.store import IndexStore, create
from quarry_ingestion.stores import PINECONE_HOST, open_store

from .pinecone_process import API_KEY, Standin, standin

RANDOM = np.random.default_rng(5)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    folder = tmp_path_factory.mktemp("encoder")
    tiny.encoder(folder, ["crane", "wall", "wind"])
    return Encoder.load(folder)


@pytest.fixture(scope="module")
def process(encoder: Encoder) -> Iterator[Standin]:
    assert encoder.manifest.dimension
    with standin(encoder.manifest.dimension) as started:
        yield started


@pytest.fixture
def pinecone(process: Standin, monkeypatch: pytest.MonkeyPatch) -> Standin:
    process.reset()
    monkeypatch.setenv("PINECONE_API_KEY", API_KEY)
    return process


@pytest.fixture
def folder(tmp_path: Path, encoder: Encoder) -> Path:
    return index_dir(tmp_path, create(tmp_path, encoder, CHUNKER))


Open = Callable[[], PineconeStore]


@pytest.fixture
def opened(folder: Path, pinecone: Standin) -> Iterator[Open]:
    made = []

    def store() -> PineconeStore:
        made.append(PineconeStore(folder, pinecone.url, 20))
        return made[-1]

    yield store
    for each in made:
        each.close()


def document(name: str, version: int, passages: int = 3, principals: tuple[str, ...] = ("*",)) -> tuple[Document, list[Chunk]]:
    words = [f"{name} version {version} part {n}." for n in range(passages)]
    text = "\n\n".join(words)
    made = Document(name, sha256(text.encode()).hexdigest(), name.upper(), name, "text/plain", text, (), (), {"n": version}, principals)
    starts = [text.index(w) for w in words]
    return made, [Chunk(f"{name}-{version}-{n}", name, starts[n], starts[n] + len(w), w, None, None) for n, w in enumerate(words)]


def put(store: PineconeStore, name: str, version: int, passages: int = 3, principals: tuple[str, ...] = ("*",)) -> None:
    made, chunks = document(name, version, passages, principals)
    store.put(made, chunks, RANDOM.normal(size=(len(chunks), store.manifest.dimension)).astype(np.float32))


def passage_ids(folder: Path) -> set[str]:
    database = connect(folder / INDEX_DATABASE)
    try:
        return {i for (i,) in database.execute("SELECT passage_id FROM passages")}
    finally:
        database.close()


@cache
def index_at(url: str) -> Index:
    return Index(host=url, api_key=API_KEY)


def found(pinecone: Standin, folder: Path, *principals: str, **filters: object) -> set[str]:
    """What queries see."""
    dimension = json.loads((folder / "index.json").read_text())["dimension"]
    asked = filter_of(principals, filters)  # type: ignore[arg-type]
    return {m.id for m in index_at(pinecone.url).query(vector=[1.0] * dimension, top_k=1000, namespace=folder.name, filter=asked).matches}


def test_both_hold_the_same_after_every_change(pinecone: Standin, opened: Open, folder: Path) -> None:
    pinecone.set(delay=[0.0, 0.02])
    store = opened()
    put(store, "a", 1)
    put(store, "b", 1, 5)
    assert found(pinecone, folder) == passage_ids(folder) == {f"a-1-{n}" for n in range(3)} | {f"b-1-{n}" for n in range(5)}
    put(store, "b", 2, 2)
    assert found(pinecone, folder) == passage_ids(folder) == {f"a-1-{n}" for n in range(3)} | {"b-2-0", "b-2-1"}
    put(store, "b", 2, 1)  # the same version cut otherwise
    assert found(pinecone, folder) == passage_ids(folder)
    assert found(pinecone, folder, n=2) == {"b-2-0"}
    sparse, terms = store.namespace.fetch(["b-2-0"])["b-2-0"].sparse_values, passage_terms(["b", "b", "b", "version", "2", "part", "0"])  # id, title, words
    assert dict(zip(sparse.indices, sparse.values, strict=True)) == pytest.approx(dict(zip(terms.indices, terms.values, strict=True)))
    assert store.delete("a")
    assert not store.delete("a")
    assert found(pinecone, folder) == passage_ids(folder) == {"b-2-0"}
    assert store.reconcile_vectors(nullcontext) == {"orphans": 0, "gaps": 0, "differing": 0}


def test_principals_and_filters_are_pinecones_too(pinecone: Standin, opened: Open, folder: Path) -> None:
    store = opened()
    put(store, "a", 1, 1, ("group:x", "user:y"))
    put(store, "b", 1, 1)
    put(store, "c", 1, 1, ())
    assert found(pinecone, folder) == {"b-1-0"}
    assert found(pinecone, folder, "user:y") == {"a-1-0", "b-1-0"}
    assert found(pinecone, folder, "user:y", document_id=("a", "c")) == {"a-1-0"}
    assert store.set_principals("a", ["user:z"])
    assert found(pinecone, folder, "user:y") == {"b-1-0"}
    assert found(pinecone, folder, "user:z") == {"a-1-0", "b-1-0"}
    assert store.reconcile_vectors(nullcontext) == {"orphans": 0, "gaps": 0, "differing": 0}


def test_a_question_sees_one_version_at_any_moment(pinecone: Standin, opened: Open, folder: Path) -> None:
    """Asked over and over while a document is replaced: what Pinecone finds and index.db has is one whole version."""
    pinecone.set(delay=[0.0, 0.02], rate=10_000)
    store = opened()
    put(store, "a", 0)
    ended, seen = threading.Event(), []

    def ask() -> None:
        while not ended.is_set():
            before = passage_ids(folder)
            hits = found(pinecone, folder) & before
            if passage_ids(folder) == before:  # else the snapshot has changed, and the retriever searches again
                seen.append((hits, before))

    asking = threading.Thread(target=ask)
    asking.start()
    for version in range(1, 40):
        put(store, "a", version)
    ended.set()
    asking.join()
    assert len(seen) > 20
    assert [pair for pair in seen if pair[0] != pair[1]] == []


@pytest.mark.parametrize("path", ["/vectors/upsert", "/vectors/delete"])
def test_a_refused_write_leaves_one_version_and_the_next_change_repairs(path: str, pinecone: Standin, opened: Open, folder: Path) -> None:
    store = opened()
    put(store, "a", 1)
    pinecone.set(faults=[{"path": path, "status": 400, "times": 1}])
    with pytest.raises(VectorStoreError):
        put(store, "a", 2)
    version = 1 if path.endswith("upsert") else 2
    assert found(pinecone, folder) & passage_ids(folder) == {f"a-{version}-{n}" for n in range(3)}
    put(opened(), "b", 1)
    assert found(pinecone, folder) == passage_ids(folder)
    assert not (folder / UNDER_WAY).exists()


KILLED = """
import sys
from pathlib import Path
from tests.test_pinecone_store import PineconeStore, put
store = PineconeStore(Path(sys.argv[1]), sys.argv[2], 20)
print("begins", flush=True)
put(store, "a", 2, 5) if sys.argv[3] == "put" else store.delete("a")
"""


@pytest.mark.parametrize(("change", "path"), [("put", "/vectors/upsert"), ("put", "/vectors/delete"), ("delete", "/vectors/delete")])
def test_killed_on_its_way_it_is_finished_by_the_next(
    change: str, path: str, pinecone: Standin, opened: Open, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 while it waits for Pinecone to show what it wrote, before the switch and after it."""
    first = PineconeStore(folder, pinecone.url, 20)
    put(first, "a", 1)
    put(first, "b", 1)
    first.close()
    if path.endswith("upsert"):
        pinecone.set(hold=True)
    else:  # the switch is made, what it removed is not yet gone from Pinecone
        pinecone.set(faults=[{"path": path, "status": 503, "times": 100_000}])
    before = len(pinecone.requests(path))
    command = [sys.executable, "-c", KILLED, str(folder), pinecone.url, change]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]) as process:
        while len(pinecone.requests(path)) == before:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    pinecone.set(hold=False, faults=[])
    there = {"b-1-0", "b-1-1", "b-1-2"} | (
        {f"a-1-{n}" for n in range(3)} if path.endswith("upsert") else {f"a-2-{n}" for n in range(5)} if change == "put" else set()
    )
    assert passage_ids(folder) == there
    assert found(pinecone, folder) > there  # so there is something to finish
    monkeypatch.setenv(PINECONE_HOST, pinecone.url)
    store = open_store(folder)
    assert store.settle() > 0
    store.close()
    assert found(pinecone, folder) == there
    assert opened().settle() == 0


def test_reconciliation_finds_and_repairs(pinecone: Standin, opened: Open, folder: Path) -> None:
    store = opened()
    put(store, "a", 1, 1_200)
    put(store, "b", 1, 4)
    vector = np.ones(store.manifest.dimension, np.float32)
    store.namespace.put(Record(f"orphan-{n}", vector, {"document_id": "gone"}) for n in range(1_100))
    store.namespace.delete(f"a-1-{n}" for n in range(1_050))
    [kept] = store._records(["b-1-0"])
    store.namespace.put([Record("b-1-0", kept.vector, {**kept.metadata, "principals": ["user:old"]}, kept.sparse)])
    store.namespace.put([Record("b-1-1", vector, kept.metadata, kept.sparse), Record("b-1-2", kept.vector, kept.metadata)])
    assert store.reconcile_vectors(nullcontext) == {"orphans": 1_100, "gaps": 1_050, "differing": 3}
    assert found(pinecone, folder) <= passage_ids(folder)
    assert set(store.namespace.ids()) == passage_ids(folder)
    assert store.reconcile_vectors(nullcontext) == {"orphans": 0, "gaps": 0, "differing": 0}


def test_without_the_key_it_says_what_to_do(folder: Path, pinecone: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PINECONE_API_KEY")
    with pytest.raises(VectorStoreError, match="PINECONE_API_KEY is not set"):
        PineconeStore(folder, pinecone.url, 20)
    monkeypatch.setenv(PINECONE_HOST, pinecone.url)
    with pytest.raises(VectorStoreError, match="PINECONE_API_KEY is not set"):
        open_store(folder)
    monkeypatch.delenv(PINECONE_HOST)
    store = open_store(folder)
    assert type(store) is IndexStore
    store.close()
