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
from quarry_ingestion.graphs import is_due, tend
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


ALL, FEW = '["*"]', '["group:a"]'


def put(store: IndexStore, number: int, version: int = 0, principals: tuple[str, ...] = ("*",)) -> None:
    """A document of so many passages."""
    name, text = f"d{number:04}", "w" * PER_DOCUMENT
    document = Document(name, str(version), name, name, "text/plain", text, (), (), {}, principals)
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


def ids(store: IndexStore, readers: str = ALL) -> list[int]:
    """The rows in a graph, checked to be what index.db says, with the vectors of index.db."""
    graphs = store.graphs()
    assert files(store) == {saved.file for saved in graphs.values()}
    saved = graphs[readers]
    assert digest_file(store.folder / saved.file).sha256 == saved.sha256
    graph = faiss.read_index(str(store.folder / saved.file))
    rows = faiss.vector_to_array(graph.id_map).tolist()
    assert graph.ntotal == saved.vectors == len(set(rows))
    held = dict(store.vectors(rows))
    assert all(graph.reconstruct(row).tobytes() == held[row] for row in rows if row in held)
    return sorted(rows)


def whole(store: IndexStore, readers: str = ALL) -> bool:
    """Whether its graph has all of their vectors but those that a step is not whole with, and no others."""
    rows = store.rows(readers).tolist()
    held = ids(store, readers)
    return held == rows[: len(held)] and len(rows) - len(held) == store.graphs()[readers].missing <= len(rows) // 50


def test_the_graph_finds_what_exact_search_finds(tmp_path: Path, store: IndexStore) -> None:
    for number in range(20, 400):
        put(store, number)
    [name] = tend(tmp_path, store, 1000)
    assert whole(store)
    graph = faiss.read_index(str(store.folder / name))
    held = store.rows(ALL)[: graph.ntotal]
    every = np.stack([np.frombuffer(raw, "<f4") for _, raw in store.vectors(held.tolist())])
    asked = np.concatenate([vectors(number, 1) for number in range(20_000, 20_200)])
    _, found = graph.search(asked, 10, params=faiss.SearchParametersHNSW(efSearch=128))
    truth = held[np.argsort(-(asked @ every.T), axis=1)[:, :10]]
    assert sum(len(np.intersect1d(a, b)) for a, b in zip(found, truth, strict=True)) >= 0.98 * truth.size


def test_no_graph_where_every_vector_is_compared(tmp_path: Path, store: IndexStore) -> None:
    for number in range(100, 110):
        put(store, number, principals=("group:a",))
    assert tend(tmp_path, store, 400) == [], "600 passages, but 400 and 200 with the same readers"
    assert (store.graphs(), files(store)) == ({}, set())


def test_the_graph_is_kept_up_to_date(tmp_path: Path, store: IndexStore, caplog: pytest.LogCaptureFixture) -> None:
    revision = store.revision
    [first] = tend(tmp_path, store, 200)
    assert first.endswith(f"-{revision}.faiss") and store.revision == revision + 1, "followers are told"
    assert tend(tmp_path, store, 200) == [], "nothing changed"
    put(store, 100)
    assert tend(tmp_path, store, 200) not in ([], [first])
    assert whole(store)
    before = ids(store)
    store.delete("d0000")
    assert tend(tmp_path, store, 200) == [], "what is gone stays in it until it is a share worth a new one"
    assert ids(store) == before
    for number in range(1, 6):
        store.delete(f"d{number:04}")
    assert is_due(store, 200)
    tend(tmp_path, store, 200)
    assert whole(store) and not is_due(store, 200)
    for number in range(6, 15):
        store.delete(f"d{number:04}")
    assert is_due(store, 200)
    assert (tend(tmp_path, store, 200), store.graphs(), files(store)) == ([], {}, set()), "few are compared one by one"
    assert not is_due(store, 200) and not caplog.records


def test_each_list_of_readers_has_a_graph_of_its_own(tmp_path: Path, store: IndexStore) -> None:
    for number in range(100, 120):
        put(store, number, principals=("group:a",))
    assert len(tend(tmp_path, store, 300)) == 2
    assert whole(store, ALL) and whole(store, FEW)
    assert not set(ids(store, ALL)) & set(ids(store, FEW))
    kept = store.graphs()[ALL]
    for number in range(120, 140):
        put(store, number, principals=("group:a",))
    assert len(tend(tmp_path, store, 300)) == 1 and store.graphs()[ALL] == kept, "what others may read is left alone"
    for number in range(100, 130):
        store.delete(f"d{number:04}")
    assert (tend(tmp_path, store, 300), store.graphs()) == ([], {ALL: kept})


@pytest.mark.parametrize("how", ["permitted", "put"])
def test_what_somebody_may_no_longer_read_leaves_their_graph(tmp_path: Path, store: IndexStore, how: str) -> None:
    def give(principals: tuple[str, ...]) -> None:
        if how == "permitted":
            store.set_principals("d0003", principals)
        else:
            put(store, 3, version=len(principals), principals=principals)

    tend(tmp_path, store, 300)
    before = set(ids(store))
    give(("*", "group:a"))
    assert not is_due(store, 300), "nobody lost it"
    store.set_principals("d0004", ("group:a",))
    give(("*",))
    assert is_due(store, 300) and tend(tmp_path, store, 300)
    assert whole(store) and not is_due(store, 300)
    left = [row for row in before if row not in store.rows(ALL)]
    assert len(left) == PER_DOCUMENT * (1 if how == "permitted" else 2) and not set(left) & set(ids(store))


