"""One index generation: opened and checked against the encoder that will ask it, then followed as the writer changes it."""

import logging
import sqlite3
import threading
from collections.abc import Callable, Container, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from quarry_contract.index_store import EXACT_UP_TO, INDEX_DATABASE, SCHEMA_VERSION, graph_files, graph_sizes, narrowed_since, readers_of
from quarry_contract.manifests import INDEX_MANIFEST, IndexManifest, ManifestError, digest_file, read_manifest
from quarry_contract.messages import DocumentText, TextRange
from quarry_runtime.session import Array
from quarry_runtime.terms import Analyser

from .lexical import Vocabulary
from .passages import PassageStore, Row, changed, check_whole, counted, documents, principals, reading, removed, revision, rows
from .snapshot import Part, PartMaker, Snapshot
from .vectors import Graph, UntrueGraph

log = logging.getLogger("quarry")
CANARY_TOLERANCE = 1e-3
ROWS_AT_ONCE = 4096
_UNUSED = "a search graph is not used: %s"
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

        More than `exact_up_to` passages with the same readers are searched by a graph of their own, once there is one.
        Without `vectors`, none is read: dense search is elsewhere.

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
                    added = self._part(changed(connection, held.revision, self._width), held.vocabulary, held.graphs)
                    self.snapshot = held.changed(last, documents(connection), gone, added)
                else:
                    self.snapshot = self._read_all(connection, held.graphs)
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
        """Start looking for changes every POLL_SEC, and tending the graphs where vectors are held, in threads of their own."""
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
                self.tend_graphs()
            except Exception as error:  # of SQLite or faiss; the next change is another chance
                log.warning("no new search graph: %s: %s", type(error).__name__, error)
            self._grown.wait()
            self._grown.clear()

    def tend_graphs(self) -> None:
        """See that each list of readers with too many vectors to compare each has a graph, the writer's newest or one of our own, and no other has.

        Raises:
            sqlite3.Error: index.db cannot be read.
        """
        snapshot = self.snapshot
        held = {graph.readers: graph for graph in snapshot.graphs}
        wanted = snapshot.readers_above(self._exact_up_to)
        made = held | {graph.readers: graph for graph in self._stored_graphs(wanted) if self._is_true(graph, snapshot)}
        graphs = {readers: self._enough(made.get(readers), readers, passages, snapshot) for readers, passages in wanted.items()}
        if graphs != held:
            with self._changing:
                self.snapshot = self.snapshot.with_graphs(list(graphs.values()))

    def _enough(self, graph: Graph | None, readers: frozenset[str], passages: int, snapshot: Snapshot) -> Graph:
        """This one, or one of our own where it leaves too many vectors to be compared: over as many whole EXACT_UP_TO as there are."""
        full = max(1, self._exact_up_to)
        whole = passages // full * full
        if graph and graph.size <= 2 * passages and not self._narrowed(graph):
            covered = snapshot.covered(graph)
            if passages - covered <= self._exact_up_to or covered >= graph_sizes(0, whole)[-1]:
                return graph
        return Graph.build(readers, snapshot.rows_of(readers)[:whole], self._width, snapshot.vectors_of, snapshot.revision)

    def _narrowed(self, graph: Graph) -> bool:
        """Whether it is our own and somebody lost one of its documents since; the writer sees to its own."""
        return graph.revision is not None and narrowed_since(self.store.connection(), readers_of(graph.readers), graph.revision)

    def _stored_graphs(self, wanted: Container[frozenset[str]] | None = None) -> list[Graph]:
        """Those the writer made, of these readers if any are given, if they are whole and were not looked at before."""
        found = []
        for readers, name, sha256 in graph_files(self.store.connection()):
            path = self._folder / name
            try:
                known = principals(readers)
                if (wanted is not None and known not in wanted) or (name, sha256) in self._graphs_seen:
                    continue
                self._graphs_seen.add((name, sha256))
                if path.name != name or digest_file(path).sha256 != sha256:
                    raise ManifestError(f"{path.name} does not have the digest {INDEX_DATABASE} gives")
                found.append(Graph.load(path, self.manifest.dimension, known))
            except (OSError, ManifestError) as error:
                log.warning(_UNUSED, error)
        return found

    def _is_true(self, graph: Graph, snapshot: Snapshot) -> bool:
        """Whether it has the vectors of the snapshot."""
        rows = snapshot.rows_of(graph.readers)
        try:
            graph.check(rows[graph.find(rows)[0]], snapshot.vectors_of)
        except UntrueGraph as error:
            log.warning(_UNUSED, error)
            return False
        return True

    def _load(self) -> Snapshot:
        with reading(self.store.connection()) as connection:
            graphs = self._stored_graphs() if self._width and counted(connection) > self._exact_up_to else []
            try:
                snapshot = self._read_all(connection, graphs)
            except UntrueGraph as error:
                log.warning(_UNUSED, error)
                snapshot = self._read_all(connection, ())
            check_whole(connection, snapshot.passages)
        wanted = snapshot.readers_above(self._exact_up_to) if graphs else {}
        kept = [graph for graph in snapshot.graphs if graph.readers in wanted]
        return snapshot if len(kept) == len(snapshot.graphs) else snapshot.with_graphs(kept)

    def _read_all(self, connection: sqlite3.Connection, graphs: Sequence[Graph]) -> Snapshot:
        last, all_documents, vocabulary = revision(connection)[0], documents(connection), Vocabulary()
        part = self._part(rows(connection, self._width), vocabulary, graphs)
        return Snapshot(last, all_documents, vocabulary).changed(last, all_documents, np.zeros(0, np.int64), part)

    def _part(self, found: Iterator[Row], vocabulary: Vocabulary, graphs: Sequence[Graph] = ()) -> Part:
        maker = PartMaker(self._width, self._analyse, vocabulary, graphs)
        while block := list(islice(found, ROWS_AT_ONCE)):
            maker.add(block)
        return maker.made()


def _check_canary(manifest: IndexManifest, encode_passages: Encode) -> None:
    """The same files may still compute otherwise (another runtime, another processor): compare what they compute."""
    expected = np.array(manifest.canary_vector, np.float32)
    found = encode_passages([manifest.canary_text])[0]
    if found.shape != expected.shape or len(found) != manifest.dimension:
        raise ManifestError(f"index {manifest.generation} has vectors of another dimension than the retriever loaded gives")
    if not np.abs(found - expected).max() <= CANARY_TOLERANCE:
        raise ManifestError("the index's canary text is encoded otherwise here than where the index was made")
