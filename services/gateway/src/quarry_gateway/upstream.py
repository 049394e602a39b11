"""Calls to the model services: one deadline, few retries, errors translated once."""

import asyncio
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aiohttp
from quarry_contract.codec import Message, loads
from quarry_contract.errors import BY_CODE, ErrorCode, QuarryError
from quarry_contract.manifests import ReleaseManifest
from quarry_contract.messages import (
    HEADER_DEADLINE_MS,
    HEADER_REQUEST_ID,
    DocumentRequest,
    DocumentResponse,
    DocumentText,
    ReadRequest,
    ReadResponse,
    SearchQuery,
    SearchRequest,
    SearchResponse,
    TextRange,
)

M = TypeVar("M", bound=Message)
PREDICTIONS = "/api/v1.0/predictions"
# These mean the same to our caller as to us; any other failure of an upstream is `upstream_failed`.
PASSED_ON = {ErrorCode.INVALID_REQUEST, ErrorCode.TOO_LARGE, ErrorCode.OVERLOADED, ErrorCode.DEADLINE_EXCEEDED}
MARGIN_SEC = 0.01  # kept back for our own work after the last hop


class RetryBudget:
    """Retries only while they are few: a token bucket as in gRPC proposal A6 (10 tokens, a failure costs 1, a success returns 0.1)."""

    def __init__(self) -> None:
        self._tokens = 10.0

    def success(self) -> None:
        """Refill a little."""
        self._tokens = min(10.0, self._tokens + 0.1)

    def failure(self) -> bool:
        """Pay for a failure; whether a retry is still allowed."""
        self._tokens = max(0.0, self._tokens - 1)
        return self._tokens > 5


class Upstream:
    """One model service."""

    def __init__(self, name: str, url: str, observe: Callable[[str, float], None] = lambda *_: None) -> None:
        self.name = name
        self._url = url
        self._observe = observe
        self._budget = RetryBudget()
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, data: dict[str, Any], call: "Call", wanted: type[M], under: str | None = None) -> M:
        """Predict, and check the reply against the contract; `under` is the key the message travels under.

        Raises:
            QuarryError: as `predict`; `upstream_failed` when the reply is not a `wanted`: that is never our caller's fault.
        """
        found = await self.predict({under: data} if under else data, call)
        try:
            return wanted.from_dict(found.get(under) if under and isinstance(found, dict) else found)
        except QuarryError as error:
            raise QuarryError(ErrorCode.UPSTREAM_FAILED, f"the {self.name}'s reply is not as the contract says") from error

    async def predict(self, data: dict[str, Any], call: "Call") -> Any:
        """jsonData in, jsonData out, within the call's deadline.

        Raises:
            QuarryError: `deadline_exceeded`, `overloaded`, `invalid_request`, `too_large`, `not_ready`, `upstream_failed`.
        """
        began = time.monotonic()
        try:
            async with asyncio.timeout(call.remaining_sec()):
                return await self._attempts(data, call)
        except TimeoutError:
            raise QuarryError(ErrorCode.DEADLINE_EXCEEDED) from None
        finally:
            seconds = time.monotonic() - began
            call.hops[self.name] = call.hops.get(self.name, 0.0) + seconds
            self._observe(self.name, seconds)

    async def _attempts(self, data: dict[str, Any], call: "Call") -> Any:
        try:
            result = await self._attempt(data, call)
        except QuarryError as error:
            # Only what surely was not worked on is asked again: no connection, or a service that is not ready.
            if error.code is not ErrorCode.NOT_READY or not self._budget.failure():
                raise
            await asyncio.sleep(0.05)
            return await self._attempt(data, call)
        self._budget.success()
        return result

    async def _attempt(self, data: dict[str, Any], call: "Call") -> Any:
        headers = {HEADER_REQUEST_ID: call.request_id, HEADER_DEADLINE_MS: str(max(1, int(1000 * call.remaining_sec())))}
        try:
            async with self._client().post(self._url + PREDICTIONS, json={"jsonData": data}, headers=headers) as reply:
                body = await reply.read()
                retry_after = reply.headers.get("Retry-After", "")
        except aiohttp.ClientConnectorError as error:
            raise QuarryError(ErrorCode.NOT_READY, f"the {self.name} cannot be reached", retry_after_sec=1) from error
        except aiohttp.ClientError as error:
            raise QuarryError(ErrorCode.UPSTREAM_FAILED, f"the {self.name} broke off") from error
        return self._result(reply.status, body, retry_after)

    def _result(self, status: int, body: bytes, retry_after: str) -> Any:
        try:
            message = loads(body)
        except QuarryError:
            message = None
        if status == 200 and isinstance(message, dict) and "jsonData" in message:
            return message["jsonData"]
        code = BY_CODE.get(str(message.get("code"))) if isinstance(message, dict) else None
        wait = int(retry_after) if retry_after.isdigit() else 1
        if code is ErrorCode.NOT_READY:
            raise QuarryError(code, f"the {self.name} is not ready", retry_after_sec=wait)
        if code in PASSED_ON and isinstance(message, dict):
            raise QuarryError(code, str(message.get("detail", "")), wait if code is ErrorCode.OVERLOADED else None)
        raise QuarryError(ErrorCode.UPSTREAM_FAILED, f"the {self.name} failed")

    async def identity(self, seconds: float) -> dict[str, Any] | None:
        """What it says it serves (`custom` of Seldon's metadata: digests and names); None when it does not say within this time that it is ready."""
        try:
            async with asyncio.timeout(seconds):
                async with self._client().get(f"{self._url}/health/status") as reply:
                    if reply.status != 200:
                        return None
                async with self._client().get(f"{self._url}/metadata") as reply:
                    found = loads(await reply.read()) if reply.status == 200 else None
        except (TimeoutError, aiohttp.ClientError):
            return None
        except QuarryError:
            return {}
        custom = found.get("custom") if isinstance(found, dict) else None
        return custom if isinstance(custom, dict) else {}

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=256, keepalive_timeout=30)
            self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None, sock_connect=2))
        return self._session

    async def close(self) -> None:
        """Close its connections."""
        if self._session is not None:
            await self._session.close()