def test_a_graph_depends_only_on_its_own_vectors_and_their_order(tmp_path: Path, encoder: Encoder) -> None:
    """Not on other readers' documents in between, on when it was brought up to date, nor on the number of threads."""
    made = []
    for world, every in (("with", 3), ("without", 1000)):
        store = IndexStore(index_dir(tmp_path / world, create(tmp_path / world, encoder, CHUNKER)))
        for number in range(60):
            put(store, number)
            if world == "with":
                put(store, 1000 + number, principals=("group:a",))
            if number % every == 0:
                tend(tmp_path / world, store, 200)
        faiss.omp_set_num_threads(1)
        tend(tmp_path / world, store, 200)
        graph = faiss.read_index(str(store.folder / store.graphs()[ALL].file))
        held = [f"{vector:.3f}" for row in faiss.vector_to_array(graph.id_map).tolist()[:3] for vector in graph.reconstruct(row)]
        made.append((held, faiss.serialize_index(graph.index).tobytes()))
        assert len(store.graphs()) == (2 if world == "with" else 1)
        store.close()
    assert made[0] == made[1]


def test_an_index_of_before_is_brought_up_to_date(tmp_path: Path, store: IndexStore) -> None:
    """When one graph held all vectors."""
    store.database.executescript("DROP TABLE graphs; DROP TABLE narrowed; DROP INDEX documents_readers;")
    store.database.execute("CREATE TABLE graphs(file TEXT PRIMARY KEY, revision INTEGER NOT NULL, vectors INTEGER NOT NULL, sha256 TEXT NOT NULL)")
    store.database.execute("INSERT INTO graphs VALUES ('graph-9.faiss', 9, 1, '')")
    (store.folder / "graph-9.faiss").write_bytes(b"old")
    anew = IndexStore(store.folder)
    IndexStore(store.folder).close()
    assert is_due(anew, 300) and tend(tmp_path, anew, 300)
    assert whole(anew)
    anew.close()


@pytest.mark.parametrize("damage", ["cut", "gone", "elsewhere"])
def test_a_graph_that_is_not_what_it_was_is_made_anew(tmp_path: Path, store: IndexStore, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    [name] = tend(tmp_path, store, 300)
    if damage == "cut":
        (store.folder / name).write_bytes((store.folder / name).read_bytes()[:-1])
    elif damage == "gone":
        (store.folder / name).unlink()
    else:
        store.database.execute("UPDATE graphs SET file = '../' || ?", (f"{store.folder.name}/{name}",))
    assert tend(tmp_path, store, 300) != []
    assert whole(store)
    assert "is built anew" in caplog.text


def test_a_crash_anywhere_leaves_the_old_graphs_or_new_ones(tmp_path: Path, store: IndexStore) -> None:
    for number in range(100, 120):
        put(store, number, principals=("group:a",))
    tend(tmp_path, store, 300)
    halfway = False
    for call in range(1, 300, 3):  # every third, for time
        store.close()
        store.__init__(store.folder)  # type: ignore[misc]
        put(store, 500 + call)
        put(store, 900 + call, principals=("group:a",))
        before = store.graphs()
        result = in_child(lambda: tend(tmp_path, IndexStore(store.folder), 300), kill_at(call))
        after = store.graphs()
        assert after.keys() == before.keys() == {ALL, FEW}
        assert all(digest_file(store.folder / saved.file).sha256 == saved.sha256 for saved in after.values())
        assert after != before or result == KILLED
        halfway |= len(after.items() & before.items()) == 1
        if result == DONE:
            break
        store.delete(f"d{500 + call:04}")
        store.delete(f"d{900 + call:04}")
    assert call > 20 and halfway
    tend(tmp_path, store, 300)
    assert ids(store, ALL) and ids(store, FEW), "and no file too many"


def test_a_full_disk_leaves_the_old_graph(tmp_path: Path, store: IndexStore) -> None:
    [name] = tend(tmp_path, store, 300)
    saved = store.graphs()
    for number in range(100, 130):
        put(store, number)
    assert in_child(lambda: tend(tmp_path, store, 300), full_at((store.folder / name).stat().st_size)) == REFUSED
    assert store.graphs() == saved
    tend(tmp_path, store, 300)
    assert whole(store)


def test_what_is_forgotten_meanwhile_is_not_saved(tmp_path: Path, store: IndexStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real = graphs._grow

    def forgetting(graph: object, own: IndexStore, missing: np.ndarray) -> None:
        real(graph, own, missing)
        with writing(tmp_path):
            store.delete("d0003")
            store.drop_graphs()

    monkeypatch.setattr(graphs, "_grow", forgetting)  # only to be there at that moment
    assert tend(tmp_path, store, 300) == []
    assert (store.graphs(), files(store)) == ({}, set())


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
    assert (tend(tmp_path, store, 300), files(store)) == ([], set())


def test_an_ingest_makes_it(tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUARRY_RETRIEVER_EXACT_UP_TO", "2")
    tiny.encoder(tmp_path / "model", ["crane"], DIMENSION)
    (tmp_path / "docs").mkdir()
    for number in range(3):
        (tmp_path / "docs" / f"{number}.txt").write_text(f"The crane {number}.")
    pipeline.sync(Folder(tmp_path / "docs"), tmp_path, tmp_path / "model")
    store = IndexStore(index_dir(tmp_path, read_targets(tmp_path)[0][0]))
    assert whole(store)
    store.close()
