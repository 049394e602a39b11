"""One index generation: opened and checked against the encoder that will ask it, then followed as the writer changes it."""

import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from quarry_contract.index_store import INDEX_DATABASE, SCHEMA_VERSION
from quarry_contract.manifests import INDEX_MANIFEST, IndexManifest, ManifestError, digest_file, read_manifest
from quarry_runtime.session import Array

from .lexical import Analyser, Vocabulary
from .passages import PassageStore, check_whole, documents, reading, removed, revision, rows
from .snapshot import Part, Snapshot
from .vectors import Graph

log = logging.getLogger("quarry")
CANARY_TOLERANCE = 1e-3
EXACT_UP_TO = 50_000
POLL_SEC = 0.5
Encode = Callable[[Sequence[str]], Array]  # float32 (texts, dimension)


class Index:
    """The generation's newest snapshot, and the words of its passages and documents."""

    def __init__(self, manifest: IndexManifest, folder: Path, exact_up_to: int) -> None:
        self.manifest = manifest
        self.store = PassageStore(folder / INDEX_DATABASE)
        self.analyse = Analyser()
        self.follow_errors = 0
        self._failing = False
        self._folder, self._exact_up_to = folder, exact_up_to
        self._changing = threading.Lock()
        self._ended, self._grown = threading.Event(), threading.Event()
        self._threads: list[threading.Thread] = []
        self._graphs_seen: set[tuple[str, str]] = set()
        self.snapshot = self._load()

    @classmethod
    def open(cls, folder: Path, encoder_digest: str, encode_passages: Encode, exact_up_to: int = EXACT_UP_TO) -> "Index":
        """Check and open a generation folder; `encoder_digest` and `encode_passages` are the loaded retriever's.

        More than `exact_up_to` passages are searched by a graph, once there is one.

        Raises:
            ManifestError: it is damaged, or was encoded by another model.
        """
        manifest = read_manifest(folder / INDEX_MANIFEST, IndexManifest)
        if manifest.encoder_digest != encoder_digest:
            raise ManifestError(f"index {manifest.generation} was encoded by another retriever than the one loaded: ingest again with this one")
        if manifest.schema != SCHEMA_VERSION:
            raise ManifestError(f"index {manifest.generation} has schema {manifest.schema}, this program reads {SCHEMA_VERSION}: ingest again")
        _check_canary(manifest, encode_passages)
        try:
            return cls(manifest, folder, exact_up_to)
        except (sqlite3.Error, ValueError, TypeError, RecursionError) as error:
            raise ManifestError(f"{INDEX_DATABASE} cannot be read: {type(error).__name__}: {error}") from error

    def refresh(self) -> None:
        """Take up what changed since the newest snapshot.

        Raises:
            sqlite3.Error, ManifestError, ValueError, TypeError, RecursionError: it cannot be read, or what changed is damaged; the snapshot stays.
        """
        with self._changing:
            held = self.snapshot
            with reading(self.store.connection()) as connection:
                last, oldest = revision(connection)
                if last == held.revision:
                    return
                if oldest <= held.revision < last:
                    gone = np.array(removed(connection, held.revision), np.int64)
                    added = self._part(connection, held.revision, held.vocabulary)
                    self.snapshot = held.changed(last, documents(connection), gone, added)
                else:
                    self.snapshot = replace(self._read_all(connection), graph=held.graph)
        self._grown.set()

    def try_refresh(self) -> None:
        """Refresh; when that fails, count it and go on with the snapshot there is."""
        try:
            self.refresh()
            self._failing = False
        except Exception as error:  # of whatever kind: the thread must go on looking
            self.follow_errors += 1
            if not self._failing:  # the metric counts the rest
                log.warning("the index cannot be followed, served as of revision %d: %s: %s", self.snapshot.revision, type(error).__name__, error)
            self._failing = True

    def follow(self) -> None:
        """Start looking for changes every POLL_SEC, and tending the graph, in threads of their own."""
        self._threads = [threading.Thread(target=work, name=work.__name__, daemon=True) for work in (self._follow, self._tend)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End the threads; one that builds a graph is not waited for."""
        self._ended.set()
        self._grown.set()
        for thread in self._threads:
            thread.join(2 * POLL_SEC)

    def _follow(self) -> None:
        while not self._ended.wait(POLL_SEC):
            self.try_refresh()

    def _tend(self) -> None:
        while not self._ended.is_set():
            try:
                self.tend_graph()
            except Exception as error:  # of SQLite or faiss; the next change is another chance
                log.warning("no new graph over the vectors: %s: %s", type(error).__name__, error)
            self._grown.wait()
            self._grown.clear()

    def tend_graph(self) -> None:
        """See that there is a graph when there are too many vectors to compare each: the writer's newest, or one of our own.

        Raises:
            sqlite3.Error: index.db cannot be read.
        """
        snapshot = self.snapshot
        graph = None
        if snapshot.passages > self._exact_up_to:
            graph = max((g for g in (snapshot.graph, self._stored_graph()) if g), key=snapshot.covered, default=None)
            if graph is None or snapshot.passages - snapshot.covered(graph) > self._exact_up_to or graph.size > 2 * snapshot.passages:
                kept = [(part.vectors.values[mask], part.rows[mask]) for part, mask in zip(snapshot.parts, snapshot.alive, strict=True)]
                graph = Graph.build([values for values, _ in kept], [rows for _, rows in kept])
        if graph is not snapshot.graph:
            with self._changing:
                self.snapshot = replace(self.snapshot, graph=graph)

    def _stored_graph(self) -> Graph | None:
        """The newest the writer made, if it is whole and was not looked at before."""
        row = self.store.connection().execute("SELECT file, sha256 FROM graphs ORDER BY revision DESC LIMIT 1").fetchone()
        if row is None or row in self._graphs_seen:
            return None
        self._graphs_seen.add(row)
        path, sha256 = self._folder / row[0], row[1]
        try:
            if path.name != row[0] or digest_file(path).sha256 != sha256:
                raise ManifestError(f"{path.name} does not have the digest {INDEX_DATABASE} gives")
            return Graph.load(path, self.manifest.dimension)
        except (OSError, ManifestError) as error:
            log.warning("a graph over the vectors is not used: %s", error)
            return None

    def _load(self) -> Snapshot:
        with reading(self.store.connection()) as connection:
            snapshot = self._read_all(connection)
            check_whole(connection, snapshot.passages)
        return snapshot

    def _read_all(self, connection: sqlite3.Connection) -> Snapshot:
        last, counted, vocabulary = revision(connection)[0], documents(connection), Vocabulary()
        return Snapshot(last, counted, vocabulary).changed(last, counted, np.zeros(0, np.int64), self._part(connection, -1, vocabulary))

    def _part(self, connection: sqlite3.Connection, above: int, vocabulary: Vocabulary) -> Part:
        dimension = self.manifest.dimension
        return Part.of(rows(connection, above, dimension), dimension, self.analyse, vocabulary)


def _check_canary(manifest: IndexManifest, encode_passages: Encode) -> None:
    """The same files may still compute otherwise (another runtime, another processor): compare what they compute."""
    expected = np.array(manifest.canary_vector, np.float32)
    found = encode_passages([manifest.canary_text])[0]
    if found.shape != expected.shape or len(found) != manifest.dimension:
        raise ManifestError(f"index {manifest.generation} has vectors of another dimension than the retriever loaded gives")
    if not np.abs(found - expected).max() <= CANARY_TOLERANCE:
        raise ManifestError("the index's canary text is encoded otherwise here than where the index was made")
