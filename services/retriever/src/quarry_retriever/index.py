"""One index generation, opened read-only: passages and documents in SQLite, vectors in faiss."""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import faiss
import numpy as np
from quarry_contract.codec import Scalar
from quarry_contract.errors import invalid
from quarry_contract.manifests import INDEX_MANIFEST, IndexManifest, ManifestError, read_manifest, verify_files
from quarry_contract.messages import DocumentText, Passage, TextRange
from quarry_runtime.encode import Encoder
from quarry_runtime.session import Array

CANARY_TOLERANCE = 1e-3
OWN_FIELDS = ("document_id", "title", "version", "section", "page")
_PASSAGE = """SELECT p.passage_id, p.document_id, d.version, d.title, p.start, p.end, p.text, p.page, p.section, d.metadata
              FROM passages p JOIN documents d USING (document_id) WHERE p.rowid = ?"""
_DOCUMENT = "SELECT document_id, version, title, text, metadata FROM documents WHERE document_id = ?"


class VectorIndex(Protocol):
    """Nearest passages of a vector. Rows count from 0, in the order of passages.rowid."""

    def search(self, vector: Array, top_k: int, allowed: Array | None) -> list[tuple[int, float]]:
        """(row, inner product), best first. `allowed` is a boolean mask over the rows, applied inside the search."""
        ...


class FlatIndex:
    """Exact scan by faiss."""

    def __init__(self, path: Path, rows: int, dimension: int) -> None:
        try:
            self._index = faiss.read_index(str(path))
        except RuntimeError as error:
            raise ManifestError(f"{path.name} is not a faiss index") from error
        if (self._index.ntotal, self._index.d) != (rows, dimension):
            raise ManifestError(f"{path.name} does not hold one vector of {dimension} numbers for each of the {rows} passages")
        faiss.omp_set_num_threads(1)

    def search(self, vector: Array, top_k: int, allowed: Array | None) -> list[tuple[int, float]]:
        """See VectorIndex."""
        parameters = None
        if allowed is not None:
            parameters = faiss.SearchParameters(sel=faiss.IDSelectorBatch(np.flatnonzero(allowed)))  # type: ignore[call-arg]
        scores, rows = self._index.search(np.ascontiguousarray(vector[None], np.float32), top_k, params=parameters)
        return [(int(row), float(score)) for row, score in zip(rows[0], scores[0], strict=True) if row >= 0]


class Index:
    """The generation's passages, their documents and what can be filtered on."""

    def __init__(self, folder: Path, manifest: IndexManifest, dense: VectorIndex) -> None:
        self.manifest = manifest
        self.dense = dense
        self._uri = f"file:{(folder / 'passages.db').resolve()}?mode=ro&immutable=1"
        self._fields = self._read_fields()

    @classmethod
    def open(cls, folder: Path, encoder: Encoder) -> "Index":
        """Check and open a generation folder for this question encoder.

        Raises:
            ManifestError: it is damaged, or was encoded by another model.
        """
        manifest = read_manifest(folder / INDEX_MANIFEST, IndexManifest)
        if manifest.encoder_digest != encoder.manifest.digest:
            raise ManifestError(f"index {manifest.generation} was encoded by another retriever than the one loaded: ingest again with this one")
        verify_files(folder, manifest.files)
        if not {"passages.db", "dense.faiss"} <= manifest.files.keys():
            raise ManifestError("index.json does not list passages.db and dense.faiss")
        canary = encoder.encode([manifest.canary_text])[0]
        if canary.shape != (len(manifest.canary_vector),) or np.abs(canary - np.array(manifest.canary_vector)).max() > CANARY_TOLERANCE:
            raise ManifestError("the index's canary text is encoded otherwise here than where the index was made")
        try:
            return cls(folder, manifest, FlatIndex(folder / "dense.faiss", manifest.passages, manifest.dimension))
        except sqlite3.Error as error:
            raise ManifestError("passages.db is not the database of an index generation") from error

    def _connect(self) -> "closing[sqlite3.Connection]":
        return closing(sqlite3.connect(self._uri, uri=True))

    def _read_fields(self) -> dict[str, list[Scalar | None]]:
        """Field -> its value for every passage."""
        with self._connect() as database:
            rows = database.execute(
                "SELECT p.document_id, d.title, d.version, p.section, p.page, d.metadata FROM passages p JOIN documents d USING (document_id) ORDER BY p.rowid"
            ).fetchall()
        if len(rows) != self.manifest.passages:
            raise ManifestError(f"passages.db does not hold the {self.manifest.passages} passages of its manifest")
        fields: dict[str, list[Scalar | None]] = {name: [row[i] for row in rows] for i, name in enumerate(OWN_FIELDS)}
        metadata = [json.loads(row[-1]) for row in rows]
        for name in sorted({key for m in metadata for key in m} - set(OWN_FIELDS)):
            fields[name] = [m.get(name) for m in metadata]
        return fields

    def texts(self) -> Iterator[str]:
        """Title, section and words of every passage, in row order, for the lexical indexes."""
        with self._connect() as database:
            query = "SELECT d.title, p.section, p.text FROM passages p JOIN documents d USING (document_id) ORDER BY p.rowid"
            for title, section, text in database.execute(query):
                yield " ".join(part for part in (title, section, text) if part)

    def allowed(self, filters: Mapping[str, Scalar | tuple[Scalar, ...]]) -> Array | None:
        """Boolean mask of the passages that pass all filters; None when there are none.

        Raises:
            QuarryError: `invalid_request` for a field this index does not have.
        """
        if not filters:
            return None
        if not filters.keys() <= self._fields.keys():
            raise invalid(f"filters names a field this index does not have; it has {', '.join(sorted(self._fields))}")
        mask = np.ones(self.manifest.passages, bool)
        for name, wanted in filters.items():
            values = set(_typed(wanted if isinstance(wanted, tuple) else (wanted,)))
            mask &= np.fromiter((_type(v) in values for v in self._fields[name]), bool, self.manifest.passages)
        return mask

    def passages(self, rows: Sequence[int]) -> list[Passage]:
        """The passages of these rows, in order."""
        with self._connect() as database:
            found = [database.execute(_PASSAGE, (row + 1,)).fetchone() for row in rows]
        return [_passage(row) for row in found]

    def documents(self, ranges: Sequence[TextRange]) -> list[DocumentText | None]:
        """The words of each range; None where there is no such document or version."""
        with self._connect() as database:
            return [_words(database.execute(_DOCUMENT, (r.document_id,)).fetchone(), r) for r in ranges]


def _passage(row: Any) -> Passage:
    identity, document, version, title, start, end, text, page, section, metadata = row
    return Passage(identity, document, version, title, start, end, text, page, section, json.loads(metadata))


def _words(row: Any, wanted: TextRange) -> DocumentText | None:
    if row is None or wanted.version not in (None, row[1]):
        return None
    identity, version, title, text, metadata = row
    start, end = min(wanted.start, len(text)), min(wanted.end, len(text))
    return DocumentText(identity, version, title, len(text), start, end, text[start:end], json.loads(metadata))


def _typed(values: Iterable[Scalar]) -> Iterator[tuple[bool, Scalar | None]]:
    return (_type(v) for v in values)


def _type(value: Scalar | None) -> tuple[bool, Scalar | None]:
    """true is not 1 here."""
    return isinstance(value, bool), value
