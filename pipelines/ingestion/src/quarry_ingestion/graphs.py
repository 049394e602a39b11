"""The search graph of a generation (HNSW, Malkov & Yashunin 2018), saved beside index.db so that no retriever has to build it at its start.

Made where there are more passages than a retriever compares one by one, and brought up to date when a share of it is stale: new vectors are
added to the graph there is; it is built anew when too many of its vectors are gone, or when the file is not what index.db says of it.
"""

import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from quarry_contract.index_store import EXACT_UP_TO
from quarry_contract.manifests import digest_file
from quarry_runtime.session import Array, cpus
from quarry_runtime.settings import number

from .locks import writing
from .store import IndexStore, Saved, sync_folder

log = logging.getLogger("quarry")
LINKS, BUILD_DEPTH = 32, 100
AT_ONCE = 10_000  # vectors read and added
STALE_SHARE = 0.02  # of the passages: fewer are left to exact search
GONE_SHARE = 0.2  # of the graph's vectors
BUILDING = "graph.building"  # removed by who drops the graphs: what was read before must not be saved


def tend_graphs(home: Path, stores: Iterable[IndexStore]) -> list[str]:
    """Of several generations, see `tend_graph`; the files written."""
    above = exact_up_to()
    return [name for store in stores if (name := tend_graph(home, store, above))]


def is_due(store: IndexStore, above: int) -> bool:
    """Whether `tend_graph` has something to do; only the file itself is not looked at."""
    _, passages = store.counts()
    if passages <= above or store.dense_elsewhere:
        return False
    saved = store.graph()
    return saved is None or sum(store.stale(saved)) > STALE_SHARE * passages


def exact_up_to() -> int:
    """Of the retrievers, QUARRY_RETRIEVER_EXACT_UP_TO: more passages than that are searched by a graph."""
    return int(number("QUARRY_RETRIEVER_EXACT_UP_TO", EXACT_UP_TO, 0, 1_000_000_000))


def tend_graph(home: Path, store: IndexStore, above: int) -> str | None:
    """See that the graph is there, whole and not stale, when there are more than `above` passages; the file's name if one was written.

    Changes go on meanwhile. Of two processes that do this at once, the first to end is heard.

    Raises:
        sqlite3.Error, OSError: index.db cannot be read, or the file cannot be written.
    """
    _, passages = store.counts()
    if passages <= above or store.dense_elsewhere:
        return None
    (store.folder / BUILDING).touch()
    try:
        saved = _saved(store)
        missing, gone = store.stale(saved) if saved else (passages, 0)
        if missing + gone <= STALE_SHARE * passages:
            return None
        graph = _empty(store.manifest.dimension) if saved is None or gone > GONE_SHARE * saved.vectors else _read(store.folder / saved.file)
        revision = store.revision
        _add(graph, store)
        return _save(home, store, graph, revision)
    finally:
        (store.folder / BUILDING).unlink(missing_ok=True)


def _saved(store: IndexStore) -> Saved | None:
    """What index.db says of the graph, if the file is just that."""
    saved = store.graph()
    if saved is None:
        return None
    path = store.folder / saved.file
    whole = path.name == saved.file and path.is_file() and digest_file(path).sha256 == saved.sha256
    if not whole:
        log.warning("the search graph %s is gone or not what it was: it is built anew", saved.file)
    return saved if whole else None


def _empty(dimension: int) -> Any:
    import faiss  # here: what extracts and forks need not carry it

    index = faiss.IndexHNSWFlat(dimension, LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = BUILD_DEPTH
    return faiss.IndexIDMap2(index)


def _read(path: Path) -> Any:
    import faiss

    return faiss.read_index(str(path))


def _add(graph: Any, store: IndexStore) -> None:
    """All vectors that it does not have."""
    import faiss

    rows = np.setdiff1d(store.rows(), faiss.vector_to_array(graph.id_map), assume_unique=True)
    faiss.omp_set_num_threads(cpus())
    for ids, vectors in _vectors(store, rows):
        graph.add_with_ids(vectors, ids)


def _vectors(store: IndexStore, rows: Array) -> Iterator[tuple[Array, Array]]:
    """Rows and vectors, AT_ONCE at a time; those that went meanwhile are left out."""
    for at in range(0, len(rows), AT_ONCE):
        found = store.vectors(rows[at : at + AT_ONCE].tolist())
        if found:
            yield np.array([row for row, _ in found], np.int64), np.frombuffer(b"".join(vector for _, vector in found), "<f4").reshape(len(found), -1)


def _save(home: Path, store: IndexStore, graph: Any, revision: int) -> str | None:
    """File first, index.db second: a crash in between leaves a file that the next one removes."""
    import faiss

    name = f"graph-{revision}.faiss"
    partial = store.folder / f"{name}.{os.getpid()}.tmp"
    if not (store.folder / BUILDING).exists():
        return None
    faiss.write_index(graph, str(partial))
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    sha256 = digest_file(partial).sha256
    with writing(home):
        if not (store.folder / BUILDING).exists():
            partial.unlink(missing_ok=True)
            return None
        partial.replace(store.folder / name)
        sync_folder(store.folder)
        store.set_graph(Saved(name, revision, graph.ntotal, sha256))
    return name
