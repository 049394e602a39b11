"""The search graph beside index.db: right, kept up to date, made anew when it is not what it was, and safe against crashes and forgetting."""

from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
import pytest
from quarry_contract.index_store import INDEX_DATABASE
from quarry_contract.manifests import INDEX_MANIFEST, digest_file
from quarry_contract.releases import index_dir
from quarry_runtime import tiny
from quarry_runtime.encode import Encoder

from quarry_ingestion import graphs, pipeline, tending
from quarry_ingestion.blocks import Document
from quarry_ingestion.chunk import CHUNKER, Chunk
from quarry_ingestion.graphs import is_due, tend_graph
from quarry_ingestion.locks import writing
from quarry_ingestion.pinecone_store import PineconeStore
from quarry_ingestion.sources import Folder
from quarry_ingestion.store import IndexStore, create
from quarry_ingestion.targets import read_targets

from .crash import DONE, KILLED, REFUSED, full_at, in_child, kill_at

PER_DOCUMENT, DIMENSION = 20, 32


def vectors(number: int, rows: int) -> np.ndarray:
    """Unit vectors in topics, as encoders give them."""
    make = np.random.default_rng(number)
    made = np.random.default_rng(number % 40).normal(size=DIMENSION) + 0.7 * make.normal(size=(rows, DIMENSION))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def put(store: IndexStore, number: int, version: int = 0) -> None:
    """A document of so many passages."""
    name, text = f"d{number:04}", "w" * PER_DOCUMENT
    document = Document(name, str(version), name, name, "text/plain", text, (), ())
    chunks = [Chunk(f"{name}/{version}/{i}", name, i, i + 1, "w", None, None) for i in range(PER_DOCUMENT)]
    store.put(document, chunks, vectors(number + 10_000 * version, PER_DOCUMENT))


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenMP's threads are not there in a forked child, which waits for them for ever."""
    monkeypatch.setattr(graphs, "cpus", lambda: 1)
    faiss.omp_set_num_threads(1)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    folder = tmp_path_factory.mktemp("encoder")
    tiny.encoder(folder, ["crane"], DIMENSION)
    return Encoder.load(folder)


@pytest.fixture
def store(tmp_path: Path, encoder: Encoder) -> Iterator[IndexStore]:
    """With 400 passages."""
    made = IndexStore(index_dir(tmp_path, create(tmp_path, encoder, CHUNKER)))
    for number in range(20):
        put(made, number)
    yield made
    made.close()


def files(store: IndexStore) -> set[str]:
    return {path.name for path in store.folder.iterdir() if not path.name.startswith(INDEX_DATABASE) and path.name != INDEX_MANIFEST}


def ids(store: IndexStore) -> list[int]:
    """The rows in the graph, checked to be what index.db says, with the vectors of index.db."""
    saved = store.graph()
    assert saved is not None and files(store) == {saved.file}
    assert digest_file(store.folder / saved.file).sha256 == saved.sha256
    graph = faiss.read_index(str(store.folder / saved.file))
    rows = faiss.vector_to_array(graph.id_map).tolist()
    assert graph.ntotal == saved.vectors == len(set(rows))
    held = dict(store.vectors(rows))
    assert all(graph.reconstruct(row).tobytes() == held[row] for row in rows if row in held)
    return sorted(rows)


def test_the_graph_finds_what_exact_search_finds(tmp_path: Path, store: IndexStore) -> None:
    for number in range(20, 400):
        put(store, number)
    name = tend_graph(tmp_path, store, 1000)
    assert ids(store) == store.rows().tolist() and name is not None
    graph = faiss.read_index(str(store.folder / name))
    every = np.stack([np.frombuffer(raw, "<f4") for _, raw in store.vectors(store.rows().tolist())])
    asked = np.concatenate([vectors(number, 1) for number in range(20_000, 20_200)])
    _, found = graph.search(asked, 10, params=faiss.SearchParametersHNSW(efSearch=128))
    truth = store.rows()[np.argsort(-(asked @ every.T), axis=1)[:, :10]]
    assert sum(len(np.intersect1d(a, b)) for a, b in zip(found, truth, strict=True)) >= 0.98 * truth.size


def test_no_graph_where_every_vector_is_compared(tmp_path: Path, store: IndexStore) -> None:
    assert tend_graph(tmp_path, store, 400) is None
    assert (store.graph(), files(store)) == (None, set())


