"""The search graphs of a generation (HNSW, Malkov & Yashunin 2018), saved beside index.db so that no retriever has to build them at its start.

Each list of readers (documents.principals) with more passages than a retriever compares one by one has a graph of its own: so a graph holds
nothing hidden from anybody who may search it, and what they find does not depend on other documents. It grows by steps that depend on its size
alone (quarry_contract.index_store.graph_sizes) and is built anew when too many of its vectors are gone, when somebody may no longer read one of
them, or when the file is not what index.db says of it.
"""

import logging
import os
from collections.abc import Iterable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from quarry_contract.index_store import EXACT_UP_TO, graph_sizes
from quarry_contract.manifests import digest_file
from quarry_runtime.session import Array, cpus
from quarry_runtime.settings import number

from .locks import writing
from .store import IndexStore, Saved, sync_folder

log = logging.getLogger("quarry")
LINKS, BUILD_DEPTH = 32, 100
GONE_SHARE = 0.2  # of a graph's vectors
BUILDING = "graph.building"  # removed by who drops the graphs: what was read before must not be saved


def tend_graphs(home: Path, stores: Iterable[IndexStore]) -> list[str]:
    """Of several generations, see `tend`; the files written."""
    above = exact_up_to()
    return [name for store in stores for name in tend(home, store, above)]


def is_due(store: IndexStore, above: int) -> bool:
    """Whether `tend` has something to do; only the files themselves are not looked at."""
    if store.dense_elsewhere:
        return False
    wanted, saved = store.readers_above(above), store.graphs()
    return bool(saved.keys() - wanted.keys()) or any(readers not in saved or _is_stale(store, saved[readers], wanted[readers]) for readers in wanted)


def exact_up_to() -> int:
    """Of the retrievers, QUARRY_RETRIEVER_EXACT_UP_TO: more passages of the same readers than that are searched by a graph."""
    return int(number("QUARRY_RETRIEVER_EXACT_UP_TO", EXACT_UP_TO, 0, 1_000_000_000))


def tend(home: Path, store: IndexStore, above: int) -> list[str]:
    """See that each list of readers with more than `above` passages has a graph, whole and not stale, and no other has; the files written.

    Changes go on meanwhile. Of two processes that do this at once, the first to end a graph is heard.

    Raises:
        sqlite3.Error, OSError: index.db cannot be read, or a file cannot be written.
    """
    if store.dense_elsewhere:
        return []
    wanted = store.readers_above(above)
    with writing(home):
        store.keep_graphs(wanted)
    return [name for readers, passages in wanted.items() if (name := _tend_one(home, store, readers, passages))]


def _tend_one(home: Path, store: IndexStore, readers: str, passages: int) -> str | None:
    (store.folder / BUILDING).touch()
    try:
        saved = _saved(store, readers)
        if saved and not _is_stale(store, saved, passages):
            return None
        revision, rows = store.revision, store.rows(readers)
        graph = _read(store.folder / saved.file) if saved and not store.narrowed(saved) else _empty(store.manifest.dimension)
        missing, gone = _compared(rows, graph)
        if gone > GONE_SHARE * graph.ntotal:
            graph, missing = _empty(store.manifest.dimension), rows
        before = graph.ntotal
        _grow(graph, store, missing)
        left = len(missing) - (graph.ntotal - before)
        return _save(home, store, graph, Saved(_name(readers, revision), readers, revision, graph.ntotal, left, "")) if graph.ntotal else None
    finally:
        (store.folder / BUILDING).unlink(missing_ok=True)


def _is_stale(store: IndexStore, saved: Saved, passages: int) -> bool:
    missing, gone = store.stale(saved, passages)
    return gone > GONE_SHARE * saved.vectors or store.narrowed(saved) or bool(graph_sizes(saved.vectors, saved.vectors + missing))


def _name(readers: str, revision: int) -> str:
    return f"graph-{sha256(readers.encode()).hexdigest()[:16]}-{revision}.faiss"


def _saved(store: IndexStore, readers: str) -> Saved | None:
    """What index.db says of their graph, if the file is just that."""
    saved = store.graphs().get(readers)
    if saved is None:
        return None
    path = store.folder / saved.file
    whole = path.name == saved.file and path.is_file() and digest_file(path).sha256 == saved.sha256
    if not whole:
        log.warning("the search graph %s is gone or not what it was: it is built anew", saved.file)
    return saved if whole else None


def _compared(rows: Array, graph: Any) -> tuple[Array, int]:
    """The rows that it does not have, and how many of its own are gone."""
    import faiss

    held = faiss.vector_to_array(graph.id_map)
    missing = np.setdiff1d(rows, held, assume_unique=True)
    return missing, len(held) + len(missing) - len(rows)


def _empty(dimension: int) -> Any:
    import faiss  # here: what extracts and forks need not carry it

    index = faiss.IndexHNSWFlat(dimension, LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = BUILD_DEPTH
    return faiss.IndexIDMap2(index)


def _read(path: Path) -> Any:
    import faiss

    return faiss.read_index(str(path))


def _grow(graph: Any, store: IndexStore, missing: Array) -> None:
    """By whole steps. Vectors that went meanwhile are left out.

    The levels of the nodes are drawn anew in each step, from a beginning that depends on the graph's size: a file does not hold the generator's
    state. faiss links the nodes the same however many threads it has.
    """
    import faiss

    faiss.omp_set_num_threads(cpus())
    start = at = graph.ntotal
    for size in graph_sizes(start, start + len(missing)):
        found = store.vectors(missing[at - start : size - start].tolist())
        at = size
        if found:
            faiss.downcast_index(graph.index).hnsw.rng = faiss.RandomGenerator(graph.ntotal)  # type: ignore[attr-defined]
            graph.add_with_ids(np.frombuffer(b"".join(raw for _, raw in found), "<f4").reshape(len(found), -1), np.array([row for row, _ in found], np.int64))


def _save(home: Path, store: IndexStore, graph: Any, saved: Saved) -> str | None:
    """File first, index.db second: a crash in between leaves a file that the next one removes."""
    import faiss

    partial = store.folder / f"{saved.file}.{os.getpid()}.tmp"
    if not (store.folder / BUILDING).exists():
        return None
    faiss.write_index(graph, str(partial))
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    written = digest_file(partial).sha256
    with writing(home):
        if not (store.folder / BUILDING).exists():
            partial.unlink(missing_ok=True)
            return None
        partial.replace(store.folder / saved.file)
        sync_folder(store.folder)
        store.set_graph(replace(saved, sha256=written))
    return saved.file
