"""Reading index.db: the rows that searching needs, checked, and the words that answers show."""

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from quarry_contract.codec import Scalar
from quarry_contract.index_store import EVERYONE, connect
from quarry_contract.manifests import ManifestError
from quarry_contract.messages import DocumentText, Passage, TextRange
from quarry_runtime.session import Array


@dataclass(frozen=True)
class Row:
    """What a search needs to know of one passage."""

    row: int
    document_id: str
    version: str
    title: str
    section: str | None
    page: int | None
    text: str
    metadata: dict[str, Scalar]
    principals: frozenset[str]
    vector: Array  # float32 (dimension,), or (0,) where vectors are left out


# A document may be read when one of the caller's principals, a JSON list, is among its own.
_READABLE = "EXISTS (SELECT 1 FROM json_each(d.principals) WHERE value IN (SELECT value FROM json_each(?)))"
_PASSAGES = """SELECT p.row, p.passage_id, d.document_id, d.version, d.title, p.start, p."end", p.text, p.page, p.section, d.metadata
               FROM passages p JOIN documents d USING (document_id)"""
_DOCUMENT = f"""SELECT version, title, length(text), substr(text, ? + 1, ?), metadata
                FROM documents d WHERE document_id = ? AND {_READABLE}"""  # noqa: S608 - names of our own
_ROWS = """SELECT p.row, p.document_id, p.start, p."end", p.text, p.section, p.page, v.vector FROM passages p LEFT JOIN vectors v USING (row)"""
_BARE = 'SELECT p.row, p.document_id, p.start, p."end", p.text, p.section, p.page, NULL FROM passages p'
_CHANGED = "SELECT p.row FROM documents d JOIN passages p USING (document_id) WHERE d.revision > ?"
_NONE = np.zeros(0, np.float32)
_HEAD = "SELECT version, title, text, metadata, principals FROM documents WHERE document_id = ?"


