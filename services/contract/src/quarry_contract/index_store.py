"""`index.db`: the documents, passages and vectors of one index generation, in one SQLite file that is changed in place.

One process writes, any number follow. A change of a document (all of its passages, its text, who may read it) is one
transaction that also raises `state.revision`; who reads inside one transaction therefore sees exactly one version of each
document. A follower that knows revision R catches up with: passages whose `revision` is above R, rows in `removed` above R,
documents whose `revision` is above R. When R is below `state.oldest`, the log no longer reaches back: load everything anew.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

INDEX_DATABASE = "index.db"
SCHEMA_VERSION = 1
EXACT_UP_TO = 50_000  # passages with the same readers whose vectors a retriever compares one by one; more are searched by a graph of their own
GRAPH_STEP = 50  # a graph grows by this part of itself at a time
EVERYONE = "*"  # the principal everyone has

SCHEMA = """
CREATE TABLE state(
    only INTEGER PRIMARY KEY CHECK (only = 1),
    revision INTEGER NOT NULL,              -- of the last change; 0 = empty
    oldest INTEGER NOT NULL                 -- `removed` is complete for changes above this revision
);
INSERT INTO state VALUES (1, 0, 0);
CREATE TABLE documents(
    document_id TEXT PRIMARY KEY,
    version TEXT NOT NULL,                  -- SHA-256 of the bytes, hex
    title TEXT NOT NULL,
    source TEXT NOT NULL,                   -- URI, or path in its folder
    media_type TEXT NOT NULL,
    text TEXT NOT NULL,                     -- canonical: what all offsets count in, in characters
    pages TEXT NOT NULL,                    -- JSON [[page number, start], ...]
    sections TEXT NOT NULL,                 -- JSON [[heading, start], ...]
    metadata TEXT NOT NULL,                 -- JSON object of scalars
    principals TEXT NOT NULL,               -- JSON list, sorted: who may read it; ["*"] = everyone
    revision INTEGER NOT NULL               -- that last changed anything of this document
);
CREATE TABLE passages(
    row INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again
    passage_id TEXT UNIQUE NOT NULL,
    document_id TEXT NOT NULL REFERENCES documents,
    start INTEGER NOT NULL,
    "end" INTEGER NOT NULL,
    text TEXT NOT NULL,                     -- documents.text[start:end]
    page INTEGER,
    section TEXT,
    revision INTEGER NOT NULL               -- that added it
);
CREATE INDEX passages_document ON passages(document_id);
CREATE INDEX passages_revision ON passages(revision);
CREATE INDEX documents_revision ON documents(revision);
CREATE TABLE vectors(
    row INTEGER PRIMARY KEY REFERENCES passages,
    vector BLOB NOT NULL                    -- float32, little-endian, `dimension` of them
);
CREATE TABLE removed(
    row INTEGER PRIMARY KEY,                -- a passage that is gone
    revision INTEGER NOT NULL               -- that removed it
);
CREATE INDEX removed_revision ON removed(revision);
"""

GRAPHS = """
CREATE TABLE graphs(
    file TEXT PRIMARY KEY,                  -- beside index.db: faiss IndexIDMap2 over HNSW, ids = rows
    readers TEXT UNIQUE NOT NULL,           -- documents.principals of all that it holds
    revision INTEGER NOT NULL,              -- when it was begun
    vectors INTEGER NOT NULL,
    missing INTEGER NOT NULL,               -- passages with these readers that it did not hold
    sha256 TEXT NOT NULL
);
CREATE TABLE narrowed(
    readers TEXT PRIMARY KEY,               -- documents.principals that a document had before others, not all of these, were set
    revision INTEGER NOT NULL               -- that did it last: a graph begun before is made anew
);
CREATE INDEX documents_readers ON documents(principals, document_id, revision);
"""
SCHEMA += GRAPHS


def upgrade(connection: sqlite3.Connection) -> None:
    """Bring an index of before graphs were told apart by readers up to date: its one graph, of all vectors, is used no more."""
    if _has_readers(connection):
        return
    connection.execute("BEGIN IMMEDIATE")
    if not _has_readers(connection):  # of two processes at once, one does it
        connection.execute("DROP TABLE graphs")
        for statement in GRAPHS.split(";\n"):
            connection.execute(statement)
    connection.execute("COMMIT")


def graph_files(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
    """(readers, file, SHA-256) of every graph."""
    return connection.execute("SELECT readers, file, sha256 FROM graphs ORDER BY readers").fetchall() if _has_readers(connection) else []


def narrowed_since(connection: sqlite3.Connection, readers: str, revision: int) -> bool:
    """Whether somebody lost a document with these readers (JSON, as documents.principals) after that revision."""
    query = "SELECT 1 FROM narrowed WHERE readers = ? AND revision > ?"
    return _has_readers(connection) and connection.execute(query, (readers, revision)).fetchone() is not None


def readers_of(principals: Iterable[str]) -> str:
    """documents.principals of a document for these."""
    return json.dumps(sorted(set(principals)), ensure_ascii=False)


def _has_readers(connection: sqlite3.Connection) -> bool:
    return "readers" in {name for _, name, *_ in connection.execute("PRAGMA table_info(graphs)")}


def graph_sizes(size: int, rows: int) -> list[int]:
    """The sizes, above `size` and up to `rows`, that a graph is grown to, one after the other.

    They are the same for all graphs, so that one depends only on the vectors in it and on their order, not on when they came.
    """
    sizes, at = [], 0
    while (at := at + max(1, at // GRAPH_STEP)) <= rows:
        if at > size:
            sizes.append(at)
    return sizes


def connect(path: Path, *, writing: bool = False) -> sqlite3.Connection:
    """Open index.db; a reader cannot write. Transactions are begun by hand (`BEGIN`, `BEGIN IMMEDIATE`).

    Raises:
        sqlite3.Error: it cannot be opened.
    """
    mode = "rwc" if writing else "ro"
    connection = sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode={mode}", uri=True, isolation_level=None, timeout=30)
    if writing:  # readers never wait for the writer; a commit survives a power cut; what is deleted is overwritten
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
    return connection


def content_digest(connection: sqlite3.Connection) -> str:
    """SHA-256 over what the index holds, however and in whichever order it came in: equal contents have equal digests."""
    digest = hashlib.sha256()
    connection.execute("BEGIN")
    try:
        for line in (*_documents(connection), *_passages(connection)):
            digest.update(line)
    finally:
        connection.execute("COMMIT")
    return digest.hexdigest()


def _documents(connection: sqlite3.Connection) -> Iterator[bytes]:
    columns = "document_id, version, title, source, media_type, text, pages, sections, metadata, principals"
    for row in connection.execute(f"SELECT {columns} FROM documents ORDER BY document_id"):  # noqa: S608 - names of our own
        yield repr(row).encode("utf-8", "backslashreplace")


def _passages(connection: sqlite3.Connection) -> Iterator[bytes]:
    columns = 'p.passage_id, p.document_id, p.start, p."end", p.text, p.page, p.section, v.vector'
    for *values, vector in connection.execute(f"SELECT {columns} FROM passages p LEFT JOIN vectors v USING (row) ORDER BY p.passage_id"):  # noqa: S608
        yield repr(values).encode("utf-8", "backslashreplace") + (vector or b"-")
