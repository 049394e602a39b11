"""Documents put and deleted through the gateway, over a stand-in of the ingestion service."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from hashlib import sha256
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from aiohttp import web
from quarry_contract.messages import Job

from quarry_gateway.settings import Settings

from .conftest import StandIn, problem
from .ingestion import IngestionStandIn
from .issuer import bearer
from .test_access import WRITE, ingestion  # noqa: F401 # a fixture
from .test_auth import guarded, running  # noqa: F401 # a fixture

ANNA = bearer("anna", WRITE)
MARK = "unmistakable-words"


@pytest.fixture
async def client(guarded: Settings, ingestion: IngestionStandIn) -> AsyncIterator[httpx.AsyncClient]:  # noqa: F811
    async with running(replace(guarded, ingestion_url=ingestion.url, max_upload_bytes=1_000_000)) as made:
        yield made


async def test_a_document_is_put_followed_and_deleted(client: httpx.AsyncClient, ingestion: IngestionStandIn) -> None:  # noqa: F811
    data = random.Random(1).randbytes(700_000)
    headers = {**ANNA, "Content-Type": "Application/PDF; x=y", "X-Request-Id": "r-5"}
    reply = await client.put("/v1/documents/rules/ms%20014.pdf", content=data, headers=headers)
    assert reply.status_code == 202
    job = Job.from_dict({k: v for k, v in reply.json().items() if k != "request_id"})
    assert (reply.headers["Location"], reply.json()["request_id"]) == (f"/v1/jobs/{job.job_id}", "r-5")
    [came] = ingestion.asked
    assert (came.document_id, came.size, came.sha256) == ("rules/ms 014.pdf", len(data), sha256(data).hexdigest())
    assert (came.submitter, came.principals, came.media_type, came.request_id) == ("anna", ("user:anna",), "application/pdf", "r-5")
    assert (await client.get(reply.headers["Location"], headers=ANNA)).json()["state"] == "queued"
    for query, action in (("", "delete"), ("?forget=false", "delete"), ("?forget=true", "forget")):
        gone = await client.delete(f"/v1/documents/rules/ms%20014.pdf{query}", headers=ANNA)
        assert (gone.status_code, gone.json()["action"]) == (202, action)
    assert (await client.delete("/v1/documents/a?forget=maybe", headers=ANNA)).status_code == 400


async def test_the_body_streams_through(client: httpx.AsyncClient, ingestion: IngestionStandIn) -> None:  # noqa: F811
    async def parts() -> AsyncIterator[bytes]:
        for n in range(300):
            yield bytes([n % 256]) * 1_000

    assert (await client.put("/v1/documents/a", content=parts(), headers=ANNA)).status_code == 202
    assert ingestion.asked[0].size == 300_000
    assert (await client.put("/v1/documents/empty", content=b"", headers=ANNA)).status_code == 202


@pytest.mark.parametrize("told", [True, False])
async def test_a_body_over_the_limit_is_refused_and_no_half_is_taken(client: httpx.AsyncClient, ingestion: IngestionStandIn, told: bool) -> None:  # noqa: F811
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b"x" * 50_000
            await asyncio.sleep(0)

    reply = await client.put("/v1/documents/a", content=b"x" * 1_000_001 if told else parts(), headers=ANNA)
    assert (reply.status_code, reply.json()["code"]) == (413, "too_large")
    assert "1000000 bytes" in reply.json()["detail"]
    assert ingestion.asked == []
    assert (await client.put("/v1/documents/a", content=b"x" * 1_000_000, headers=ANNA)).status_code == 202


@pytest.mark.parametrize(
    ("given", "principals"),
    [("*", ("*",)), ("", ()), ("group:site%20team, user:J%C3%B6rg", ("group:site team", "user:Jörg")), ("group:b,group:a,group:b", ("group:a", "group:b"))],
)
async def test_who_puts_says_who_reads(client: httpx.AsyncClient, ingestion: IngestionStandIn, given: str, principals: tuple[str, ...]) -> None:  # noqa: F811
    assert (await client.put("/v1/documents/a", content=b"x", headers={**ANNA, "X-Quarry-Principals": given})).status_code == 202
    assert ingestion.asked[0].principals == principals


@pytest.mark.parametrize("given", [b",", b"a,,b", b"user:%ff", b"user:\xfc", b"x" * 300, b"user:%0d%0a", b",".join(b"u%d" % n for n in range(1_001))])
async def test_readers_that_cannot_be_meant(client: httpx.AsyncClient, ingestion: IngestionStandIn, given: bytes) -> None:  # noqa: F811
    reply = await client.put("/v1/documents/a", content=b"x", headers={**ANNA, "X-Quarry-Principals": given})  # type: ignore[dict-item]
    assert (reply.status_code, reply.json()["code"]) == (400, "invalid_request")
    assert ingestion.asked == []


@pytest.mark.parametrize("document_id", ["a/b.txt", "Größe 1.txt", "…/😀", "a?b#c", "100%", "a%2Fb", ".hidden", "a..b", "a;b=c", "a b+c", '"quoted"'])
async def test_any_name_reaches_the_other_side_as_it_is(client: httpx.AsyncClient, ingestion: IngestionStandIn, document_id: str) -> None:  # noqa: F811
    assert (await client.put(f"/v1/documents/{quote(document_id)}", content=b"x", headers=ANNA)).status_code == 202
    assert (await client.delete(f"/v1/documents/{quote(document_id)}", headers=ANNA)).status_code == 202
    assert [a.document_id for a in ingestion.asked] == [document_id] * 2


@pytest.mark.parametrize("path", ["", "%2e%2e", "a/%2e%2e/b", "%2e/x", "a//b", "/a", "a/", "a%0db", "a%00", "%ff", "x" * 513])
async def test_names_that_no_document_has(client: httpx.AsyncClient, ingestion: IngestionStandIn, path: str) -> None:  # noqa: F811
    for method in ("PUT", "DELETE"):
        reply = await client.request(method, httpx.URL("http://quarry", raw_path=f"/v1/documents/{path}".encode()), headers=ANNA)
        assert reply.status_code == 400, method
    assert ingestion.asked == []


async def test_a_job_is_its_submitters(client: httpx.AsyncClient, ingestion: IngestionStandIn) -> None:  # noqa: F811
    put = await client.put("/v1/documents/a", content=b"x", headers=ANNA)
    ben, odd = bearer("ben", WRITE), bearer("Jörg, 100%/ü", WRITE)
    ingestion.add("nobodys", None)
    of_others = await client.get(put.headers["Location"], headers=ben)
    absent = await client.get("/v1/jobs/none", headers=ben)
    assert (of_others.status_code, of_others.json() | {"request_id": ""}) == (404, absent.json() | {"request_id": ""})
    for path in ("/v1/jobs/nobodys", "/v1/jobs/..%2fdocuments", "/v1/jobs/" + "x" * 99, "/v1/jobs/a.b"):
        assert (await client.get(path, headers=ben)).status_code == 404
    put = await client.put("/v1/documents/a", content=b"x", headers={**odd, "X-Quarry-Submitter": "anna"})
    assert ingestion.asked[-1].submitter == "Jörg, 100%/ü"
    assert (await client.get(put.headers["Location"], headers=odd)).status_code == 200


async def test_failures_of_the_service_are_told_as_what_they_are(client: httpx.AsyncClient, ingestion: IngestionStandIn) -> None:  # noqa: F811
    answers: list[tuple[Any, int, str]] = [
        (problem("overloaded", 429, "the disk is full", **{"Retry-After": "60"}), 429, "overloaded"),
        (problem("not_ready", 503, MARK, **{"Retry-After": "3"}), 503, "not_ready"),
        (problem("too_large", 413, "too large"), 413, "too_large"),
        (problem("invalid_request", 400, "no"), 400, "invalid_request"),
        (problem("internal", 500, MARK), 502, "upstream_failed"),
        (problem("unauthorised", 401, MARK), 502, "upstream_failed"),
        (web.Response(text=f"<html>{MARK}"), 502, "upstream_failed"),
        (web.json_response({"job_id": MARK}, status=202), 502, "upstream_failed"),
        (web.json_response([MARK], status=500), 502, "upstream_failed"),
    ]
    for method, path in (("PUT", "/v1/documents/a"), ("DELETE", "/v1/documents/a"), ("GET", "/v1/jobs/a")):
        for answer, status, code in answers:
            fresh = {"body": answer.body, "status": answer.status, "headers": answer.headers.copy()}
            ingestion.fault = lambda _, fresh=fresh: web.Response(**fresh)
            reply = await client.request(method, path, headers=ANNA)
            assert (reply.status_code, reply.json()["code"]) == (status, code), method
            assert MARK not in reply.text
            if status in (429, 503):
                assert reply.headers["Retry-After"] == fresh["headers"]["Retry-After"]


async def test_a_service_that_is_away_or_hangs(guarded: Settings, ingestion: IngestionStandIn) -> None:  # noqa: F811
    async with running(replace(guarded, ingestion_url="http://127.0.0.1:9")) as client:
        reply = await client.put("/v1/documents/a", content=b"x", headers=ANNA)
        assert (reply.status_code, reply.headers["Retry-After"]) == (503, "1")

    ingestion.hangs = True
    async with running(replace(guarded, ingestion_url=ingestion.url)) as client:
        for method in ("PUT", "DELETE"):
            reply = await client.request(method, "/v1/documents/a", headers={**ANNA, "X-Request-Deadline-Ms": "300"})
            assert (reply.status_code, reply.json()["code"]) == (504, "deadline_exceeded"), method


async def test_without_the_service_changes_are_not_implemented(guarded: Settings) -> None:  # noqa: F811
    async with running(guarded) as client:
        for method, path in (("PUT", "/v1/documents/a"), ("DELETE", "/v1/documents/a"), ("GET", "/v1/jobs/a")):
            reply = await client.request(method, path, headers=ANNA)
            assert (reply.status_code, reply.json()["code"]) == (501, "not_implemented")
            assert "QUARRY_GATEWAY_INGESTION_URL" in reply.json()["detail"]


async def test_changes_need_no_release(guarded: Settings, ingestion: IngestionStandIn, upstream: StandIn) -> None:  # noqa: F811
    upstream.ready = False
    async with running(replace(guarded, ingestion_url=ingestion.url)) as client:
        assert (await client.post("/v1/answers", json={"question": "q"}, headers=ANNA)).status_code == 503
        assert (await client.put("/v1/documents/a", content=b"x", headers=ANNA)).status_code == 202


async def test_changes_are_described(client: httpx.AsyncClient) -> None:
    described = (await client.get("/openapi.json")).json()
    operations = described["paths"]["/v1/documents/{document_id}"]
    assert set(operations) == {"get", "put", "delete"}
    assert {"202", "401", "403", "413", "501"} <= set(operations["put"]["responses"])
    assert "200" not in operations["put"]["responses"]
    assert operations["put"]["security"] == [{"bearer": []}]
    assert "bearer" in described["components"]["securitySchemes"]
    assert "principals" not in json.dumps(described["components"]["schemas"]["SearchQuery"])
