"""Dense search in Pinecone, sparse-dense where that is asked for; index.db stays what says which passages there are and who may see them.

Pinecone narrows down by principals and filters; each id it finds is then looked up in index.db and in the snapshot, and what is not in
both, or not allowed to this caller, is left out. More than needed is asked for, so that enough remain.
"""

import asyncio
import json
import os
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from quarry_contract.manifests import ManifestError
from quarry_contract.messages import SearchRequest
from quarry_contract.vector_store import Sparse, VectorStoreError, filter_of, weighted
from quarry_runtime.session import Array

from .passages import PassageStore, reading
from .snapshot import Snapshot
from .vectors import Hits, best

HOST = "QUARRY_RETRIEVER_PINECONE_HOST"
DENSE_SHARE = 0.5  # chosen on the sample corpus's train and dev questions (docs/adr/0009)
SEARCH_SEC = 2.0  # for one search, with all of its requests
MAX_TOP_K = 10_000  # https://docs.pinecone.io/reference/api/database-limits
FAILURES, REST_SEC = 3, 5.0  # after so many failures in a row, Pinecone is not asked for so long

_ROWS = "SELECT passage_id, row FROM passages WHERE passage_id IN (SELECT value FROM json_each(?))"


class StaleSnapshot(Exception):
    """index.db has changed since the snapshot in a way that matters here: refresh and search again."""


