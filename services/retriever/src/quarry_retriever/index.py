"""One index generation: opened and checked against the encoder that will ask it, then followed as the writer changes it."""

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from quarry_contract.index_store import EXACT_UP_TO, INDEX_DATABASE, SCHEMA_VERSION
from quarry_contract.manifests import INDEX_MANIFEST, IndexManifest, ManifestError, digest_file, read_manifest
from quarry_contract.messages import DocumentText, TextRange
from quarry_runtime.session import Array
from quarry_runtime.terms import Analyser

from .lexical import Vocabulary
from .passages import PassageStore, Row, changed, check_whole, counted, documents, reading, removed, revision, rows
from .snapshot import Part, PartMaker, Snapshot
from .vectors import Graph, UntrueGraph

log = logging.getLogger("quarry")
CANARY_TOLERANCE = 1e-3
ROWS_AT_ONCE = 4096
_UNUSED = "a graph over the vectors is not used: %s"
POLL_SEC = 0.5
Encode = Callable[[Sequence[str]], Array]  # float32 (texts, dimension)


class Index:
    """The generation's newest snapshot, and the words of its passages and documents."""

    def __init__(self, manifest: IndexManifest, folder: Path, exact_up_to: int, vectors: bool) -> None:
        self.manifest = manifest
        self._width = manifest.dimension if vectors else 0  # of the vectors held in memory
        self.store = PassageStore(folder / INDEX_DATABASE)
        self._analyse = Analyser()
        self.analyse_question = Analyser(kept=0)  # time must not tell which words were met before
        self.follow_errors = 0
        self._failing = False
        self._folder, self._exact_up_to = folder, exact_up_to
        self._changing = threading.Lock()
        self._ended, self._grown = threading.Event(), threading.Event()
        self._threads: list[threading.Thread] = []
        self._graphs_seen: set[tuple[str, str]] = set()
        self.snapshot = self._load()

    @classmethod
    def open(cls, folder: Path, encoder_digest: str, encode_passages: Encode, exact_up_to: int = EXACT_UP_TO, vectors: bool = True) -> "Index":
        """Check and open a generation folder; `encoder_digest` and `encode_passages` are the loaded retriever's.

        More than `exact_up_to` passages are searched by a graph, once there is one. Without `vectors`, none is read: dense search is elsewhere.

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
            return cls(manifest, folder, exact_up_to, vectors)
        except (sqlite3.Error, ValueError, TypeError, RecursionError) as error:
            raise ManifestError(f"{INDEX_DATABASE} cannot be read: {type(error).__name__}: {error}") from error

    def texts(self, ranges: Sequence[TextRange], principals: Sequence[str]) -> tuple[DocumentText | None, ...]:
        """The words of each range, all of one revision; None where there is no such document or version for these principals.

        index.db is asked only for documents that the caller may see by the snapshot: of a hidden one it would read all pages to find out,
        of an absent one none, and time would tell.
        """
        documents = {asked.document_id for asked in ranges}
        shown = self._shown(documents, principals)
        if shown != documents:  # perhaps it came after the snapshot
            self.try_refresh()
            shown = self._shown(documents, principals)
        found = iter(self.store.texts([asked for asked in ranges if asked.document_id in shown], principals))
        return tuple(next(found) if asked.document_id in shown else None for asked in ranges)

    def _shown(self, documents: set[str], principals: Sequence[str]) -> set[str]:
        view = self.snapshot.view(frozenset(principals))
        return {document for document in documents if view.shows(document)}

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
                    [added] = self._parts(changed(connection, held.revision, self._width), held.vocabulary)
                    self.snapshot = held.changed(last, documents(connection), gone, added)
                else:
                    self.snapshot = self._read_all(connection, held.graph)
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
        """Start looking for changes every POLL_SEC, and tending the graph where vectors are held, in threads of their own."""
        self._threads = [threading.Thread(target=work, name=work.__name__, daemon=True) for work in (self._follow, *([self._tend] if self._width else []))]
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
            graph = max((g for g in (snapshot.graph, self._stored_graph(snapshot.parts, snapshot.alive)) if g), key=snapshot.covered, default=None)
            if graph is None or snapshot.passages - snapshot.covered(graph) > self._exact_up_to or graph.size > 2 * snapshot.passages:
                graph = Graph.build([(part.vectors, np.flatnonzero(mask)) for part, mask in zip(snapshot.parts, snapshot.alive, strict=True)])
        if graph is not snapshot.graph:
            with self._changing:
                self.snapshot = self.snapshot.with_graph(graph)

    def _stored_graph(self, parts: Sequence[Part] = (), alive: Sequence[Array] = ()) -> Graph | None:
        """The newest the writer made, if it is whole, true to these parts' living rows, and was not looked at before."""
        row = self.store.connection().execute("SELECT file, sha256 FROM graphs ORDER BY revision DESC LIMIT 1").fetchone()
        if row is None or row in self._graphs_seen:
            return None
        self._graphs_seen.add(row)
        path, sha256 = self._folder / row[0], row[1]
        try:
            if path.name != row[0] or digest_file(path).sha256 != sha256:
                raise ManifestError(f"{path.name} does not have the digest {INDEX_DATABASE} gives")
            graph = Graph.load(path, self.manifest.dimension)
            for part, mask in zip(parts, alive, strict=True):
                graph.check(part.vectors, mask)
            return graph
        except (OSError, ManifestError) as error:
            log.warning(_UNUSED, error)
            return None

    def _load(self) -> Snapshot:
        with reading(self.store.connection()) as connection:
            graph = self._stored_graph() if self._width and counted(connection) > self._exact_up_to else None
            try:
                snapshot = self._read_all(connection, graph)
            except UntrueGraph as error:
                log.warning(_UNUSED, error)
                snapshot = self._read_all(connection, None)
            check_whole(connection, snapshot.passages)
        return snapshot

    def _read_all(self, connection: sqlite3.Connection, graph: Graph | None) -> Snapshot:
        last, all_documents, vocabulary = revision(connection)[0], documents(connection), Vocabulary()
        snapshot = Snapshot(last, all_documents, vocabulary, graph=graph)
        for part in self._parts(rows(connection, self._width), vocabulary, graph):
            snapshot = snapshot.changed(last, all_documents, np.zeros(0, np.int64), part)
        return snapshot

    def _parts(self, found: Iterator[Row], vocabulary: Vocabulary, graph: Graph | None = None) -> list[Part]:
        """Of what the graph holds, if there is one, and of the rest."""
        made = [PartMaker(self._width, self._analyse, vocabulary, g) for g in ((graph, None) if graph else (None,))]
        while block := list(islice(found, ROWS_AT_ONCE)):
            if graph:
                has, places = graph.holding(block)
                made[0].add([row for row, known in zip(block, has, strict=True) if known], places)
                block = [row for row, known in zip(block, has, strict=True) if not known]
            made[-1].add(block)
        return [maker.made() for maker in made]


def _check_canary(manifest: IndexManifest, encode_passages: Encode) -> None:
    """The same files may still compute otherwise (another runtime, another processor): compare what they compute."""
    expected = np.array(manifest.canary_vector, np.float32)
    found = encode_passages([manifest.canary_text])[0]
    if found.shape != expected.shape or len(found) != manifest.dimension:
        raise ManifestError(f"index {manifest.generation} has vectors of another dimension than the retriever loaded gives")
    if not np.abs(found - expected).max() <= CANARY_TOLERANCE:
        raise ManifestError("the index's canary text is encoded otherwise here than where the index was made")
