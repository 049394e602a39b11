"""index.db with its vectors in Pinecone too, for retrievers that do not hold them: one namespace per generation.

A change inserts, switches, deletes: the new version's vectors are written and visible before index.db's transaction, which is the
switch, and the old ones are deleted after it. The retriever ignores what index.db does not have, so a question sees one version.
The ids of a change under way stand in a file beside index.db; whatever stops the change, the next one, or `settle`, finishes it.
"""

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from quarry_contract.index_store import INDEX_DATABASE
from quarry_contract.vector_store import Sparse, VectorStoreError, metadata_of
from quarry_runtime.session import Array

from .blocks import Document
from .chunk import Chunk
from .pinecone_client import CALL_SEC, MAX_IDS, Namespace, Record
from .store import IndexStore, sync_folder

UNDER_WAY = f"{INDEX_DATABASE}.pinecone"  # JSON list of passage ids

_RECORDS = """SELECT p.passage_id, p.section, p.page, p.text, d.document_id, d.version, d.title, d.metadata, d.principals, v.vector
              FROM passages p JOIN documents d USING (document_id) LEFT JOIN vectors v USING (row)
              WHERE p.passage_id IN (SELECT value FROM json_each(?))"""
_ORPHANS = "SELECT id FROM stored WHERE id NOT IN (SELECT passage_id FROM passages) AND id > ? ORDER BY id LIMIT ?"
_GAPS = "SELECT passage_id FROM passages WHERE passage_id NOT IN stored AND passage_id > ? ORDER BY passage_id LIMIT ?"
_COMMON = "SELECT passage_id FROM passages WHERE passage_id IN stored AND passage_id > ? ORDER BY passage_id LIMIT ?"

SparseOf = Callable[[str], Sparse]  # a passage's text to its terms' weights


