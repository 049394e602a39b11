"""`ledger.db`: what was done with every item of every source. Written after the index, so that a run that is killed repeats one document at most."""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from itertools import chain, count
from pathlib import Path
from typing import Any

from quarry_contract.index_store import connect

LEDGER_DATABASE = "ledger.db"
UPLOADS = "upload"  # the source of what was uploaded; the uri is the document's id

_SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS items(
    source TEXT NOT NULL,                   -- folder, s3://bucket/prefix, or `upload`
    uri TEXT NOT NULL,                      -- in its source
    document_id TEXT UNIQUE NOT NULL,       -- never changes
    fingerprint TEXT NOT NULL,              -- what the source tells without reading; '' = read it again
    version TEXT,                           -- SHA-256 of the bytes; NULL = they were not read
    extractor INTEGER NOT NULL,             -- version of what read it
    listed TEXT NOT NULL,                   -- JSON list: principals by the source's rules
    principals TEXT NOT NULL,               -- JSON list: who may read it, an object's own metadata considered
    state TEXT NOT NULL CHECK (state IN ('indexed', 'skipped')),
    code TEXT,                              -- why it was skipped; stable
    detail TEXT,
    words INTEGER NOT NULL,
    changed TEXT NOT NULL,                  -- ISO 8601, UTC
    seen INTEGER NOT NULL,                  -- the run over its source that saw it last
    modified REAL NOT NULL DEFAULT 0,       -- when, as the source says; an upload: when it was taken; POSIX seconds
    last_seen REAL NOT NULL DEFAULT 0,      -- when that run was, POSIX seconds
    PRIMARY KEY (source, uri)
);
CREATE TABLE IF NOT EXISTS sources(
    source TEXT PRIMARY KEY,                -- folder, s3://bucket/prefix
    name TEXT UNIQUE NOT NULL,              -- goes before the ids of its documents, with a dot before itself
    bare INTEGER NOT NULL                   -- 1 = but of these: they are the uris; of the first source
);
CREATE TABLE IF NOT EXISTS forgotten(
    item TEXT PRIMARY KEY,                  -- SHA-256 of source and uri: what must not come back
    at TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS jobs(
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id TEXT UNIQUE NOT NULL,
    document_id TEXT NOT NULL,
    job TEXT NOT NULL,                      -- JSON quarry_contract.messages.Job
    open INTEGER NOT NULL,                  -- 1 = to be done, or being done
    principals TEXT NOT NULL,               -- JSON list
    media_type TEXT,
    submitter TEXT
);
CREATE INDEX IF NOT EXISTS jobs_open ON jobs(number) WHERE open = 1;
CREATE INDEX IF NOT EXISTS jobs_document ON jobs(document_id);
COMMIT;
"""
REPLACED = "replaced"  # code of a source's item whose id an upload has
_COLUMNS = "source, uri, document_id, fingerprint, version, extractor, listed, principals, code, detail, words, seen, modified, last_seen"


@dataclass(frozen=True)
class Entry:
    """One item of a source. Without `code` its document is in the index."""

    source: str
    uri: str
    document_id: str
    fingerprint: str
    version: str | None
    extractor: int
    listed: tuple[str, ...]
    principals: tuple[str, ...]
    code: str | None
    detail: str | None
    words: int
    seen: int
    modified: float  # POSIX seconds, as last_seen
    last_seen: float

    def replaced(self) -> "Entry":
        """Without a document, since an upload has its id. What stands in the id's place is nobody's: uploads have no segment "."."""
        detail = "an upload has its id: it comes back when that is gone and it changes"
        return replace(self, document_id=f"./{self.source}/{self.uri}", code=REPLACED, detail=detail)


def open_ledger(home: Path) -> sqlite3.Connection:
    """The database, made when it is not there.

    Raises:
        sqlite3.Error: it cannot be opened.
    """
    database = connect(home / LEDGER_DATABASE, writing=True)
    database.executescript(_SCHEMA)
    _add_ages(database)
    _add_sources(database)
    return database


def _add_sources(database: sqlite3.Connection) -> None:
    """To a ledger of before sources had names: its documents keep their ids, and what most uris are ids of counts as the first source."""
    query = "SELECT source FROM items WHERE source <> ? GROUP BY source ORDER BY -sum(document_id = uri), source"
    if not _has_sources(database):
        database.execute("BEGIN IMMEDIATE")
        if not _has_sources(database):
            for (source,) in database.execute(query, (UPLOADS,)).fetchall():
                _add_source(database, source, source.rpartition("/")[2])
        database.execute("COMMIT")


def _has_sources(database: sqlite3.Connection) -> bool:
    """Or none to have."""
    query = "SELECT EXISTS (SELECT 1 FROM sources) OR NOT EXISTS (SELECT 1 FROM items WHERE source <> ?)"
    return bool(database.execute(query, (UPLOADS,)).fetchone()[0])


def _add_source(database: sqlite3.Connection, source: str, name: str) -> None:
    names = {found for (found,) in database.execute("SELECT name FROM sources")}
    base = name.lstrip(".").strip() or "source"
    free = next(tried for tried in chain([base], (f"{base}-{n}" for n in count(2))) if tried not in names)
    database.execute("INSERT INTO sources VALUES (?, ?, ?)", (source, free, not names))


def _add_ages(database: sqlite3.Connection) -> None:
    """To a ledger of before there was retention: its documents count from when they were written."""
    if _has_ages(database):
        return
    database.execute("BEGIN IMMEDIATE")
    if not _has_ages(database):  # of two processes at once, one does it
        database.execute("ALTER TABLE items ADD COLUMN modified REAL NOT NULL DEFAULT 0")
        database.execute("ALTER TABLE items ADD COLUMN last_seen REAL NOT NULL DEFAULT 0")
        database.execute("UPDATE items SET modified = strftime('%s', changed), last_seen = strftime('%s', changed)")
    database.execute("COMMIT")


def _has_ages(database: sqlite3.Connection) -> bool:
    return "modified" in {name for _, name, *_ in database.execute("PRAGMA table_info(items)")}


def now() -> str:
    """ISO 8601, UTC, in seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Ledger:
    """The items' part of ledger.db. Each call that writes is one transaction."""

    def __init__(self, home: Path) -> None:
        """Open it.

        Raises:
            sqlite3.Error: it cannot be opened.
        """
        self.database = open_ledger(home)

    def close(self) -> None:
        """Let go of the file."""
        self.database.close()

    def get(self, source: str, uri: str) -> Entry | None:
        """What is known of an item."""
        return next(self._select("source = ? AND uri = ?", source, uri), None)

    def by_document(self, document_id: str) -> Entry | None:
        """The item whose document it is."""
        return next(self._select("document_id = ?", document_id), None)

    def save(self, entry: Entry) -> None:
        """Replace what is known of an item."""
        lists = (json.dumps(entry.listed), json.dumps(entry.principals))
        values = (entry.source, entry.uri, entry.document_id, entry.fingerprint, entry.version, entry.extractor, *lists, entry.code, entry.detail)
        state = "skipped" if entry.code else "indexed"
        self.database.execute(
            f"INSERT OR REPLACE INTO items({_COLUMNS}, state, changed) VALUES ({', '.join('?' * 16)})",  # noqa: S608 - question marks
            (*values, entry.words, entry.seen, entry.modified, entry.last_seen, state, now()),
        )

    def remove(self, document_id: str) -> None:
        """Know nothing of it any more."""
        self.database.execute("DELETE FROM items WHERE document_id = ?", (document_id,))

    def next_run(self, source: str) -> int:
        """A number for a run over the source, above those of all before."""
        return int(self.database.execute("SELECT coalesce(max(seen), 0) + 1 FROM items WHERE source = ?", (source,)).fetchone()[0])

    def mark_seen(self, source: str, items: Iterable[tuple[str, float]], run: int, at: float) -> None:
        """These (uri, when it was modified) were there in this run, at that time (POSIX seconds)."""
        self.database.execute("BEGIN IMMEDIATE")
        query = "UPDATE items SET seen = ?, last_seen = ?, modified = ? WHERE source = ? AND uri = ?"
        self.database.executemany(query, ((run, at, modified, source, uri) for uri, modified in items))
        self.database.execute("COMMIT")

    def unseen(self, source: str, run: int) -> list[Entry]:
        """Some items (1,000 at most) that this run did not see, or none."""
        return list(self._select("source = ? AND seen <> ? ORDER BY uri LIMIT 1000", source, run))

    def indexed(self) -> Iterator[Entry]:
        """All items whose documents are in the index."""
        return self._select("code IS NULL ORDER BY document_id")

    def skipped(self, source: str) -> Iterator[Entry]:
        """The items of a source that gave no document, by uri."""
        return self._select("source = ? AND code IS NOT NULL ORDER BY uri", source)

    def has_documents(self, source: str) -> bool:
        """Whether any of its items is in the index."""
        return next(self._select("source = ? AND code IS NULL LIMIT 1", source), None) is not None

    def read_again(self, document_id: str) -> None:
        """The document is not as it should be: let the next run over its source read it."""
        self.database.execute("UPDATE items SET fingerprint = '', version = NULL WHERE document_id = ?", (document_id,))

    def versions(self) -> Iterator[tuple[str, str]]:
        """(document id, version) of what should be in the index, in the order of the ids."""
        yield from self.database.execute("SELECT document_id, coalesce(version, '') FROM items WHERE code IS NULL ORDER BY document_id")

    def words(self) -> int:
        """Of all documents together."""
        return int(self.database.execute("SELECT coalesce(sum(words), 0) FROM items WHERE code IS NULL").fetchone()[0])

    def add_source(self, source: str, name: str) -> None:
        """See that it has a name of its own, which stays: this one, or with a number after it where another source has that."""
        if self.database.execute("SELECT 1 FROM sources WHERE source = ?", (source,)).fetchone() is None:
            _add_source(self.database, source, name)

    def drop_source(self, source: str) -> None:
        """It was a mistake; unless it has items."""
        self.database.execute("DELETE FROM sources WHERE source = ? AND NOT EXISTS (SELECT 1 FROM items WHERE items.source = sources.source)", (source,))

    def new_id(self, source: str, uri: str) -> str:
        """Of an item of a source that was added. It tells nothing of other items: it is made of the uri and the source's name.

        No part of a uri begins with a dot, since hidden files are left out; so two sources never have the same. Only a ledger of
        before sources had names may hold another item's document under it: then, in the first source too, its name goes before.
        """
        name, bare = self.database.execute("SELECT name, bare FROM sources WHERE source = ?", (source,)).fetchone()
        if bare:
            holder = self.by_document(uri)
            if holder is None or (holder.source, holder.uri) == (source, uri) or holder.source == UPLOADS:
                return uri
        return f".{name}/{uri}"

    def is_upload(self, document_id: str) -> bool:
        """Whether an upload has this id."""
        holder = self.by_document(document_id)
        return holder is not None and holder.source == UPLOADS

    def forget(self, source: str, uri: str) -> None:
        """Do not take this item again."""
        self.database.execute("INSERT OR IGNORE INTO forgotten VALUES (?, ?)", (_hidden(source, uri), now()))

    def remember(self, source: str, uri: str) -> None:
        """It may come again."""
        self.database.execute("DELETE FROM forgotten WHERE item = ?", (_hidden(source, uri),))

    def is_forgotten(self, source: str, uri: str) -> bool:
        """Whether it must not be taken."""
        return self.database.execute("SELECT 1 FROM forgotten WHERE item = ?", (_hidden(source, uri),)).fetchone() is not None

    def _select(self, where: str, *values: object) -> Iterator[Entry]:
        for row in self.database.execute(f"SELECT {_COLUMNS} FROM items WHERE {where}", values):  # noqa: S608 - conditions of our own
            yield _entry(row)


def _entry(row: Sequence[Any]) -> Entry:
    values: list[Any] = [*row[:6], tuple(json.loads(row[6])), tuple(json.loads(row[7])), *row[8:]]
    return Entry(*values)


def _hidden(source: str, uri: str) -> str:
    return sha256(f"{source}\n{uri}".encode()).hexdigest()
