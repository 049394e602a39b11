"""The embedded index that one generation's documents are written to: `index.db`, a document's change one transaction (quarry_contract.index_store)."""

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from quarry_contract.index_store import (
    EVERYONE,
    INDEX_DATABASE,
    SCHEMA,
    SCHEMA_VERSION,
    connect,
    content_digest,
    narrowed_since,
    readers_of,
    upgrade,
)
from quarry_contract.manifests import INDEX_MANIFEST, Chunker, IndexManifest, ManifestError, generation_name, read_manifest, write_manifest
from quarry_contract.releases import index_dir
from quarry_runtime.encode import Encoder
from quarry_runtime.session import Array

from .blocks import Document
from .chunk import Chunk

CANARY = "What is the maximum wind speed for lifting with the tower crane?"
LOGGED_CHANGES = 10_000  # that a follower may be behind before it loads everything anew
CHECKPOINT_SEC = 10.0  # to wait for followers that are in the middle of reading

Alone = Callable[[], AbstractContextManager[None]]  # while it lasts nobody else changes anything

_DOCUMENT = "document_id, version, title, source, media_type, text, pages, sections, metadata, principals"


@dataclass(frozen=True)
class Saved:
    """A search graph beside index.db, over vectors of documents with the same readers (JSON, as documents.principals)."""

    file: str
    readers: str
    revision: int  # when it was begun
    vectors: int
    missing: int  # passages with these readers that it did not hold
    sha256: str


class Store(Protocol):
    """What ingestion needs of a place that holds documents, passages and vectors. Each change is seen whole or not at all."""

    def put(self, document: Document, chunks: Sequence[Chunk], vectors: Array) -> None:
        """Replace all there is of this document. `vectors` is float32 (len(chunks), dimension), in the order of `chunks`."""

    def delete(self, document_id: str) -> bool:
        """Remove all there is of it; whether there was anything."""

    def set_principals(self, document_id: str, principals: Sequence[str]) -> bool:
        """Change who may read it; whether there is such a document."""

    def versions(self) -> Iterator[tuple[str, str]]:
        """(document id, version) of all documents, in the order of their ids."""

    def document(self, document_id: str) -> Document | None:
        """As it was put."""


def create(home: Path, encoder: Encoder, chunker: Chunker) -> str:
    """Make the encoder's generation, empty, unless it is there; its name. The manifest comes last: without it the rest is begun anew."""
    manifest = encoder.manifest
    generation = generation_name(manifest.digest, chunker, SCHEMA_VERSION)
    folder = index_dir(home, generation)
    if (folder / INDEX_MANIFEST).exists():
        return generation
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{INDEX_DATABASE}*"):
        left.unlink()
    database = connect(folder / INDEX_DATABASE, writing=True)
    database.executescript(f"BEGIN; {SCHEMA} COMMIT;")
    database.close()
    vector = tuple(float(x) for x in encoder.encode([CANARY])[0])
    created = datetime.now(UTC).isoformat(timespec="seconds")
    write_manifest(folder / INDEX_MANIFEST, IndexManifest(generation, created, manifest.digest, len(vector), chunker, SCHEMA_VERSION, CANARY, vector))
    return generation