class PineconeStore(IndexStore):
    """A generation's index.db and its namespace in Pinecone, opened for writing."""

    def __init__(self, folder: Path, host: str, sparse_of: SparseOf | None = None, call_sec: float = CALL_SEC) -> None:
        """Open both. `sparse_of` gives the sparse side, for indexes by dot product that are to be searched by terms too.

        Raises:
            ManifestError: index.db cannot be used.
            VectorStoreError: Pinecone cannot be used.
        """
        super().__init__(folder)
        self.namespace = Namespace(host, self.manifest.generation, self.manifest.dimension, call_sec)
        self._sparse_of = sparse_of
        self._under_way = folder / UNDER_WAY

    def close(self) -> None:
        """Let go of file and connections."""
        self.namespace.close()
        super().close()

    def put(self, document: Document, chunks: Sequence[Chunk], vectors: Array) -> None:
        """See Store. `vectors` is float32 (len(chunks), dimension).

        Raises:
            VectorStoreError: Pinecone cannot be written: the old version stays, or the new one is there and old vectors are still to go.
        """
        old = self._passage_ids(document.document_id)
        new = [chunk.passage_id for chunk in chunks]
        with self._change([*new, *old]):
            self.namespace.put(self._record(document, chunk, vector) for chunk, vector in zip(chunks, vectors, strict=True))
            super().put(document, chunks, vectors)
            self.namespace.delete(sorted(set(old).difference(new)))

    def delete(self, document_id: str) -> bool:
        """See Store: the document is gone for every question at once, and its vectors when this returns."""
        old = self._passage_ids(document_id)
        with self._change(old):
            done = super().delete(document_id)
            self.namespace.delete(old)
        return done

    def set_principals(self, document_id: str, principals: Sequence[str]) -> bool:
        """See Store: index.db decides, so whom it hides a document from does not find it, whatever Pinecone still says."""
        ids = self._passage_ids(document_id)
        with self._change(ids):
            done = super().set_principals(document_id, principals)
            self.namespace.put(self._records(ids))
        return done

    def settle(self) -> int:
        """Finish a change that was stopped: its passages are in Pinecone exactly if they are in index.db. How many there were."""
        if not self._under_way.exists():
            return 0
        ids = [str(i) for i in json.loads(self._under_way.read_bytes())]
        self._level(ids)
        self._under_way.unlink()
        return len(ids)

    def reconcile_vectors(self) -> dict[str, int]:
        """Compare the namespace with index.db, record by record, and repair it; how much was wrong. In bounded memory.

        Raises:
            VectorStoreError: Pinecone fails, or index.db has passages without vectors: repair that one first.
        """
        self.settle()
        self.database.execute("CREATE TEMP TABLE IF NOT EXISTS stored(id TEXT PRIMARY KEY)")
        self.database.execute("DELETE FROM stored")
        self.database.executemany("INSERT OR IGNORE INTO stored VALUES (?)", ((i,) for i in self.namespace.ids()))
        counts = {"orphans": 0, "gaps": 0, "differing": 0}
        for kind, query in (("orphans", _ORPHANS), ("gaps", _GAPS)):
            for ids in self._paged(query):
                self._level(ids)
                counts[kind] += len(ids)
        for ids in self._paged(_COMMON):
            stored = self.namespace.fetch(ids)
            differing = [record for record in self._records(ids) if not _equal(record, stored.get(record.passage_id))]
            self.namespace.put(differing)
            counts["differing"] += len(differing)
        return counts

    @contextmanager
    def _change(self, ids: Collection[str]) -> Iterator[None]:
        """Note what is about to change; the note stays when it does not come to its end."""
        self.settle()
        partial = self._under_way.with_suffix(".tmp")
        with partial.open("w") as file:
            json.dump(sorted(set(ids)), file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._under_way)
        sync_folder(self.folder)
        yield
        self._under_way.unlink()

    def _level(self, ids: Sequence[str]) -> None:
        """Write those that index.db has and delete the others."""
        for group in _grouped(ids):
            records = list(self._records(group))
            self.namespace.put(records)
            self.namespace.delete(sorted(set(group).difference(record.passage_id for record in records)))

    def _paged(self, query: str) -> Iterator[list[str]]:
        """Its ids, MAX_IDS at a time."""
        after = ""
        while ids := [str(i) for (i,) in self.database.execute(query, (after, MAX_IDS))]:
            yield ids
            after = ids[-1]

    def _passage_ids(self, document_id: str) -> list[str]:
        return [str(i) for (i,) in self.database.execute("SELECT passage_id FROM passages WHERE document_id = ?", (document_id,))]

    def _records(self, ids: Sequence[str]) -> Iterator[Record]:
        """Of those passages that index.db has."""
        for group in _grouped(ids):
            for passage_id, section, page, text, document_id, version, title, metadata, principals, vector in self.database.execute(
                _RECORDS, (json.dumps(group),)
            ).fetchall():
                if vector is None:
                    raise VectorStoreError(f"passage {passage_id} has no vector in index.db: reconcile that one first")
                built_in = {"document_id": document_id, "version": version, "title": title, "section": section, "page": page}
                made = metadata_of(built_in, json.loads(metadata), json.loads(principals))
                yield Record(passage_id, np.frombuffer(vector, "<f4"), made, self._sparse(text))

    def _record(self, document: Document, chunk: Chunk, vector: Array) -> Record:
        built_in = {"document_id": document.document_id, "version": document.version, "title": document.title, "section": chunk.section, "page": chunk.page}
        return Record(chunk.passage_id, vector, metadata_of(built_in, document.metadata, list(set(document.principals))), self._sparse(chunk.text))

    def _sparse(self, text: str) -> Sparse | None:
        """None also where no term is left: Pinecone takes no empty one."""
        made = self._sparse_of(text) if self._sparse_of else None
        return made if made and made.indices else None


def _grouped(ids: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(ids)
    while group := list(islice(rest, MAX_IDS)):
        yield group


def _equal(record: Record, stored: Any) -> bool:
    """Whether what is stored is this record. Numbers come back in double precision, vectors in single."""
    if stored is None or dict(record.metadata) != (stored.metadata or {}):
        return False
    if not np.array_equal(record.vector, np.array(stored.values, np.float32)):
        return False
    own = _weights(record.sparse.indices, record.sparse.values) if record.sparse else {}
    return own == (_weights(stored.sparse_values.indices, stored.sparse_values.values) if stored.sparse_values else {})


def _weights(indices: Sequence[int], values: Sequence[float]) -> dict[int, float]:
    return dict(zip(indices, np.array(values, np.float32).tolist(), strict=True))