@contextmanager
def reading(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Everything read inside is of one revision."""
    connection.execute("BEGIN")
    try:
        yield connection
    finally:
        connection.execute("ROLLBACK")


def revision(connection: sqlite3.Connection) -> tuple[int, int]:
    """That of the last change, and the one above which `removed` is complete."""
    last, oldest = connection.execute("SELECT revision, oldest FROM state").fetchone()
    return last, oldest


def documents(connection: sqlite3.Connection) -> int:
    """How many there are."""
    [counted] = connection.execute("SELECT count(*) FROM documents").fetchone()
    return int(counted)


def removed(connection: sqlite3.Connection, above: int) -> list[int]:
    """The rows that went after revision `above`."""
    return [row for (row,) in connection.execute("SELECT row FROM removed WHERE revision > ?", (above,))]


def counted(connection: sqlite3.Connection) -> int:
    """How many passages there are."""
    [found] = connection.execute("SELECT count(*) FROM passages").fetchone()
    return int(found)


def rows(connection: sqlite3.Connection, dimension: int) -> Iterator[Row]:
    """All rows that belong to a document, ascending; a `dimension` of 0 leaves the vectors out.

    Raises:
        ManifestError: a passage is not true to its document, or its vector or its document's metadata are not what they must be.
    """
    return _checked(connection, connection.execute(f"{_ROWS if dimension else _BARE} ORDER BY p.row"), dimension)


def changed(connection: sqlite3.Connection, above: int, dimension: int) -> Iterator[Row]:
    """All rows of the documents that changed after revision `above`, ascending.

    Raises:
        ManifestError: as `rows`.
    """
    wanted = sorted(row for (row,) in connection.execute(_CHANGED, (above,)))
    found = (connection.execute(f"{_ROWS if dimension else _BARE} WHERE p.row = ?", (row,)).fetchone() for row in wanted)
    return _checked(connection, found, dimension)


def _checked(connection: sqlite3.Connection, found: Iterable[Any], dimension: int) -> Iterator[Row]:
    """A document's rows follow each other, so that its own is read once."""
    head: tuple[str, Any] = ("", None)
    for row, document_id, start, end, words, section, page, vector in found:
        if head[0] != document_id or head[1] is None:
            head = (document_id, _head(connection, document_id))
        if head[1] is None:
            continue  # check_whole tells
        version, title, text, metadata, principals = head[1]
        if not (0 <= start < end <= len(text) and text[start:end] == words):
            raise ManifestError(f"index.db: passage {row} is not the words of its document at its offsets")
        yield Row(row, document_id, version, title, section, page, words, metadata, principals, _vector(row, vector, dimension))


def _head(connection: sqlite3.Connection, document_id: str) -> tuple[str, str, str, dict[str, Scalar], frozenset[str]] | None:
    found = connection.execute(_HEAD, (document_id,)).fetchone()
    return found and (*found[:3], _metadata(found[3]), principals(found[4]))


def check_whole(connection: sqlite3.Connection, passages: int) -> None:
    """Check the file itself, and that the documents' passages are all there are.

    Raises:
        ManifestError: saying what is wrong.
    """
    [verdict] = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise ManifestError("index.db is damaged: SQLite's quick_check fails")
    for table in ("passages", "vectors"):
        [counted] = connection.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608 - names of our own
        if counted != passages:
            raise ManifestError(f"index.db holds {counted} {table} and its documents have {passages} passages")


class PassageStore:
    """index.db for questions: a connection per thread, closed when the thread ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()

    def passages(self, rows: Sequence[int], revision: int, principals: Sequence[str]) -> list[Passage | None]:
        """The passages of these rows (at most a few hundred), in the order given; of one version of each document.

        None for what is gone, is not for these principals, or belongs to a document that changed after `revision`.
        """
        marks = ",".join("?" * len(rows))
        asked = f"{_PASSAGES} WHERE p.row IN ({marks}) AND d.revision <= ? AND {_READABLE}"
        found = self.connection().execute(asked, [*rows, revision, _asked(principals)])
        passages = {row: Passage(*[*values, json.loads(metadata)]) for row, *values, metadata in found}
        return [passages.get(row) for row in rows]

    def texts(self, ranges: Sequence[TextRange], principals: Sequence[str]) -> tuple[DocumentText | None, ...]:
        """The words of each range, cut to the document's end, all of one revision; None when there is no such document or version for these principals."""
        with reading(self.connection()) as connection:
            return tuple(_text(connection, asked, _asked(principals)) for asked in ranges)

    def connection(self) -> sqlite3.Connection:
        """This thread's."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = connect(self._path)
        return connection


def _asked(principals: Sequence[str]) -> str:
    return json.dumps([EVERYONE, *principals])


def _text(connection: sqlite3.Connection, asked: TextRange, principals: str) -> DocumentText | None:
    top = 2**31 - 1  # longer than any text SQLite holds; its substr() takes no larger numbers
    start, end = min(asked.start, top), min(asked.end, top)
    row = connection.execute(_DOCUMENT, (start, end - start, asked.document_id, principals)).fetchone()
    if row is None or asked.version not in (None, row[0]):
        return None
    version, title, length, text, metadata = row
    return DocumentText(asked.document_id, version, title, length, min(start, length), min(end, length), text, json.loads(metadata))


def _metadata(raw: str) -> dict[str, Any]:
    metadata = json.loads(raw)
    if not isinstance(metadata, dict) or not all(isinstance(v, str | int | float | bool) for v in metadata.values()):
        raise ManifestError("index.db: a document's metadata is not a JSON object of texts, numbers and booleans")
    return metadata


def principals(raw: str) -> frozenset[str]:
    """Of a document, as index.db has them.

    Raises:
        ManifestError: they are not what they must be.
    """
    found = json.loads(raw)
    if not isinstance(found, list) or not all(isinstance(p, str) for p in found):
        raise ManifestError("index.db: a document's principals are not a JSON list of texts")
    return frozenset(found)


def _vector(row: int, raw: bytes | None, dimension: int) -> Array:
    if dimension == 0:
        return _NONE
    if not isinstance(raw, bytes) or len(raw) != 4 * dimension:
        raise ManifestError(f"index.db: passage {row} has no vector of {dimension} numbers")
    vector = np.frombuffer(raw, "<f4")
    if not np.isfinite(vector).all():  # of any length: DPR's own encoders do not normalise
        raise ManifestError(f"index.db: passage {row} has a vector that is not finite")
    return vector