class IndexStore:
    """A generation's index.db, opened for writing."""

    dense_elsewhere = False  # whether a vector store beside it serves dense search, so that it needs no graph

    def __init__(self, folder: Path) -> None:
        """Open it.

        Raises:
            ManifestError: it is not there, not whole, or of another schema.
        """
        self.manifest = read_manifest(folder / INDEX_MANIFEST, IndexManifest)
        if self.manifest.schema != SCHEMA_VERSION:
            raise ManifestError(f"index {folder.name} has schema {self.manifest.schema}, this program writes {SCHEMA_VERSION}: `make reindex` makes a new one")
        if not (folder / INDEX_DATABASE).is_file():
            raise ManifestError(f"index {folder.name} has lost its {INDEX_DATABASE}: remove {folder} and ingest again")
        self.folder = folder
        self.database = connect(folder / INDEX_DATABASE, writing=True)
        upgrade(self.database)

    def close(self) -> None:
        """Let go of the file."""
        self.database.close()

    @property
    def revision(self) -> int:
        """Of the last change."""
        return int(self.database.execute("SELECT revision FROM state").fetchone()[0])

    def counts(self) -> tuple[int, int]:
        """Documents and passages."""
        documents, passages = self.database.execute("SELECT (SELECT count(*) FROM documents), (SELECT count(*) FROM passages)").fetchone()
        return int(documents), int(passages)

    def digest(self) -> str:
        """Of the content, however it came in."""
        return content_digest(self.database)

    @contextmanager
    def change(self) -> Iterator[int]:
        """One transaction, and its revision; all of it is taken back when anything in it fails."""
        self.database.execute("BEGIN IMMEDIATE")
        try:
            [revision] = self.database.execute("UPDATE state SET revision = revision + 1 RETURNING revision").fetchone()
            yield revision
            self._trim(revision - LOGGED_CHANGES)
            self.database.execute("COMMIT")
        except BaseException:
            if self.database.in_transaction:
                self.database.execute("ROLLBACK")
            raise

    def _trim(self, oldest: int) -> None:
        if oldest > 0:
            self.database.execute("DELETE FROM removed WHERE revision <= ?", (oldest,))
            self.database.execute("UPDATE state SET oldest = max(oldest, ?)", (oldest,))

    def put(self, document: Document, chunks: Sequence[Chunk], vectors: Array) -> None:
        """Replace all there is of this document, in one transaction. `vectors` is float32 (len(chunks), dimension)."""
        if vectors.shape != (len(chunks), self.manifest.dimension):
            raise ValueError(f"{vectors.shape} vectors for {len(chunks)} passages of {self.manifest.dimension} numbers")
        with self.change() as revision:
            self._note_narrowed(document.document_id, document.principals, revision)
            self._remove(document.document_id, revision)
            self.database.execute(f"INSERT INTO documents VALUES ({', '.join('?' * 11)})", (*_row(document), revision))  # noqa: S608 - question marks
            for chunk, vector in zip(chunks, np.ascontiguousarray(vectors, "<f4"), strict=True):
                values = (chunk.passage_id, chunk.document_id, chunk.start, chunk.end, chunk.text, chunk.page, chunk.section, revision)
                made = self.database.execute(
                    'INSERT INTO passages(passage_id, document_id, start, "end", text, page, section, revision) VALUES (?, ?, ?, ?, ?, ?, ?, ?)', values
                )
                self.database.execute("INSERT INTO vectors VALUES (?, ?)", (made.lastrowid, vector.tobytes()))

    def delete(self, document_id: str) -> bool:
        """Remove all there is of it, in one transaction; whether there was anything."""
        if self.database.execute("SELECT 1 FROM documents WHERE document_id = ?", (document_id,)).fetchone() is None:
            return False
        with self.change() as revision:
            self._remove(document_id, revision)
        return True

    def _remove(self, document_id: str, revision: int) -> None:
        self.database.execute("INSERT INTO removed SELECT row, ? FROM passages WHERE document_id = ?", (revision, document_id))
        self.database.execute("DELETE FROM vectors WHERE row IN (SELECT row FROM passages WHERE document_id = ?)", (document_id,))
        self.database.execute("DELETE FROM passages WHERE document_id = ?", (document_id,))
        self.database.execute("DELETE FROM documents WHERE document_id = ?", (document_id,))

    def set_principals(self, document_id: str, principals: Sequence[str]) -> bool:
        """Change who may read it, in one transaction; whether there is such a document."""
        if self.database.execute("SELECT 1 FROM documents WHERE document_id = ?", (document_id,)).fetchone() is None:
            return False
        with self.change() as revision:
            self._note_narrowed(document_id, principals, revision)
            values = (readers_of(principals), revision, document_id)
            self.database.execute("UPDATE documents SET principals = ?, revision = ? WHERE document_id = ?", values)
        return True

    def _note_narrowed(self, document_id: str, principals: Sequence[str], revision: int) -> None:
        """When somebody may read the document no longer: its vectors must leave the graph of who could."""
        before = self.principals(document_id)
        if before is not None and EVERYONE not in principals and not set(before) <= set(principals):
            self.database.execute("INSERT OR REPLACE INTO narrowed VALUES (?, ?)", (readers_of(before), revision))

    def settle(self) -> int:
        """Finish a change that was stopped in a vector store beside index.db; how many passages it had. Here there is no such store."""
        return 0

    def reconcile_vectors(self, alone: Alone) -> dict[str, int]:  # noqa: ARG002 - of stores that have one
        """Compare a vector store beside index.db with it and repair that one; how much was wrong, by kind."""
        return {}

    def vectors_of(self, document_id: str) -> set[str]:  # noqa: ARG002
        """Ids of what a vector store beside index.db has of a document."""
        return set()

    def forget_vectors(self, document_id: str, passage_ids: Sequence[str]) -> dict[str, Any] | None:  # noqa: ARG002
        """Remove what a vector store beside index.db still has of a document, and prove it; None where there is no such store."""
        return None

    def versions(self) -> Iterator[tuple[str, str]]:
        """(document id, version) of all documents, in the order of their ids."""
        yield from self.database.execute("SELECT document_id, version FROM documents ORDER BY document_id")

    def next_id(self, after: str) -> str | None:
        """The document that comes after this id, in the order of the ids."""
        row = self.database.execute("SELECT document_id FROM documents WHERE document_id > ? ORDER BY document_id LIMIT 1", (after,)).fetchone()
        return row and str(row[0])

    def document(self, document_id: str) -> Document | None:
        """As it was put."""
        row = self.database.execute(f"SELECT {_DOCUMENT} FROM documents WHERE document_id = ?", (document_id,)).fetchone()  # noqa: S608 - names of our own
        return row and _document(row)

    def principals(self, document_id: str) -> tuple[str, ...] | None:
        """Who may read it; None where there is no such document."""
        row = self.database.execute("SELECT principals FROM documents WHERE document_id = ?", (document_id,)).fetchone()
        return row and tuple(json.loads(row[0]))

    def passage_ids(self, document_id: str) -> list[str]:
        """Of a document."""
        return [str(i) for (i,) in self.database.execute("SELECT passage_id FROM passages WHERE document_id = ?", (document_id,))]

    def passages(self, document_id: str) -> list[tuple[Chunk, bytes | None]]:
        """A document's passages in the order they were put, each with its vector's bytes."""
        query = """SELECT p.passage_id, p.document_id, p.start, p."end", p.text, p.page, p.section, v.vector
                   FROM passages p LEFT JOIN vectors v USING (row) WHERE p.document_id = ? ORDER BY p.row"""
        return [(Chunk(*values), vector) for *values, vector in self.database.execute(query, (document_id,))]

    def sweep(self) -> dict[str, int]:
        """Remove passages that belong to no document and vectors that belong to no passage; how many there were."""
        passages = "row IN (SELECT row FROM passages p LEFT JOIN documents d USING (document_id) WHERE d.document_id IS NULL)"
        vectors = "row NOT IN (SELECT row FROM passages)"
        found = {name: self._count(name, where) for name, where in (("passages", passages), ("vectors", vectors))}
        if any(found.values()):
            with self.change() as revision:
                self.database.execute(f"INSERT OR IGNORE INTO removed SELECT row, ? FROM passages WHERE {passages}", (revision,))  # noqa: S608 - our own
                self.database.execute(f"DELETE FROM vectors WHERE {vectors} OR {passages}")  # noqa: S608
                self.database.execute(f"DELETE FROM passages WHERE {passages}")  # noqa: S608
        return found

    def _count(self, table: str, where: str) -> int:
        return int(self.database.execute(f"SELECT count(*) FROM {table} WHERE {where}").fetchone()[0])  # noqa: S608 - names of our own

    def rows(self, readers: str) -> Array:
        """int64 (passages,), ascending: those of documents with these readers."""
        query = "SELECT p.row FROM documents d JOIN passages p USING (document_id) WHERE d.principals = ?"
        return np.sort(np.fromiter((row for (row,) in self.database.execute(query, (readers,))), np.int64))

    def vectors(self, rows: Sequence[int]) -> list[tuple[int, bytes]]:
        """Row and vector of those of these rows that there are."""
        query = "SELECT row, vector FROM vectors WHERE row IN (SELECT value FROM json_each(?)) ORDER BY row"
        return self.database.execute(query, (json.dumps(rows),)).fetchall()

    def readers_above(self, above: int) -> dict[str, int]:
        """The lists of readers with more than so many passages, and how many they are."""
        if self.counts()[1] <= above:
            return {}
        query = "SELECT d.principals, count(*) AS n FROM documents d JOIN passages p USING (document_id) GROUP BY d.principals HAVING n > ?"
        return dict(self.database.execute(query, (above,)).fetchall())

    def graphs(self) -> dict[str, Saved]:
        """The search graphs, by readers."""
        return {row[1]: Saved(*row) for row in self.database.execute("SELECT file, readers, revision, vectors, missing, sha256 FROM graphs")}

    def stale(self, graph: Saved, passages: int) -> tuple[int, int]:
        """About how many of its readers' `passages` it does not have, and how many of its vectors are gone."""
        query = "SELECT count(*) FROM documents d JOIN passages p USING (document_id) WHERE d.principals = ? AND d.revision > ?"
        missing = graph.missing + int(self.database.execute(query, (graph.readers, graph.revision)).fetchone()[0])
        return missing, max(0, graph.vectors + missing - passages)

    def narrowed(self, graph: Saved) -> bool:
        """Whether somebody lost a document of its readers since it was begun."""
        return narrowed_since(self.database, graph.readers, graph.revision)

    def set_graph(self, graph: Saved) -> None:
        """Name a search graph in the place of the one of its readers, whose file goes."""
        with self.change():
            self.database.execute("INSERT OR REPLACE INTO graphs VALUES (?, ?, ?, ?, ?, ?)", astuple(graph))
        self._unlink_but(*(saved.file for saved in self.graphs().values()))

    def keep_graphs(self, readers: Iterable[str]) -> None:
        """Remove those of other readers, and files that no graph names."""
        gone = self.graphs().keys() - set(readers)
        if gone:
            with self.change():
                self.database.executemany("DELETE FROM graphs WHERE readers = ?", [(other,) for other in gone])
                self.database.execute("DELETE FROM narrowed WHERE readers NOT IN (SELECT principals FROM documents)")
        named = {saved.file for saved in self.graphs().values()}
        for path in self.folder.glob("graph-*.faiss"):
            if path.name not in named:
                path.unlink()

    def drop_graphs(self) -> None:
        """Remove the search graphs: they hold vectors that are to go. Without one, search is exact."""
        with self.change():
            self.database.execute("DELETE FROM graphs")
        self._unlink_but()

    def _unlink_but(self, *kept: str) -> None:
        for path in self.folder.iterdir():
            if not path.name.startswith(INDEX_DATABASE) and path.name not in (INDEX_MANIFEST, *kept):
                path.unlink()


def _row(document: Document) -> tuple[str, ...]:
    lists = (document.pages, document.sections, document.metadata)
    first = (document.document_id, document.version, document.title, document.source, document.media_type, document.text)
    return (*first, *(json.dumps(x, ensure_ascii=False) for x in lists), readers_of(document.principals))


def _document(row: Sequence[Any]) -> Document:
    pages, sections, metadata, principals = (json.loads(x) for x in row[6:])
    values: list[Any] = [*row[:6], tuple((n, at) for n, at in pages), tuple((h, at) for h, at in sections), metadata, tuple(principals)]
    return Document(*values)


def checkpoint(database: sqlite3.Connection) -> bool:
    """Bring all changes into the database file and empty its log; whether no reader was in the way for longer than CHECKPOINT_SEC."""
    database.execute(f"PRAGMA busy_timeout = {int(CHECKPOINT_SEC * 1000)}")
    return bool(database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0)


def sync_folder(folder: Path) -> None:
    """Make new names in it survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
