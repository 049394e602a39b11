"""Of the Pinecone stand-in: the index itself, its namespaces, its limits and when writes show. See pinecone_standin.py."""

import json
import math
import random
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import unquote

from pinecone_filters import Body, Refused, compiled

MAX_VECTORS, MAX_UPSERT_BYTES = 1000, 2 * 2**20
MAX_IDS, MAX_PAGE = 1000, 100
MAX_TOP_K, MAX_RESULT_BYTES = 10_000, 4 * 2**20
MAX_METADATA_BYTES, MAX_SPARSE, MAX_ID_CHARS = 40 * 1024, 1000, 512


@dataclass
class Settings:
    """`faults`: the next so many requests whose path begins with `path` fail: [{path, times, status, retry_after?}]; status 0 = the connection
    is dropped before anything is done, 1 = after it is done; 2 = dropped after `seconds` without an answer, and nothing is done."""

    delay: tuple[float, float] = (0.0, 0.0)  # seconds until queries see a write: from, to
    hold: bool = False  # no write becomes visible
    rate: float = 100.0  # requests a second, per namespace and operation
    deleted_rate: float = 5000.0  # records a second, per namespace
    lsn_headers: bool = True
    faults: list[Body] = field(default_factory=list)


class View:
    """A namespace as one kind of reading sees it: the writes up to some number."""

    def __init__(self) -> None:
        self.records: dict[str, Body] = {}
        self.applied = 0

    def advance(self, log: list[tuple[float, float, Callable[[dict[str, Body]], None]]], which: int) -> None:
        now = time.monotonic()
        while self.applied < len(log) and log[self.applied][which] <= now:
            log[self.applied][2](self.records)
            self.applied += 1


class Namespace:
    """Its writes in order, and when each shows: (to fetch and list, to queries, the write). The number of a write is its place, from 1."""

    def __init__(self) -> None:
        self.log: list[tuple[float, float, Callable[[dict[str, Body]], None]]] = []
        self.stored, self.indexed = View(), View()

    def write(self, change: Callable[[dict[str, Body]], None], delay: float) -> int:
        now = time.monotonic()
        before = self.log[-1] if self.log else (0.0, 0.0)
        self.log.append((max(before[0], now + delay / 2), max(before[1], now + delay), change))
        return len(self.log)