def test_the_graph_is_kept_up_to_date(tmp_path: Path, store: IndexStore, caplog: pytest.LogCaptureFixture) -> None:
    revision = store.revision
    first = tend_graph(tmp_path, store, 200)
    assert first == f"graph-{revision}.faiss" and store.revision == revision + 1, "followers are told"
    assert tend_graph(tmp_path, store, 200) is None, "nothing changed"
    put(store, 100)
    assert tend_graph(tmp_path, store, 200) not in (None, first)
    assert ids(store) == store.rows().tolist()
    before = store.rows().tolist()
    store.delete("d0000")
    assert tend_graph(tmp_path, store, 200) is not None
    assert ids(store) == before, "what is gone stays in it until it is a share worth a new one"
    for number in range(1, 6):
        store.delete(f"d{number:04}")
    tend_graph(tmp_path, store, 200)
    assert ids(store) == store.rows().tolist()
    assert not caplog.records


@pytest.mark.parametrize("damage", ["cut", "gone", "elsewhere"])
def test_a_graph_that_is_not_what_it_was_is_made_anew(tmp_path: Path, store: IndexStore, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    name = tend_graph(tmp_path, store, 300)
    assert name is not None
    if damage == "cut":
        (store.folder / name).write_bytes((store.folder / name).read_bytes()[:-1])
    elif damage == "gone":
        (store.folder / name).unlink()
    else:
        store.database.execute("UPDATE graphs SET file = '../' || ?", (f"{store.folder.name}/{name}",))
    assert tend_graph(tmp_path, store, 300) is not None
    assert ids(store) == store.rows().tolist()
    assert "is built anew" in caplog.text


def test_a_crash_anywhere_leaves_the_old_graph_or_the_new_one(tmp_path: Path, store: IndexStore) -> None:
    tend_graph(tmp_path, store, 300)
    for call in range(1, 200):
        store.close()
        store.__init__(store.folder)  # type: ignore[misc]
        put(store, 500 + call)
        before = store.graph()
        result = in_child(lambda: tend_graph(tmp_path, IndexStore(store.folder), 300), kill_at(call))
        saved = store.graph()
        assert before is not None and saved is not None
        assert digest_file(store.folder / saved.file).sha256 == saved.sha256
        assert (saved != before) or result == KILLED
        if result == DONE:
            break
        store.delete(f"d{500 + call:04}")
    assert call > 8
    assert ids(store) == store.rows().tolist()


def test_a_full_disk_leaves_the_old_graph(tmp_path: Path, store: IndexStore) -> None:
    tend_graph(tmp_path, store, 300)
    saved = store.graph()
    for number in range(100, 130):
        put(store, number)
    assert saved and in_child(lambda: tend_graph(tmp_path, store, 300), full_at((store.folder / saved.file).stat().st_size)) == REFUSED
    assert store.graph() == saved
    tend_graph(tmp_path, store, 300)
    assert ids(store) == store.rows().tolist()


def test_what_is_forgotten_meanwhile_is_not_saved(tmp_path: Path, store: IndexStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real = graphs._add

    def forgetting(graph: object, own: IndexStore) -> None:
        real(graph, own)
        with writing(tmp_path):
            store.delete("d0003")
            store.drop_graphs()

    monkeypatch.setattr(graphs, "_add", forgetting)  # only to be there at that moment
    assert tend_graph(tmp_path, store, 300) is None
    assert (store.graph(), files(store)) == (None, set())


def test_a_queue_that_is_never_empty_does_not_put_it_off_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tending, "AFTER_JOBS", 3)
    tender = tending.Tender(tmp_path)
    for _ in range(2):
        for expected in (False, False, True):
            tender.changed()
            assert tender._wake.is_set() == expected
        tender._wake.clear()


def test_none_is_made_where_pinecone_serves_dense_search(tmp_path: Path, store: IndexStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_due(store, 300)
    monkeypatch.setattr(store, "dense_elsewhere", PineconeStore.dense_elsewhere)
    assert not is_due(store, 300)
    assert (tend_graph(tmp_path, store, 300), files(store)) == (None, set())


def test_an_ingest_makes_it(tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUARRY_RETRIEVER_EXACT_UP_TO", "2")
    tiny.encoder(tmp_path / "model", ["crane"], DIMENSION)
    (tmp_path / "docs").mkdir()
    for number in range(3):
        (tmp_path / "docs" / f"{number}.txt").write_text(f"The crane {number}.")
    pipeline.sync(Folder(tmp_path / "docs"), tmp_path, tmp_path / "model")
    store = IndexStore(index_dir(tmp_path, read_targets(tmp_path)[0][0]))
    assert ids(store) == store.rows().tolist()
    store.close()
