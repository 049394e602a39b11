"""The words of an index generation: passages.db, opened read-only."""

import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from quarry_contract.codec import Scalar
from quarry_contract.manifests import ManifestError
from quarry_contract.messages import DocumentText, Passage, TextRange


@dataclass(frozen=True)
class Row:
    """What a search needs to know of one passage; rows are numbered from 0 in the order of `passages.rowid`."""

    document_id: str
    version: str
    title: str
    section: str | None
    page: int | None
    text: str
    metadata: dict[str, Scalar]


_PASSAGES = """SELECT p.rowid, p.passage_id, p.document_id, d.version, d.title, p.start, p."end", p.text, p.page, p.section, d.metadata
               FROM passages p JOIN documents d ON d.document_id = p.document_id"""
_DOCUMENT = """SELECT version, title, length(text), substr(text, ? + 1, ?), metadata FROM documents WHERE document_id = ?"""
_ROWS_AT_ONCE = 500  # SQLite's limit on variables was 999 for long


class PassageStore:
    """passages.db. Each thread gets a connection of its own; the file is never written (`immutable=1`: no locks either)."""

    def __init__(self, path: Path) -> None:
        self._uri = f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1"
        self._local = threading.local()
        self._open: list[sqlite3.Connection] = []

    def close(self) -> None:
        """Close every thread's connection."""
        for connection in self._open:
            connection.close()
        self._open.clear()

    def passages(self, rows: Sequence[int]) -> list[Passage]:
        """The passages of these rows (0-based), in the order given."""
        found: dict[int, Passage] = {}
        for begin in range(0, len(rows), _ROWS_AT_ONCE):
            part = [row + 1 for row in rows[begin : begin + _ROWS_AT_ONCE]]
            marks = ",".join("?" * len(part))
            for rowid, *values, metadata in self._connection().execute(f"{_PASSAGES} WHERE p.rowid IN ({marks})", part):
                found[rowid - 1] = Passage(*[*values, json.loads(metadata)])
        return [found[row] for row in rows]

    def text(self, asked: TextRange) -> DocumentText | None:
        """The words of a range, cut to the document's end; None when there is no such document or version."""
        top = 2**31 - 1  # longer than any text SQLite holds; its substr() takes no larger numbers
        start, end = min(asked.start, top), min(asked.end, top)
        row = self._connection().execute(_DOCUMENT, (start, end - start, asked.document_id)).fetchone()
        if row is None or asked.version not in (None, row[0]):
            return None
        version, title, length, text, metadata = row
        return DocumentText(asked.document_id, version, title, length, min(start, length), min(end, length), text, json.loads(metadata))

    def check(self, documents: int, passages: int) -> list[Row]:
        """All rows, after checking that they are whole: as many as the manifest says, numbered without gaps, and true to their documents.

        Raises:
            ManifestError: saying what is wrong.
        """
        try:
            connection = self._connection()
            [counted] = connection.execute("SELECT count(*) FROM documents").fetchone()
            rows = list(self._checked(connection))
        except (sqlite3.Error, ValueError, TypeError) as error:
            raise ManifestError(f"passages.db cannot be read: {type(error).__name__}") from error
        if counted != documents or len(rows) != passages:
            raise ManifestError(f"passages.db holds {counted} documents and {len(rows)} passages, its manifest says {documents} and {passages}")
        return rows

    def _checked(self, connection: sqlite3.Connection) -> Iterator[Row]:
        current, canonical, metadata = "", "", {}
        for number, (rowid, *values, raw) in enumerate(connection.execute(f"{_PASSAGES} ORDER BY p.rowid"), 1):
            _, document_id, version, title, start, end, text, page, section = values
            if document_id != current or number == 1:
                current, metadata = document_id, _metadata(raw)
                [canonical] = connection.execute("SELECT text FROM documents WHERE document_id = ?", (current,)).fetchone()
            if rowid != number:
                raise ManifestError(f"passages.db: passages are not numbered 1, 2, 3 ... (row {number})")
            if not (0 <= start < end <= len(canonical) and canonical[start:end] == text):
                raise ManifestError(f"passages.db: passage {rowid} is not the words of its document at its offsets")
            yield Row(document_id, version, title, section, page, text, metadata)

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self._uri, uri=True, check_same_thread=False)  # used by one thread, closed by another
            self._local.connection = connection
            self._open.append(connection)
        return connection


def _metadata(raw: str) -> dict[str, Any]:
    metadata = json.loads(raw)
    if not isinstance(metadata, dict) or not all(isinstance(v, str | int | float | bool) for v in metadata.values()):
        raise ManifestError("passages.db: a document's metadata is not a JSON object of texts, numbers and booleans")
    return metadata
