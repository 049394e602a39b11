"""Behind Amazon API Gateway (api_gateway.py) the gateway, a real process, answers as it does directly; what differs is named here.

What a client must know, and docs/delivery.md tells: the challenge of a 401 comes as `x-amzn-Remapped-WWW-Authenticate`; `Location`
is without the stage; uploads are sent as application/octet-stream, at most 10 MB; what the edge answers itself has a request id of its own.
"""

import asyncio
import http.client
import json
import random
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import pytest_asyncio

from quarry_gateway.settings import Settings

from .api_gateway import LIMIT, ApiGateway, fronting
from .conftest import StandIn, serving, write_release
from .ingestion import IngestionStandIn, ingesting
from .issuer import AUDIENCE, ISSUER, bearer, jwks
from .test_process import PLAIN, told, wait_ready

pytestmark = pytest.mark.asyncio(loop_scope="module")
ANNA = bearer("anna", "quarry:write")
DEFINITION = Path(__file__).resolve().parents[3] / "terraform/modules/edge/api.json"
DOCUMENT = "/v1/documents/{document_id}"
OURS = ("Content-Type", "X-Request-Id", "X-Quarry-Release", "Location", "Retry-After", "Allow")
# (method, route of the OpenAPI document) -> requests: path, keyword arguments, status
REQUESTS: dict[tuple[str, str], list[tuple[str, dict[str, Any], int]]] = {
    ("POST", "/v1/answers"): [
        ("/v1/answers", {"json": {"question": "When does it stop? 🏗"}}, 200),
        ("/v1/answers", {"json": {"question": ""}}, 400),
        ("/v1/answers", {"content": b"{}", "headers": {"Content-Type": "text/plain"}}, 415),
        ("/v1/answers", {"json": {"question": "q", "filters": {"a": ["x" * 70_000]}}}, 413),
        ("/v1/answers", {"json": {"question": "q"}, "headers": {"X-Request-Deadline-Ms": "0"}}, 504),
    ],
    ("POST", "/v1/search"): [("/v1/search", {"json": {"question": "wind", "top_k": 3}}, 200)],
    ("GET", DOCUMENT): [
        ("/v1/documents/rules/ms%20014.pdf?start=10&end=20", {}, 200),
        ("/v1/documents/rules%2Fms%20014.pdf?start=%31%30", {}, 200),
        ("/v1/documents/rules/ms%20014.pdf?version=v%2B1&start=%20", {}, 400),
        ("/v1/documents/rules/ms%20014.pdf?version=a%20%26%20%C3%A4%2B1", {}, 200),
        ("/v1/documents/100%25/%C3%A4%2F1", {}, 404),
        ("/v1/documents/none?start=x", {}, 400),
    ],
    ("PUT", DOCUMENT): [("/v1/documents/a/%C3%A4%20100%25.txt", {"content": b"words", "headers": {"Content-Type": "application/octet-stream"}}, 202)],
    ("DELETE", DOCUMENT): [("/v1/documents/a.txt?forget=true", {}, 202), ("/v1/documents/a.txt?forget=perhaps", {}, 400)],
    ("GET", "/v1/jobs/{job_id}"): [("/v1/jobs/annas", {}, 200), ("/v1/jobs/none", {}, 404)],
    ("GET", "/v1/releases/current"): [("/v1/releases/current", {}, 200)],
    ("GET", "/v1/releases"): [("/v1/releases", {}, 200)],
    ("GET", "/healthz"): [("/healthz", {}, 200)],
    ("GET", "/readyz"): [("/readyz", {}, 200)],
}


class Behind:
    """The same gateway directly and through the edge, as Anna."""

    def __init__(self, direct: str, edge: ApiGateway, upstream: StandIn, ingestion: IngestionStandIn) -> None:
        self.edge, self.upstream, self.ingestion = edge, upstream, ingestion
        self.direct = httpx.AsyncClient(base_url=direct, headers=ANNA, timeout=30, verify=PLAIN)
        self.through = httpx.AsyncClient(base_url=f"{edge.url}/{edge.stage}", headers=ANNA, timeout=30, verify=PLAIN)

    async def both(self, method: str, path: str, **more: Any) -> tuple[httpx.Response, httpx.Response]:
        headers = {"X-Request-Id": "r-7", **more.pop("headers", {})}
        replies, asked = [], []
        for client in (self.direct, self.through):
            self.ingestion.jobs.clear()
            self.ingestion.add("annas", "anna")
            self.ingestion.asked.clear()
            self.upstream.calls.clear()
            replies.append(await client.request(method, path, headers=headers, **more))
            asked.append(([call[:2] for call in self.upstream.calls], list(self.ingestion.asked)))
        assert asked[0] == asked[1], "what the other services were asked"
        return replies[0], replies[1]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def behind(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Behind]:
    """A gateway that wants tokens, in front of it the edge that Terraform makes; before there is one, of its own OpenAPI document."""
    folder = tmp_path_factory.mktemp("behind")
    (folder / "jwks.json").write_text(jwks())
    auth = {"AUTH": "jwt", "JWKS": str(folder / "jwks.json"), "ISSUER": ISSUER, "AUDIENCE": AUDIENCE}
    with serving(StandIn()) as upstream:
        async with ingesting() as ingestion:
            environment, url = told(write_release(folder / "release.json")[0], upstream, INGESTION_URL=ingestion.url, **auth)
            process = subprocess.Popen([sys.executable, "-m", "quarry_gateway"], env=environment, stdout=subprocess.DEVNULL)
            try:
                await asyncio.to_thread(wait_ready, url)
                definition = json.loads(DEFINITION.read_text()) if DEFINITION.exists() else httpx.get(f"{url}/openapi.json", verify=PLAIN).json()
                async with fronting(ApiGateway(url, definition)) as edge:
                    made = Behind(url, edge, upstream, ingestion)
                    yield made
                    await made.direct.aclose()
                    await made.through.aclose()
            finally:
                process.kill()  # an upload may still wait for an ingestion that hangs
                process.wait()


