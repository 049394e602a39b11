"""One namespace of a Pinecone serverless index, written through its SDK: within its limits, paced, retried, and done only when queries see it.

Limits: https://docs.pinecone.io/reference/api/database-limits. Log sequence numbers, which tell what queries see:
https://docs.pinecone.io/guides/index-data/check-data-freshness.
"""

import asyncio
import json
import os
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pinecone import AsyncIndex
from pinecone.errors.exceptions import ApiError, NotFoundError, PineconeConnectionError, PineconeError
from pinecone.models.response_info import ResponseInfo
from quarry_contract.vector_store import Sparse, VectorStoreError
from quarry_runtime.session import Array

MAX_VECTORS, MAX_UPSERT_BYTES, MAX_METADATA_BYTES = 1_000, 2_000_000, 40_000
MAX_IDS, MAX_URL_BYTES, PAGE, MAX_FOUND = 1_000, 6_000, 100, 10_000
REQUESTS, DELETED, UPSERTED_BYTES = 80.0, 4_000.0, 40e6  # a second: what we allow ourselves, below Pinecone's 100, 5,000 and 50 MB
ATTEMPT_SEC = 20.0
FIRST_PAUSE_SEC, LONGEST_PAUSE_SEC = 0.1, 10.0
FIRST_POLL_SEC, LONGEST_POLL_SEC = 0.02, 1.0
AGAIN = frozenset({408, 429, 500, 502, 503, 504})

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Record:
    """One passage. `vector`: float32 (dimension,); `metadata`: as quarry_contract.vector_store makes it."""

    passage_id: str
    vector: Array
    metadata: Mapping[str, Any]
    sparse: Sparse | None = None

    def entry(self) -> dict[str, Any]:
        """As it is sent: nine digits give every float32 back exactly, and take half the space of more."""
        made = {"id": self.passage_id, "values": [float(f"{x:.9g}") for x in self.vector.tolist()], "metadata": dict(self.metadata)}
        return made | ({"sparse_values": {"indices": list(self.sparse.indices), "values": list(self.sparse.values)}} if self.sparse else {})


class Pace:
    """No more than so much a second, evenly."""

    def __init__(self, per_second: float) -> None:
        self._per_second, self._free = per_second, 0.0

    async def wait(self, amount: float) -> None:
        """Until this much more may be done."""
        now = time.monotonic()
        start = max(now, self._free)
        self._free = start + amount / self._per_second
        await asyncio.sleep(start - now)


