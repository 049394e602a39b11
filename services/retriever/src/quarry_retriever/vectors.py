"""Dense search: the interface, and exact search by faiss."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import faiss
import numpy as np
from quarry_contract.manifests import ManifestError
from quarry_runtime.session import Array


@dataclass(frozen=True)
class Hits:
    """Rows found, best first, equal scores by row: int64 (n,) and float32 (n,)."""

    rows: Array
    scores: Array


class VectorIndex(Protocol):
    """Nearest passages by inner product. Exact and approximate, embedded and remote indexes look alike."""

    def search(self, vector: Array, top_k: int, allowed: Array | None = None) -> Hits:
        """At most `top_k` rows for float32 (dimension,), only among those that bool (rows,) `allowed` marks: as many as there are, never fewer."""
        ...


def best(rows: Array, scores: Array, top_k: int) -> Hits:
    """The `top_k` highest scores; equal ones in the order of their rows."""
    if len(scores) > top_k:
        kept = np.flatnonzero(scores >= -np.partition(-scores, top_k - 1)[top_k - 1])  # all that tie with the last
        rows, scores = rows[kept], scores[kept]
    order = np.lexsort((rows, -scores))[:top_k]
    return Hits(rows[order], scores[order])


class FlatIndex:
    """faiss IndexFlatIP: every vector is compared, so the result is exact."""

    def __init__(self, index: faiss.IndexFlatIP) -> None:
        self._index = index

    @classmethod
    def load(cls, path: Path, dimension: int, rows: int) -> "FlatIndex":
        """Open dense.faiss.

        Raises:
            ManifestError: it is no such index, or has another dimension or number of vectors, or a vector that is not finite.
        """
        try:
            index = faiss.read_index(str(path))
        except Exception as error:  # faiss raises RuntimeError, SWIG sometimes others
            raise ManifestError(f"{path.name} is not a faiss index") from error
        if not isinstance(index, faiss.IndexFlatIP):
            raise ManifestError(f"{path.name} is not an IndexFlatIP")
        if index.d != dimension or index.ntotal != rows:
            raise ManifestError(f"{path.name} holds {index.ntotal} vectors of {index.d} numbers, the index has {rows} passages and vectors of {dimension}")
        vectors = index.reconstruct_n(0, rows)
        if not np.isfinite(vectors).all():  # of any length: DPR's own encoders do not normalise
            raise ManifestError(f"{path.name} holds vectors that are not finite")
        return cls(index)

    def search(self, vector: Array, top_k: int, allowed: Array | None = None) -> Hits:
        """Exact; see VectorIndex. faiss's own choice among equal scores at the cut is not by row, so ties are fetched whole."""
        faiss.omp_set_num_threads(1)  # per calling thread; callers are already as many as there are cores
        bits = None if allowed is None else np.packbits(allowed, bitorder="little")
        available = self._index.ntotal if allowed is None else int(allowed.sum())
        params = None if bits is None else faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bits))  # type: ignore[call-arg, arg-type]
        fetched = min(top_k + 1, available)
        while fetched:
            scores, rows = self._index.search(np.ascontiguousarray(vector[None], np.float32), fetched, params=params)
            if fetched == available or scores[0, -1] < scores[0, top_k - 1]:
                return best(rows[0], scores[0], top_k)
            fetched = min(2 * fetched, available)
        return Hits(np.zeros(0, np.int64), np.zeros(0, np.float32))