async def test_every_route_of_the_openapi_document_is_asked(behind: Behind) -> None:
    assert behind.edge.resources.keys() == REQUESTS.keys()
    assert behind.edge.binary == ["application/octet-stream"]


@pytest.mark.parametrize(("method", "route"), REQUESTS)
async def test_replies_are_those_of_the_gateway_itself(behind: Behind, method: str, route: str) -> None:
    for path, more, status in REQUESTS[method, route]:
        direct, through = await behind.both(method, path, **more)
        assert (direct.status_code, through.status_code) == (status, status), path
        assert through.content == direct.content
        assert [through.headers.get(name) for name in OURS] == [direct.headers.get(name) for name in OURS]
        if status >= 400:
            assert through.headers["Content-Type"] == "application/problem+json"
            assert through.json()["request_id"] == through.headers["X-Request-Id"] == "r-7"
            assert through.json()["code"]
        assert "x-amzn-RequestId" in through.headers


async def test_nothing_is_streamed_as_events(behind: Behind) -> None:
    """The edge waits for whole replies of at most 10 MB; an event stream would not pass it."""
    assert "text/event-stream" not in (await behind.direct.get("/openapi.json")).text


async def test_what_the_openapi_document_does_not_list_does_not_pass(behind: Behind) -> None:
    for path in ("/metrics", "/", "/docs", "/openapi.json", "/v1/answers"):
        assert (await behind.direct.get(path)).status_code in (200, 405)
        reply = await behind.through.get(path)
        assert (reply.status_code, "x-quarry-release" in reply.headers) == (behind.edge.own("MISSING_AUTHENTICATION_TOKEN").status, False)


async def test_a_refused_token_is_told_though_its_challenge_has_another_name(behind: Behind) -> None:
    for headers in ({"Authorization": "Bearer nonsense"}, {"Authorization": "AWS4-HMAC-SHA256 Credential=x"}):
        direct, through = await behind.both("GET", "/v1/releases", headers=headers)
        assert direct.status_code == through.status_code == 401
        assert through.json()["code"] == "unauthorised"
        assert "WWW-Authenticate" not in through.headers
        assert through.headers["x-amzn-Remapped-WWW-Authenticate"].startswith("Bearer")


async def test_the_job_is_found_under_its_location_below_the_stage(behind: Behind) -> None:
    reply = await behind.through.put("/v1/documents/b.txt", content=b"words", headers={"Content-Type": "application/octet-stream"})
    assert reply.headers["Location"] == f"/v1/jobs/{reply.json()['job_id']}"
    job = await behind.through.get(reply.headers["Location"])  # the client's base address holds the stage
    assert (job.status_code, job.json()["document_id"]) == (200, "b.txt")


@pytest.mark.parametrize("size", [0, 1, 70_000, LIMIT])
async def test_bytes_of_an_upload_arrive_as_they_are(behind: Behind, size: int) -> None:
    data = random.Random(size).randbytes(size)
    behind.ingestion.asked.clear()
    reply = await behind.through.put("/v1/documents/scan.pdf", content=data, headers={"Content-Type": "application/octet-stream"})
    assert reply.status_code == 202
    [came] = behind.ingestion.asked
    assert (came.size, came.sha256, came.submitter) == (size, sha256(data).hexdigest(), "anna")


async def test_an_upload_as_another_type_is_not_what_was_sent(behind: Behind) -> None:
    """Why clients send application/octet-stream: the edge takes every type that it does not know as binary for UTF-8."""
    data = b"%PDF-1.7 \xff\xfe"
    behind.ingestion.asked.clear()
    for media_type, same in (("application/pdf", False), ("application/octet-stream", True)):
        await behind.through.put("/v1/documents/scan.pdf", content=data, headers={"Content-Type": media_type})
        assert (behind.ingestion.asked.pop().sha256 == sha256(data).hexdigest()) == same


