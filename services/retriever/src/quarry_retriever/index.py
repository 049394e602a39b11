"""One index generation, opened read-only: checked against its manifest and against the encoder that will ask it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from quarry_contract.manifests import INDEX_MANIFEST, IndexManifest, ManifestError, read_manifest, verify_files
from quarry_runtime.session import Array

from .filters import Filters
from .lexical import Analyser, Bm25, TfIdf
from .passages import PassageStore, Row
from .vectors import FlatIndex, VectorIndex

CANARY_TOLERANCE = 1e-3
DATABASE, VECTORS = "passages.db", "dense.faiss"
Encode = Callable[[Sequence[str]], Array]  # float32 (texts, dimension)


@dataclass(frozen=True)
class Index:
    """The generation's words, vectors, lexical weightings and filters. Rows are the same in all of them."""

    manifest: IndexManifest
    store: PassageStore
    dense: VectorIndex
    analyse: Analyser
    bm25: Bm25
    tfidf: TfIdf
    filters: Filters

    @classmethod
    def open(cls, folder: Path, encoder_digest: str, encode_passages: Encode) -> "Index":
        """Check and open a generation folder; `encoder_digest` and `encode_passages` are the loaded retriever's.

        Raises:
            ManifestError: it is damaged, or was encoded by another model.
        """
        manifest = read_manifest(folder / INDEX_MANIFEST, IndexManifest)
        if manifest.encoder_digest != encoder_digest:
            raise ManifestError(f"index {manifest.generation} was encoded by another retriever than the one loaded: ingest again with this one")
        if not {DATABASE, VECTORS} <= manifest.files.keys():
            raise ManifestError(f"{INDEX_MANIFEST} does not list {DATABASE} and {VECTORS}")
        verify_files(folder, manifest.files)
        _check_canary(manifest, encode_passages)
        store = PassageStore(folder / DATABASE)
        rows = store.check(manifest.documents, manifest.passages)
        dense = FlatIndex.load(folder / VECTORS, manifest.dimension, manifest.passages)
        analyse = Analyser()
        terms = [analyse(words(row)) for row in rows]
        return cls(manifest, store, dense, analyse, Bm25(terms), TfIdf(terms), Filters(rows))


def words(row: Row) -> str:
    """What lexical search looks at: file name, title and section name the subject, number and revision that the passage itself leaves out."""
    return " \n ".join(part for part in (row.document_id, row.title, row.section, row.text) if part)


def _check_canary(manifest: IndexManifest, encode_passages: Encode) -> None:
    """The same files may still compute otherwise (another runtime, another processor): compare what they compute."""
    expected = np.array(manifest.canary_vector, np.float32)
    found = encode_passages([manifest.canary_text])[0]
    if found.shape != expected.shape or len(found) != manifest.dimension:
        raise ManifestError(f"index {manifest.generation} has vectors of another dimension than the retriever loaded gives")
    if not np.abs(found - expected).max() <= CANARY_TOLERANCE:
        raise ManifestError("the index's canary text is encoded otherwise here than where the index was made")
