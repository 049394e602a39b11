"""Passages and vectors to an index generation: SQLite and faiss in one folder, the manifest last, the name a digest of the content."""

import json
import os
import shutil
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import faiss
import numpy as np
from quarry_contract.manifests import INDEX_MANIFEST, Chunker, IndexManifest, digest_file, digest_of, write_manifest
from quarry_contract.releases import index_pointer
from quarry_runtime.encode import Encoder
from quarry_runtime.session import Array

from .blocks import Document
from .chunk import Chunk

CANARY = "What is the maximum wind speed for lifting with the tower crane?"
SCHEMA = """
CREATE TABLE documents(document_id TEXT PRIMARY KEY, version TEXT NOT NULL, title TEXT NOT NULL, source TEXT NOT NULL,
                       media_type TEXT NOT NULL, text TEXT NOT NULL, metadata TEXT NOT NULL);
CREATE TABLE passages(rowid INTEGER PRIMARY KEY, passage_id TEXT UNIQUE NOT NULL, document_id TEXT NOT NULL REFERENCES documents,
                      start INTEGER NOT NULL, end INTEGER NOT NULL, text TEXT NOT NULL, page INTEGER, section TEXT);
CREATE INDEX passages_document ON passages(document_id);
"""


def generation_name(documents: Sequence[Document], encoder_digest: str, chunker: Chunker) -> str:
    """The same documents, read to the same text, with the same chunker and encoder have the same name."""
    content = [[d.document_id, d.version, d.source, d.title, sha256(d.text.encode()).hexdigest()] for d in documents]
    return digest_of([content, encoder_digest, chunker.to_dict()])[:16]


def exists(home: Path, generation: str) -> bool:
    """Whether this generation is complete."""
    return (home / "index" / generation / INDEX_MANIFEST).exists()


def publish(home: Path, generation: str, documents: Sequence[Document], chunks: Sequence[Chunk], vectors: Array, encoder: Encoder, chunker: Chunker) -> None:
    """Write `home/index/<generation>`: built beside it, then renamed, so it is there whole or not at all.

    `vectors` is float32 (len(chunks), dimension), in the order of `chunks`.
    """
    target = home / "index" / generation
    building = target.with_name(f"{generation}.{os.getpid()}.building")  # an ingest and a reindex may build the same one at once
    for left in target.parent.glob("*.building"):  # by a run that was killed
        if left == building or not Path("/proc", left.suffixes[-2].lstrip(".")).exists():
            shutil.rmtree(left)
    building.mkdir(parents=True)
    _write_passages(building / "passages.db", documents, chunks)
    dense = faiss.IndexFlatIP(vectors.shape[1])
    dense.add(np.ascontiguousarray(vectors, np.float32))
    faiss.write_index(dense, str(building / "dense.faiss"))
    manifest = IndexManifest(
        generation,
        datetime.now(UTC).isoformat(timespec="seconds"),
        encoder.manifest.digest,
        int(vectors.shape[1]),
        chunker,
        len(documents),
        len(chunks),
        {name: digest_file(building / name) for name in ("passages.db", "dense.faiss")},
        CANARY,
        tuple(float(x) for x in encoder.encode([CANARY])[0]),
    )
    for name in manifest.files:
        _sync(building / name)
    write_manifest(building / INDEX_MANIFEST, manifest)
    _sync(building / INDEX_MANIFEST)
    try:
        building.rename(target)
    except OSError:
        if not exists(home, generation):
            raise
        shutil.rmtree(building)
    _sync(target.parent)


def set_current(home: Path, generation: str, encoder_digest: str) -> None:
    """Make a generation its encoder's newest one."""
    _write_whole(index_pointer(home, encoder_digest), generation)


def current(home: Path, encoder_digest: str) -> str | None:
    """An encoder's newest generation, if it has one."""
    pointer = index_pointer(home, encoder_digest)
    return pointer.read_text() if pointer.exists() else None


def set_shadow(home: Path, model_dir: Path) -> None:
    """From now on, what is ingested is encoded by this retriever too."""
    _write_whole(home / "index" / "shadow", str(model_dir))


def shadow(home: Path) -> Path | None:
    """The artefact folder of the second retriever to encode for, if there is one."""
    path = home / "index" / "shadow"
    return Path(path.read_text()) if path.exists() else None


def _write_whole(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    partial.write_text(text)
    _sync(partial)
    partial.replace(path)


def _write_passages(path: Path, documents: Sequence[Document], chunks: Sequence[Chunk]) -> None:
    database = sqlite3.connect(path)
    with database:
        database.executescript(SCHEMA)
        rows = [(d.document_id, d.version, d.title, d.source, d.media_type, d.text, json.dumps(d.metadata, ensure_ascii=False)) for d in documents]
        database.executemany("INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        passages = [(i, c.passage_id, c.document_id, c.start, c.end, c.text, c.page, c.section) for i, c in enumerate(chunks, start=1)]
        database.executemany("INSERT INTO passages VALUES (?, ?, ?, ?, ?, ?, ?, ?)", passages)
    database.close()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