async def test_a_body_above_the_edges_limit_does_not_reach_us(behind: Behind) -> None:
    behind.ingestion.asked.clear()
    reply = await behind.through.put("/v1/documents/big", content=bytes(LIMIT + 1), headers={"Content-Type": "application/octet-stream"})
    assert reply.status_code == 413
    assert "code" not in reply.json()
    assert not behind.ingestion.asked


async def test_our_time_is_over_before_the_edges(behind: Behind) -> None:
    """So a client gets our 504 with its code and request id, and not the edge's."""
    default = Settings()
    assert default.deadline_ms <= default.deadline_max_ms < 1000 * behind.edge.timeout_sec

    async def hang(_: Any) -> None:
        await asyncio.sleep(3)

    behind.upstream.retriever_fault = hang
    try:
        reply = await behind.through.post("/v1/search", json={"question": "q"}, headers={"X-Request-Id": "r-8", "X-Request-Deadline-Ms": "300"})
    finally:
        behind.upstream.retriever_fault = None
    assert (reply.status_code, reply.json()["code"], reply.json()["request_id"]) == (504, "deadline_exceeded", "r-8")


async def test_an_upload_that_takes_longer_than_the_edge_waits_is_told_by_the_edge(behind: Behind) -> None:
    """The default of QUARRY_GATEWAY_UPLOAD_DEADLINE_MS is for uploads past the edge; a client may set its own deadline below 29 s."""
    upload = {"content": b"words", "headers": {"Content-Type": "application/octet-stream", "X-Request-Id": "r-9"}}
    behind.ingestion.hangs, behind.edge.timeout_sec = True, 0.5
    try:
        reply = await behind.through.put("/v1/documents/a", **upload)
        assert (reply.status_code, reply.headers.get("X-Request-Id") == "r-9") == (504, False)
        reply = await behind.through.put("/v1/documents/a", content=b"words", headers={**upload["headers"], "X-Request-Deadline-Ms": "150"})
        assert (reply.status_code, reply.json()["code"], reply.json()["request_id"]) == (504, "deadline_exceeded", "r-9")
    finally:
        behind.ingestion.hangs, behind.edge.timeout_sec = False, 29.0


async def test_headers_in_any_case_a_chunked_body_and_an_expectation(behind: Behind) -> None:
    """Written by hand: header names in capitals, Transfer-Encoding and Expect, which the edge takes away."""
    address = urlsplit(behind.edge.url)

    def ask() -> tuple[int, dict[str, str]]:
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
        connection.putrequest("POST", f"/{behind.edge.stage}/v1/search")
        told = {"CONTENT-TYPE": "application/json", "AUTHORIZATION": ANNA["Authorization"], "X-REQUEST-ID": "r-10", "x-forwarded-for": "203.0.113.9"}
        for name, value in {**told, "TRANSFER-ENCODING": "chunked", "TE": "trailers", "VIA": "1.1 a", "EXPECT": "100-continue"}.items():
            connection.putheader(name, value)
        connection.endheaders([b'{"question": ', b'"wind"}'], encode_chunked=True)
        reply = connection.getresponse()
        reply.read()
        connection.close()
        return reply.status, {name.lower(): value for name, value in reply.getheaders()}

    status, headers = await asyncio.to_thread(ask)
    assert (status, headers["x-request-id"]) == (200, "r-10")
    _, asked, sent = behind.upstream.calls[-1]
    assert asked["jsonData"]["search"]["question"] == "wind"
    assert not {"X-Forwarded-For", "Via", "Authorization", "X-Amzn-Trace-Id", "X-Quarry-Edge"} & set(sent), "what the edge adds stays at the gateway"


async def test_a_query_the_edge_does_not_take_is_refused_by_the_edge(behind: Behind) -> None:
    reply = await asyncio.to_thread(_get_raw, behind, "/v1/documents/a?version=a|b")
    assert reply == 400


def _get_raw(behind: Behind, path: str) -> int:
    address = urlsplit(behind.edge.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
    connection.request("GET", f"/{behind.edge.stage}{path}", headers=ANNA)
    status = connection.getresponse().status
    connection.close()
    return status


async def test_a_gateway_that_is_gone_is_told_by_the_edge(behind: Behind) -> None:
    with socket.socket() as nobody:  # bound, and nobody listens
        nobody.bind(("127.0.0.1", 0))
        gone = ApiGateway(f"http://127.0.0.1:{nobody.getsockname()[1]}", behind.edge.definition)
        async with fronting(gone), httpx.AsyncClient(verify=PLAIN) as client:
            assert (await client.get(f"{gone.url}/production/healthz")).status_code in (502, 504)