class Index:
    """All namespaces, settings, and what came in."""

    def __init__(self, dimension: int, metric: str) -> None:
        self.dimension, self.metric = dimension, metric
        self.lock = threading.Lock()
        self.random = random.Random(7)
        self.reset()

    def reset(self) -> None:
        self.namespaces: dict[str, Namespace] = {}
        self.settings = Settings()
        self.requests: list[Body] = []
        self.recent: dict[tuple[str, str], deque[float]] = defaultdict(deque)

    def seen(self, name: str, kind: str) -> View:
        """A namespace's view for `kind` of reading, brought up to now."""
        namespace = self.namespaces.get(name, Namespace())
        if not self.settings.hold:
            namespace.stored.advance(namespace.log, 0)
            namespace.indexed.advance(namespace.log, 1)
        return namespace.stored if kind == "stored" else namespace.indexed

    def write(self, name: str, change: Callable[[dict[str, Body]], None]) -> dict[str, str]:
        number = self.namespaces.setdefault(name, Namespace()).write(change, self.random.uniform(*self.settings.delay))
        return {"x-pinecone-request-lsn": str(number)}

    def limit(self, name: str, operation: str, amount: int = 1, rate: float | None = None) -> None:
        """Refuse more than so much within a second."""
        window, now = self.recent[name, operation], time.monotonic()
        while window and window[0] <= now - 1:
            window.popleft()
        if len(window) + amount > (rate or self.settings.rate):
            raise Refused(429, f"{operation} requests to namespace {name} exceed {rate or self.settings.rate:g} a second")
        window.extend([now] * amount)

    def upsert(self, body: Body, size: int) -> tuple[Body, dict[str, str]]:
        vectors = body.get("vectors", [])
        if size > MAX_UPSERT_BYTES:
            raise Refused(400, f"message length too large: found {size} bytes, the limit is: {MAX_UPSERT_BYTES} bytes")
        if not 1 <= len(vectors) <= MAX_VECTORS:
            raise Refused(400, f"upsert takes 1 to {MAX_VECTORS} vectors, not {len(vectors)}")
        name = _namespace(body)
        self.limit(name, "upsert")
        for vector in vectors:
            self.check_record(vector)
        return {"upsertedCount": len(vectors)}, self.write(name, lambda records: records.update({v["id"]: v for v in vectors}))

    def check_record(self, record: Body) -> None:
        _check_id(record.get("id"))
        self.check_dense(record.get("values", []))
        if record.get("sparseValues") is not None:
            self.check_sparse(record["sparseValues"])
        metadata = record.get("metadata") or {}
        if len(json.dumps(metadata, ensure_ascii=False).encode()) > MAX_METADATA_BYTES:
            raise Refused(400, f"metadata of {record['id']} exceeds {MAX_METADATA_BYTES} bytes")
        for key, value in metadata.items():
            listed = isinstance(value, list) and all(isinstance(v, str) for v in value)
            if key.startswith("$") or not (listed or isinstance(value, str | int | float | bool)):
                raise Refused(400, f"metadata value of {key} must be a string, number, boolean or list of strings")

    def check_dense(self, values: list[float]) -> None:
        if len(values) != self.dimension:
            raise Refused(400, f"Vector dimension {len(values)} does not match the dimension of the index {self.dimension}")
        if not all(isinstance(v, int | float) and math.isfinite(v) for v in values) or not any(values):
            raise Refused(400, "Dense vectors must contain at least one non-zero value and finite numbers only")

    def check_sparse(self, sparse: Body) -> None:
        if self.metric != "dotproduct":
            raise Refused(400, "Index configuration does not support sparse values: only indexes using dotproduct do")
        indices, values = sparse.get("indices", []), sparse.get("values", [])
        if not 1 <= len(indices) == len(values) <= MAX_SPARSE or len(set(indices)) != len(indices) or not all(values):
            raise Refused(400, f"a sparse vector has 1 to {MAX_SPARSE} different indices with a value other than zero each")
        if not all(isinstance(i, int) and 0 <= i < 2**32 for i in indices):
            raise Refused(400, "a sparse vector's indices are unsigned 32-bit numbers")

    def query(self, body: Body) -> tuple[Body, dict[str, str]]:
        name, top_k = _namespace(body), body.get("topK", 0)
        self.limit(name, "query")
        if not 1 <= top_k <= MAX_TOP_K:
            raise Refused(400, f"topK must be from 1 to {MAX_TOP_K}")
        view = self.seen(name, "indexed")
        dense, sparse = body.get("vector"), body.get("sparseVector")
        if "id" in body:
            dense = view.records.get(body["id"], {}).get("values")
        if dense is None:
            raise Refused(400, "a query needs a vector or the id of one")
        self.check_dense(dense)
        if sparse is not None:
            self.check_sparse(sparse)
        wanted = compiled(body["filter"]) if "filter" in body else lambda metadata: True
        scored = [(self.score(dense, sparse, r), r) for r in view.records.values() if wanted(r.get("metadata") or {})]
        scored.sort(key=lambda pair: -pair[0])
        kept = {"values": body.get("includeValues"), "metadata": body.get("includeMetadata")}
        matches = [{"id": r["id"], "score": s, **{k: r[k] for k, on in kept.items() if on and k in r}} for s, r in scored[:top_k]]
        if len(json.dumps(matches)) > MAX_RESULT_BYTES:
            raise Refused(400, "the result exceeds 4 MB: ask for a lower topK or without values and metadata")
        return {"matches": matches, "namespace": name, "usage": {"readUnits": 1}}, {"x-pinecone-max-indexed-lsn": str(view.applied)}

    def score(self, dense: list[float], sparse: Body | None, record: Body) -> float:
        total = sum(a * b for a, b in zip(dense, record["values"], strict=True))
        if self.metric == "cosine":
            return total / math.hypot(*dense) / math.hypot(*record["values"])
        own = record.get("sparseValues")
        if sparse and own:
            weights = dict(zip(own["indices"], own["values"], strict=True))
            total += sum(weights.get(i, 0.0) * v for i, v in zip(sparse["indices"], sparse["values"], strict=True))
        return total

    def delete(self, body: Body) -> tuple[Body, dict[str, str]]:
        name, ids = _namespace(body), body.get("ids")
        self.limit(name, "delete")
        if name not in self.namespaces:
            raise Refused(404, "Namespace not found")
        if [bool(ids), bool(body.get("deleteAll")), bool(body.get("filter"))].count(True) != 1:
            raise Refused(400, "delete takes one of ids, deleteAll and filter")
        if body.get("deleteAll"):
            return {}, self.write(name, lambda records: records.clear())
        if body.get("filter"):
            wanted = compiled(body["filter"])
            gone = [i for i, r in self.seen(name, "stored").records.items() if wanted(r.get("metadata") or {})]
        else:
            if len(ids) > MAX_IDS:
                raise Refused(400, f"delete takes at most {MAX_IDS} ids, not {len(ids)}")
            self.limit(name, "deleted records", len(ids), self.settings.deleted_rate)
            gone = list(ids)
        return {}, self.write(name, lambda records: [records.pop(i, None) for i in gone] and None)

    def fetch(self, query: dict[str, list[str]]) -> tuple[Body, dict[str, str]]:
        name, ids = query.get("namespace", ["__default__"])[0], query.get("ids", [])
        self.limit(name, "fetch")
        if not 1 <= len(ids) <= MAX_IDS:
            raise Refused(400, f"fetch takes 1 to {MAX_IDS} ids, not {len(ids)}")
        records = self.seen(name, "stored").records
        return {"vectors": {i: records[i] for i in ids if i in records}, "namespace": name, "usage": {"readUnits": 1}}, {}

    def listed(self, query: dict[str, list[str]]) -> tuple[Body, dict[str, str]]:
        name, limit = query.get("namespace", ["__default__"])[0], int(query.get("limit", ["100"])[0])
        self.limit(name, "list")
        if not 1 <= limit <= MAX_PAGE:
            raise Refused(400, f"limit must be from 1 to {MAX_PAGE}")
        prefix, after = query.get("prefix", [""])[0], query.get("paginationToken", [""])[0]
        ids = sorted(i for i in self.seen(name, "stored").records if i.startswith(prefix) and i > after)
        page = {"vectors": [{"id": i} for i in ids[:limit]], "namespace": name, "usage": {"readUnits": 1}}
        return page | ({"pagination": {"next": ids[limit - 1]}} if len(ids) > limit else {}), {}

    def stats(self) -> Body:
        counts = {name: {"vectorCount": len(self.seen(name, "indexed").records)} for name in self.namespaces}
        total = sum(c["vectorCount"] for c in counts.values())
        return {"namespaces": counts, "dimension": self.dimension, "metric": self.metric, "indexFullness": 0, "totalVectorCount": total, "vectorType": "dense"}

    def of_namespaces(self, method: str, name: str) -> Body:
        if not name:
            return {"namespaces": [{"name": n, "record_count": len(self.seen(n, "stored").records)} for n in sorted(self.namespaces)]}
        if name not in self.namespaces:
            raise Refused(404, "Namespace not found")
        if method == "DELETE":
            del self.namespaces[name]
            return {}
        return {"name": name, "record_count": len(self.seen(name, "stored").records)}

    def answer(self, method: str, path: str, query: dict[str, list[str]], raw: bytes) -> tuple[Body, dict[str, str]]:
        """Body and headers of the answer to one request."""
        if method == "GET" and path in ("/vectors/fetch", "/vectors/list"):
            return (self.fetch if path.endswith("fetch") else self.listed)(query)
        if path == "/namespaces" or path.startswith("/namespaces/"):
            return self.of_namespaces(method, unquote(path[12:])), {}
        body = json.loads(raw or b"{}")
        if path == "/vectors/upsert":
            return self.upsert(body, len(raw))
        if path in ("/query", "/vectors/delete"):
            return (self.query if path == "/query" else self.delete)(body)
        if path == "/describe_index_stats":
            return self.stats(), {}
        raise Refused(404, f"no {path} here")


def _namespace(body: Body) -> str:
    return body.get("namespace") or "__default__"


def _check_id(value: object) -> None:
    if not (isinstance(value, str) and 1 <= len(value) <= MAX_ID_CHARS and value.isascii() and "\0" not in value):
        raise Refused(400, f"a vector's id is 1 to {MAX_ID_CHARS} ASCII characters")
