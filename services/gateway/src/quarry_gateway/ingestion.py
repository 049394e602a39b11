"""Changes of documents, handed to the ingestion service."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from urllib.parse import quote

import aiohttp
from quarry_contract.codec import loads
from quarry_contract.errors import BY_CODE, ErrorCode, QuarryError
from quarry_contract.messages import HEADER_REQUEST_ID, Job
from quarry_contract.uploads import HEADER_SUBMITTER, encode_name
from yarl import URL

# These mean the same to our caller as to us; any other failure is `upstream_failed`.
PASSED_ON = {ErrorCode.INVALID_REQUEST, ErrorCode.NOT_FOUND, ErrorCode.TOO_LARGE, ErrorCode.OVERLOADED}


class Body:
    """A request's body on its way through, never whole in memory; ends with `error` when it cannot be passed on."""

    def __init__(self, parts: AsyncIterator[bytes], limit: int) -> None:
        self._parts = parts
        self._limit = limit
        self.error: Exception | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The parts. What goes wrong here is kept: the HTTP client would wrap it."""
        size = 0
        try:
            async for part in self._parts:
                size += len(part)
                if size > self._limit:
                    raise QuarryError(ErrorCode.TOO_LARGE, f"the document is larger than {self._limit} bytes")
                yield part
        except Exception as error:
            self.error = error
            raise


class Ingestion:
    """The service that writes the index. It trusts this one to say who submits."""

    def __init__(self, url: str, observe: Callable[[str, float], None]) -> None:
        self._url = url
        self._observe = observe
        self._session: aiohttp.ClientSession | None = None

    async def put(self, document_id: str, body: Body, headers: dict[str, str], submitter: str | None, request_id: str, deadline: float) -> Job:
        """Hand over a document's bytes; the job is durable. Raises as `_ask`, and what reading the body raises."""
        try:
            return await self._ask("PUT", _document(document_id), headers, submitter, request_id, deadline, body)
        except QuarryError:
            if body.error is not None:
                raise body.error from None
            raise

    async def delete(self, document_id: str, forget: bool, submitter: str | None, request_id: str, deadline: float) -> Job:
        """Ask for a document's end; with `forget`, for the end of all that was kept about it. Raises as `_ask`."""
        return await self._ask("DELETE", _document(document_id) + ("?forget=true" if forget else ""), {}, submitter, request_id, deadline)

    async def job(self, job_id: str, submitter: str | None, request_id: str, deadline: float) -> Job:
        """How a job stands, for its submitter. Raises as `_ask`; `not_found` for another's job as for none."""
        return await self._ask("GET", f"/jobs/{quote(job_id, safe='')}", {}, submitter, request_id, deadline)

    async def _ask(
        self, method: str, path: str, headers: dict[str, str], submitter: str | None, request_id: str, deadline: float, body: Body | None = None
    ) -> Job:
        """One request, never repeated.

        Raises:
            QuarryError: `not_ready`, `deadline_exceeded`, `upstream_failed`, and those in PASSED_ON.
        """
        began = time.monotonic()
        headers = {**headers, HEADER_REQUEST_ID: request_id} | ({} if submitter is None else {HEADER_SUBMITTER: encode_name(submitter)})
        try:
            async with asyncio.timeout(max(0.0, deadline - began)):
                async with self._client().request(method, URL(self._url + path, encoded=True), data=body, headers=headers) as reply:
                    return _result(reply.status, await reply.read(), reply.headers.get("Retry-After", ""))
        except TimeoutError:
            raise QuarryError(ErrorCode.DEADLINE_EXCEEDED) from None
        except aiohttp.ClientConnectorError as error:
            raise QuarryError(ErrorCode.NOT_READY, "the ingestion service cannot be reached", retry_after_sec=1) from error
        except aiohttp.ClientError as error:
            raise QuarryError(ErrorCode.UPSTREAM_FAILED, "the ingestion service broke off") from error
        finally:
            self._observe("ingestion", time.monotonic() - began)

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, sock_connect=2))
        return self._session

    async def close(self) -> None:
        """Close its connections."""
        if self._session is not None:
            await self._session.close()


def _document(document_id: str) -> str:
    return f"/documents/{quote(document_id, safe='')}"


def _result(status: int, body: bytes, retry_after: str) -> Job:
    try:
        message = loads(body)
        if status in (200, 202):
            return Job.from_dict(message)
    except QuarryError as error:
        raise QuarryError(ErrorCode.UPSTREAM_FAILED, "the ingestion service's reply is not as the contract says") from error
    code = BY_CODE.get(str(message.get("code"))) if isinstance(message, dict) else None
    wait = int(retry_after) if retry_after.isdigit() else 1
    if code is ErrorCode.NOT_READY:
        raise QuarryError(code, "the ingestion service is not ready", retry_after_sec=wait)
    if code in PASSED_ON and isinstance(message, dict):
        raise QuarryError(code, str(message.get("detail", "")), wait if code is ErrorCode.OVERLOADED else None)
    raise QuarryError(ErrorCode.UPSTREAM_FAILED, "the ingestion service failed")