@dataclass
class Call:
    """One client request on its way: for which release, whom to ask, for whom, until when, under which id."""

    release: ReleaseManifest
    retriever: Upstream
    reader: Upstream
    deadline: float  # on time.monotonic()'s clock
    request_id: str
    principals: tuple[str, ...]  # the caller's, from the verified token; whatever is asked of the retriever is asked for them
    hops: dict[str, float] = field(default_factory=dict)  # seconds spent upstream

    async def search(self, query: SearchQuery) -> SearchResponse:
        """Passages of the release's index that the caller may read.

        Raises:
            QuarryError: as Upstream.ask; `upstream_failed` when the retriever was restarted on another index.
        """
        request = SearchRequest(query.question, query.top_k, query.retrieval, query.filters, self.principals)
        found = await self.retriever.ask(request.to_dict(), self, SearchResponse, "search")
        if found.generation != self.release.index_generation:
            raise QuarryError(ErrorCode.UPSTREAM_FAILED, "the retriever answers from another index than the release's")
        return found

    async def texts(self, ranges: tuple[TextRange, ...]) -> tuple[DocumentText | None, ...]:
        """Words of documents, in order; None where there is no such document or version, or not for the caller.

        Raises:
            QuarryError: as Upstream.ask.
        """
        request = DocumentRequest(ranges, self.principals)
        return (await self.retriever.ask(request.to_dict(), self, DocumentResponse, "documents")).texts

    async def read(self, request: ReadRequest) -> ReadResponse:
        """Spans by the release's reader, which names itself by version or by digest.

        Raises:
            QuarryError: as Upstream.ask; `upstream_failed` when the reader was restarted with another model.
        """
        found = await self.reader.ask(request.to_dict(), self, ReadResponse)
        if found.model != self.release.reader and not found.model.endswith(f"@{self.release.reader_digest[:12]}"):
            raise QuarryError(ErrorCode.UPSTREAM_FAILED, "the reader answers with another model than the release's")
        return found

    def remaining_sec(self) -> float:
        """Time left for upstream work.

        Raises:
            QuarryError: `deadline_exceeded` when there is none.
        """
        left = self.deadline - time.monotonic() - MARGIN_SEC
        if left <= 0:
            raise QuarryError(ErrorCode.DEADLINE_EXCEEDED)
        return left


# Haystack components are built once from YAML; what belongs to one request reaches them here.
CALL: ContextVar[Call] = ContextVar("CALL")
