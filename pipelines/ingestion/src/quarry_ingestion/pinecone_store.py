"""index.db with its vectors in Pinecone too, for retrievers that do not hold them: one namespace per generation.

A change inserts, switches, deletes: the new version's vectors are written and visible before index.db's transaction, which is the
switch, and the old ones are deleted after it. The retriever ignores what index.db does not have, so a question sees one version.
The ids of a change under way stand in a file beside index.db; whatever stops the change, the next one, or `settle`, finishes it.
Deletions and permissions do not wait for Pinecone: index.db changes at once, also while Pinecone fails, and the call fails after it.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from quarry_contract.index_store import INDEX_DATABASE
from quarry_contract.vector_store import Sparse, metadata_of, passage_terms
from quarry_runtime.session import Array
from quarry_runtime.terms import Analyser, searched_words

from .blocks import Document
from .chunk import Chunk
from .pinecone_client import MAX_IDS, Namespace, Record
from .store import Alone, IndexStore, sync_folder

UNDER_WAY = f"{INDEX_DATABASE}.pinecone"  # JSON list of passage ids

_RECORDS = """SELECT p.passage_id, p.section, p.page, p.text, d.document_id, d.version, d.title, d.metadata, d.principals, v.vector
              FROM passages p JOIN documents d USING (document_id) JOIN vectors v USING (row)
              WHERE p.passage_id IN (SELECT value FROM json_each(?)) AND length(v.vector) = ?"""
_BOTH = "SELECT id FROM stored WHERE id > ?1 UNION SELECT passage_id FROM passages WHERE passage_id > ?1 ORDER BY 1 LIMIT ?2"


class PineconeStore(IndexStore):
    """A generation's index.db and its namespace in Pinecone, opened for writing."""

    dense_elsewhere = True

    def __init__(self, folder: Path, host: str, call_sec: float) -> None:
        """Open both; `call_sec` as in Namespace. Each record has its terms' weights too, so that the retriever may ask for both at once.

        Raises:
            ManifestError: index.db cannot be used.
            VectorStoreError: Pinecone cannot be used.
        """
        super().__init__(folder)
        self.namespace = Namespace(host, self.manifest.generation, self.manifest.dimension, call_sec)
        self._analyse = Analyser()
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
        self.settle()
        old = self.passage_ids(document.document_id)
        new = [chunk.passage_id for chunk in chunks]
        self._note([*new, *old])
        self.namespace.put(self._record(document, chunk, vector) for chunk, vector in zip(chunks, vectors, strict=True))
        super().put(document, chunks, vectors)
        self.namespace.delete(sorted(set(old).difference(new)))
        self._under_way.unlink()

    def delete(self, document_id: str) -> bool:
        """See Store: the document is gone for every question at once, and its vectors when this returns.

        Raises:
            VectorStoreError: its vectors are still to go; the next change, or `settle`, does it.
        """
        self._note(self.passage_ids(document_id))
        done = super().delete(document_id)
        self.settle()
        return done

    def set_principals(self, document_id: str, principals: Sequence[str]) -> bool:
        """See Store: index.db decides, so whom it hides a document from does not find it, whatever Pinecone still says.

        Raises:
            VectorStoreError: Pinecone is still to be told; the next change, or `settle`, does it.
        """
        self._note(self.passage_ids(document_id))
        done = super().set_principals(document_id, principals)
        self.settle()
        return done

    def settle(self) -> int:
        """Finish a change that was stopped: its passages are in Pinecone exactly if they are in index.db. How many there were.

        Raises:
            VectorStoreError: Pinecone fails.
        """
        ids = self._noted()
        if ids:
            self._level(ids)
            self._under_way.unlink()
        return len(ids)

    def reconcile_vectors(self, alone: Alone) -> dict[str, int]:
        """Compare the namespace with index.db, record by record, and repair it; how much was wrong. In bounded memory.

        Raises:
            VectorStoreError: Pinecone fails; what was repaired so far stays.
        """
        with alone():
            self.settle()
        self.database.execute("CREATE TEMP TABLE IF NOT EXISTS stored(id TEXT PRIMARY KEY)")
        self.database.execute("DELETE FROM stored")
        self.database.executemany("INSERT OR IGNORE INTO stored VALUES (?)", ((i,) for i in self.namespace.ids()))
        counts, after = Counter[str](), ""
        while ids := [str(i) for (i,) in self.database.execute(_BOTH, (after, MAX_IDS))]:
            with alone():
                counts.update(self._repaired(ids))
            after = ids[-1]
        return {kind: counts[kind] for kind in ("orphans", "gaps", "differing")}

    def vectors_of(self, document_id: str) -> set[str]:
        """Ids of a document's records that queries find, whether index.db has them or not. Of ids longer than metadata may be, none."""
        return self.namespace.find({"document_id": {"$eq": document_id}})

    def forget_vectors(self, document_id: str, passage_ids: Sequence[str]) -> dict[str, Any]:
        """Remove records of a document that index.db has not, and look for what is left of these passages and of it: `found` must be 0.

        Raises:
            VectorStoreError: Pinecone fails, or does not show in time what was deleted.
        """
        strays: set[str] = set()
        while (found := self.vectors_of(document_id) | self.namespace.fetch(passage_ids).keys()) - strays:
            self.namespace.delete(sorted(found))
            strays |= found
        return {"namespace": self.namespace.name, "looked_for": len(passage_ids), "strays": len(strays), "found": len(found)}

    def _noted(self) -> list[str]:
        return [str(i) for i in json.loads(self._under_way.read_bytes())] if self._under_way.exists() else []

    def _note(self, ids: Iterable[str]) -> None:
        """Write down what is about to change, beside what an earlier change left; the note stays when it does not come to its end."""
        noted = sorted({*ids, *self._noted()})
        if not noted:
            return
        partial = self._under_way.with_suffix(".tmp")
        with partial.open("w") as file:
            json.dump(noted, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._under_way)
        sync_folder(self.folder)

    def _level(self, ids: Sequence[str]) -> None:
        """Write those that index.db has and delete the others."""
        for group in _grouped(ids):
            records = list(self._records(group))
            self.namespace.put(records)
            self.namespace.delete(sorted(set(group).difference(record.passage_id for record in records)))

    def _repaired(self, ids: Sequence[str]) -> dict[str, int]:
        """Make these in Pinecone what index.db says of them; how many were not."""
        stored, own = self.namespace.fetch(ids), {record.passage_id: record for record in self._records(ids)}
        gaps = own.keys() - stored.keys()
        differing = [i for i in own.keys() & stored.keys() if not _equal(own[i], stored[i])]
        orphans = sorted(stored.keys() - own.keys())
        self.namespace.put(own[i] for i in (*gaps, *differing))
        self.namespace.delete(orphans)
        return {"orphans": len(orphans), "gaps": len(gaps), "differing": len(differing)}

    def _records(self, ids: Sequence[str]) -> Iterator[Record]:
        """Of those passages that index.db has, with vectors; without, they are not found by it either, and `--reconcile` makes them anew."""
        for group in _grouped(ids):
            for passage_id, section, page, text, document_id, version, title, metadata, principals, vector in self.database.execute(
                _RECORDS, (json.dumps(group), 4 * self.manifest.dimension)
            ).fetchall():
                built_in = {"document_id": document_id, "version": version, "title": title, "section": section, "page": page}
                made = metadata_of(built_in, json.loads(metadata), json.loads(principals))
                yield Record(passage_id, np.frombuffer(vector, "<f4"), made, self._sparse(document_id, title, section, text))

    def _record(self, document: Document, chunk: Chunk, vector: Array) -> Record:
        built_in = {"document_id": document.document_id, "version": document.version, "title": document.title, "section": chunk.section, "page": chunk.page}
        sparse = self._sparse(document.document_id, document.title, chunk.section, chunk.text)
        return Record(chunk.passage_id, vector, metadata_of(built_in, document.metadata, list(set(document.principals))), sparse)

    def _sparse(self, document_id: str, title: str, section: str | None, text: str) -> Sparse | None:
        """None where no term is left: Pinecone takes no empty one."""
        made = passage_terms(self._analyse(searched_words(document_id, title, section, text)))
        return made if made.indices else None


def _grouped(ids: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(ids)
    while group := list(islice(rest, MAX_IDS)):
        yield group


def _equal(record: Record, stored: Any) -> bool:
    """Whether what is stored is this record. Numbers come back in double precision, vectors in single."""
    if dict(record.metadata) != (stored.metadata or {}):
        return False
    if not np.array_equal(record.vector, np.array(stored.values, np.float32)):
        return False
    own = _weights(record.sparse.indices, record.sparse.values) if record.sparse else {}
    return own == (_weights(stored.sparse_values.indices, stored.sparse_values.values) if stored.sparse_values else {})


def _weights(indices: Sequence[int], values: Sequence[float]) -> dict[int, float]:
    return dict(zip(indices, np.array(values, np.float32).tolist(), strict=True))