class PineconeIndex:
    """One namespace, searched by any number of threads. Requests run in an event loop of their own, because only there can they be bounded:
    the SDK's timeout= counts anew for each of its retries and leaves out its pauses."""

    def __init__(self, host: str, namespace: str, store: PassageStore, search_sec: float = SEARCH_SEC, together: bool = False) -> None:
        """The key is PINECONE_API_KEY's; `store` is the index.db that the namespace belongs to. `together`: hybrid search is by vector and terms here.

        Raises:
            ManifestError: the SDK, the key or the host is not there.
        """
        self._namespace, self._store, self._search_sec, self.together = namespace, store, search_sec, together
        self._failures, self._rests_until = 0, 0.0
        self._index = _connect(host)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="pinecone", daemon=True)
        self._thread.start()

    @classmethod
    def from_environment(cls, generation: str, store: PassageStore) -> "PineconeIndex | None":
        """As QUARRY_RETRIEVER_PINECONE_HOST, _NAMESPACE (else the generation) and _HYBRID (`fused`, or `sparse-dense`) say; None without a host.

        Raises:
            ManifestError: see __init__; or _HYBRID is neither.
        """
        if not configured():
            return None
        hybrid = os.environ.get("QUARRY_RETRIEVER_PINECONE_HYBRID", "fused")
        if hybrid not in ("fused", "sparse-dense"):
            raise ManifestError("QUARRY_RETRIEVER_PINECONE_HYBRID must be fused or sparse-dense")
        namespace = os.environ.get("QUARRY_RETRIEVER_PINECONE_NAMESPACE") or generation
        return cls(os.environ[HOST], namespace, store, together=hybrid == "sparse-dense")

    def search(
        self,
        question: Array,
        request: SearchRequest,
        top_k: int,
        snapshot: Snapshot,
        allowed: Sequence[Array],
        *,
        terms: Sparse | None = None,
        final: bool = False,
    ) -> Hits:
        """The nearest by the namespace's measure among the rows that bool (rows,) per part `allowed` marks. `question`: float32 (dimension,).

        `terms`: by vector and terms together, DENSE_SHARE of the score the vector's. `final`: the snapshot is taken as it is, what it does not
        have is left out.

        Raises:
            StaleSnapshot: see there; never when `final`.
            VectorStoreError: Pinecone does not answer in time, or not well.
        """
        if not any(mask.any() for mask in allowed):
            return Hits(np.zeros(0, np.int64), np.zeros(0, np.float32))
        asked_for: dict[str, Any] = {"vector": question.tolist()}
        if terms and terms.indices:
            vector, sparse = weighted(question.tolist(), terms, DENSE_SHARE)
            asked_for = {"vector": vector, "sparse_vector": {"indices": list(sparse.indices), "values": list(sparse.values)}}
        deadline = time.monotonic() + self._search_sec
        query = {**asked_for, "namespace": self._namespace, "filter": filter_of(request.principals, request.filters)}
        asked = min(MAX_TOP_K, 2 * top_k + 20)
        while True:
            found = self._ask({**query, "top_k": asked}, deadline)
            rows, scores = self._rows(found, snapshot, final)
            kept = _allowed(rows, snapshot, allowed)
            if kept.sum() >= top_k or len(found) < asked or asked == MAX_TOP_K:
                return best(rows[kept], scores[kept], top_k)
            asked = min(MAX_TOP_K, 4 * asked)

    def close(self) -> None:
        """End the loop and let go of the connections."""
        asyncio.run_coroutine_threadsafe(self._index.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _ask(self, query: dict[str, Any], deadline: float) -> dict[str, float]:
        """Ids and scores. One layer tries again, the SDK's, and the deadline ends it."""
        if time.monotonic() < self._rests_until:
            raise VectorStoreError(f"Pinecone failed {FAILURES} times in a row and is left alone for {REST_SEC:g} s")
        try:
            found = asyncio.run_coroutine_threadsafe(self._bounded(query, deadline), self._loop).result()
        except Exception as error:  # what the SDK and its transport raise
            self._failures += 1
            if self._failures >= FAILURES:
                self._rests_until = time.monotonic() + REST_SEC
            raise VectorStoreError(f"Pinecone did not answer: {type(error).__name__}: {error}") from error
        self._failures = 0
        return found

    async def _bounded(self, query: dict[str, Any], deadline: float) -> dict[str, float]:
        async with asyncio.timeout(deadline - time.monotonic()):
            answer = await self._index.query(**query)
        return {match.id: float(match.score) for match in answer.matches}

    def _rows(self, found: dict[str, float], snapshot: Snapshot, final: bool) -> tuple[Array, Array]:
        """Rows of the snapshot and their scores: int64 and float32 (n,). An id that index.db does not have belongs to a change that is not
        finished: it is left out."""
        with reading(self._store.connection()) as connection:
            [revision] = connection.execute("SELECT revision FROM state").fetchone()
            known = connection.execute(_ROWS, (json.dumps(list(found)),)).fetchall()
        rows = np.array([row for _, row in known], np.int64)
        held = _allowed(rows, snapshot, snapshot.alive)
        if revision != snapshot.revision and not final and (len(rows) < len(found) or not held.all()):
            raise StaleSnapshot
        return rows[held], np.array([found[passage_id] for passage_id, _ in known], np.float32)[held]


def configured() -> bool:
    """Whether dense search is Pinecone's."""
    return bool(os.environ.get(HOST))


def _connect(host: str) -> Any:
    try:
        from pinecone import AsyncIndex
        from pinecone.errors.exceptions import PineconeError
    except ImportError:
        raise ManifestError("Pinecone's SDK is not installed: install quarry-retriever[pinecone]") from None
    if not os.environ.get("PINECONE_API_KEY"):
        raise ManifestError("PINECONE_API_KEY is not set: it must hold the key of the Pinecone project")
    try:
        return AsyncIndex(host=host)
    except PineconeError as error:
        raise ManifestError(f"QUARRY_RETRIEVER_PINECONE_HOST is not the host of an index: {error}") from None


def _allowed(rows: Array, snapshot: Snapshot, allowed: Sequence[Array]) -> Array:
    """bool (rows,): those that bool (rows,) per part marks. Each part's rows ascend."""
    kept = np.zeros(len(rows), bool)
    for part, mask in zip(snapshot.parts, allowed, strict=True):
        at = np.minimum(np.searchsorted(part.rows, rows), len(part.rows) - 1)
        kept |= (part.rows[at] == rows) & mask[at]
    return kept