class Namespace:
    """The records of one namespace. For one thread at a time; a change is visible to queries when its call returns."""

    def __init__(self, host: str, name: str, dimension: int, call_sec: float, attempt_sec: float = ATTEMPT_SEC) -> None:
        """`host` is the index's own, as the console shows it; the key is PINECONE_API_KEY's. `call_sec` is for one put, delete or page, with
        all of its retries and waiting.

        Raises:
            VectorStoreError: there is no key, or the host is none.
        """
        if not os.environ.get("PINECONE_API_KEY"):
            raise VectorStoreError("PINECONE_API_KEY is not set: it must hold the key of the Pinecone project")
        self.name, self._call_sec, self._attempt_sec = name, call_sec, attempt_sec
        self._probe = [1.0] + [0.0] * (dimension - 1)
        self._headers = ResponseInfo()
        self._paces = {"requests": Pace(REQUESTS), "deleted": Pace(DELETED), "bytes": Pace(UPSERTED_BYTES)}
        self._runner = asyncio.Runner()
        try:
            self._index = _connect(host, self._answered)
        except PineconeError as error:
            raise VectorStoreError(f"Pinecone cannot be used: {error}") from error

    def put(self, records: Iterable[Record]) -> None:
        """Write these, over what has their ids; done when queries see all of them.

        Raises:
            VectorStoreError: it is not done; some of them may have been written.
        """
        self._runner.run(self._put(records))

    def delete(self, ids: Iterable[str]) -> None:
        """Remove these, where they are there; done when queries see none of them.

        Raises:
            VectorStoreError: it is not done; some of them may be gone.
        """
        self._runner.run(self._delete(ids))

    def ids(self, prefix: str = "") -> Iterator[str]:
        """All ids that begin with `prefix`, page by page.

        Raises:
            VectorStoreError: they cannot be listed.
        """
        token: str | None = None
        while True:
            page = self._runner.run(self._page(prefix, token))
            yield from (item.id for item in page.vectors if item.id is not None)
            token = page.pagination.next if page.pagination else None
            if not token:
                return

    def fetch(self, ids: Iterable[str]) -> dict[str, Any]:
        """The records of these ids as they are stored (`values`, `sparse_values`, `metadata`); those that are not there are left out.

        Raises:
            VectorStoreError: they cannot be read.
        """
        return self._runner.run(self._fetch(ids))

    def find(self, wanted: Mapping[str, Any]) -> set[str]:
        """Ids of the records with such metadata that queries find, MAX_FOUND at most.

        Raises:
            VectorStoreError: they cannot be asked for.
        """
        return self._runner.run(self._find(wanted))

    def close(self) -> None:
        """Let go of the connections."""
        self._runner.run(self._index.close())
        self._runner.close()

    async def _put(self, records: Iterable[Record]) -> None:
        deadline, written = time.monotonic() + self._call_sec, None
        for batch, size in batches(records):
            await self._call(lambda b=batch: self._index.upsert(vectors=b, namespace=self.name), deadline, bytes=size)  # type: ignore[misc]
            written = self._written()
        if written is not None:
            await self._until_seen(written, deadline)

    async def _delete(self, ids: Iterable[str]) -> None:
        deadline, written = time.monotonic() + self._call_sec, None
        for batch in parts(ids, MAX_IDS):
            try:
                await self._call(lambda b=batch: self._index.delete(ids=b, namespace=self.name), deadline, deleted=len(batch))  # type: ignore[misc]
            except NotFoundError:  # a namespace begins with its first record
                return
            written = self._written()
        if written is not None:
            await self._until_seen(written, deadline)

    async def _page(self, prefix: str, token: str | None) -> Any:
        deadline = time.monotonic() + self._call_sec
        return await self._call(lambda: self._index.list_paginated(prefix=prefix, limit=PAGE, pagination_token=token, namespace=self.name), deadline)

    async def _fetch(self, ids: Iterable[str]) -> dict[str, Any]:
        deadline, found = time.monotonic() + self._call_sec, {}
        for batch in parts(ids, MAX_IDS, MAX_URL_BYTES):
            answer = await self._call(lambda b=batch: self._index.fetch(ids=b, namespace=self.name), deadline)  # type: ignore[misc]
            found.update(answer.vectors)
        return found

    async def _find(self, wanted: Mapping[str, Any]) -> set[str]:
        deadline = time.monotonic() + self._call_sec
        answer = await self._call(lambda: self._index.query(vector=self._probe, top_k=MAX_FOUND, namespace=self.name, filter=wanted), deadline)
        return {match.id for match in answer.matches}

    async def _answered(self, response: httpx.Response) -> None:
        self._headers = ResponseInfo(raw_headers=dict(response.headers))

    def _written(self) -> int:
        """The number of the write just done. The SDK gives it for upserts only, so it is read from the answer's headers."""
        number = self._headers.lsn_committed
        if number is None:
            raise VectorStoreError("Pinecone's answer to a write has no log sequence number: only serverless indexes give one, and a proxy must let it through")
        return number

    async def _until_seen(self, written: int, deadline: float) -> None:
        """Wait until queries see this write: those of one namespace become visible in their order."""
        pause = FIRST_POLL_SEC
        while True:
            await self._call(lambda: self._index.query(vector=self._probe, top_k=1, namespace=self.name), deadline)
            if self._headers.is_reconciled(written):
                return
            if time.monotonic() + pause > deadline:
                raise VectorStoreError(f"Pinecone's queries do not see what was written {self._call_sec:g} s ago to namespace {self.name}")
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_POLL_SEC)

    async def _call(self, request: Callable[[], Awaitable[T]], deadline: float, **amounts: float) -> T:
        """The one layer that tries again: full jitter (Brooker 2015), never sooner than Retry-After says, never past the deadline."""
        tries = 0
        while True:
            for name, amount in {"requests": 1.0, **amounts}.items():
                await self._paces[name].wait(amount)
            tries += 1
            try:
                async with asyncio.timeout(min(self._attempt_sec, deadline - time.monotonic())):
                    return await request()
            except NotFoundError:
                raise
            except (PineconeError, TimeoutError) as error:
                pause = _pause(error, tries)
                if pause is None:
                    raise VectorStoreError(f"Pinecone refuses a request to namespace {self.name}: {error}") from error
                if time.monotonic() + pause >= deadline:
                    said = str(error) or "no answer in time"
                    raise VectorStoreError(f"Pinecone failed {tries} times within {self._call_sec:g} s, and is not asked again: {said}") from error
            await asyncio.sleep(pause)


def _connect(host: str, answered: Callable[[httpx.Response], Awaitable[None]]) -> AsyncIndex:
    """The SDK's index, without retries of its own: 10.2 makes three on its data plane, whatever Pinecone(retry_config=...) says."""
    index = AsyncIndex(host=host)
    http = index._http
    http._config = replace(http._config, retry_config=replace(http._config.retry_config, max_retries=0))
    http._ensure_client().event_hooks = {"response": [answered]}
    return index


def _pause(error: Exception, tries: int) -> float | None:
    """How long to wait before the next try; None = the same again would not help."""
    if isinstance(error, ApiError) and error.status_code not in AGAIN:
        return None
    if not isinstance(error, ApiError | PineconeConnectionError | TimeoutError):
        return None
    asked = (error.headers or {}).get("retry-after", "") if isinstance(error, ApiError) else ""
    jitter = random.uniform(0, min(LONGEST_PAUSE_SEC, FIRST_PAUSE_SEC * 2**tries))  # noqa: S311 - no secret
    return jitter + (float(asked) if asked.isdecimal() else 0.0)


def batches(records: Iterable[Record]) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """Entries for one upsert each, and their bytes: as many as Pinecone takes at once.

    Raises:
        VectorStoreError: a passage's metadata are too large.
    """
    batch: list[dict[str, Any]] = []
    total = 0
    for record in records:
        entry = record.entry()
        size = _bytes(entry) + 1
        if _bytes(entry["metadata"]) > MAX_METADATA_BYTES:
            raise VectorStoreError(f"metadata and principals of document {record.metadata['document_id']} are more than Pinecone's {MAX_METADATA_BYTES} bytes")
        if batch and (len(batch) == MAX_VECTORS or total + size > MAX_UPSERT_BYTES):
            yield batch, total
            batch, total = [], 0
        batch.append(entry)
        total += size
    if batch:
        yield batch, total


def parts(ids: Iterable[str], count: int, size: int | None = None) -> Iterator[list[str]]:
    """At most `count` ids at a time, and `size` bytes of a URL that names each."""
    part: list[str] = []
    total = 0
    for found in ids:
        added = len("&ids=") + len(quote(found, safe=""))
        if part and (len(part) == count or (size is not None and total + added > size)):
            yield part
            part, total = [], 0
        part.append(found)
        total += added
    if part:
        yield part


def _bytes(value: object) -> int:
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
