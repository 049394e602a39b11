"""Who may do what: every route, every caller. And for whom the retriever is asked."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from aiohttp import web
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from quarry_contract.messages import MAX_PRINCIPALS

from quarry_gateway.app import create_app
from quarry_gateway.settings import AuthSettings, Settings

from .conftest import PASSAGE, TEXT, StandIn, problem
from .ingestion import IngestionStandIn, ingesting
from .issuer import bearer, claims, rsa_key, token
from .test_auth import guarded, running  # noqa: F401 # a fixture

WRITE = "openid quarry:write"
CALLERS: dict[str, dict[str, str]] = {
    "no token": {},
    "bad token": {"Authorization": f"Bearer {token(key=rsa_key('attacker'))}"},
    "reader": bearer("anna"),
    "writer": bearer("ben", WRITE),
    "other": bearer("carl", WRITE),
}
OPEN, KNOWN, WRITES = (200,) * 5, (401, 401, 200, 200, 200), (401, 401, 403, 202, 202)
DOCUMENT = "/v1/documents/{document_id:path}"
# (method, route) -> (the path asked, the body, what each of CALLERS gets)
MATRIX: dict[tuple[str, str], tuple[str, Any, tuple[int, ...]]] = {
    ("POST", "/v1/answers"): ("/v1/answers", {"question": "q"}, KNOWN),
    ("POST", "/v1/search"): ("/v1/search", {"question": "q"}, KNOWN),
    ("GET", DOCUMENT): ("/v1/documents/rules/ms%20014.pdf", None, KNOWN),
    ("PUT", DOCUMENT): ("/v1/documents/a.txt", {"any": "bytes"}, WRITES),
    ("DELETE", DOCUMENT): ("/v1/documents/a.txt", None, WRITES),
    ("GET", "/v1/jobs/{job_id}"): ("/v1/jobs/bens", None, (401, 401, 403, 200, 404)),
    ("GET", "/v1/releases/current"): ("/v1/releases/current", None, KNOWN),
    ("GET", "/v1/releases"): ("/v1/releases", None, KNOWN),
    ("GET", "/healthz"): ("/healthz", None, OPEN),
    ("GET", "/readyz"): ("/readyz", None, OPEN),
    ("GET", "/metrics"): ("/metrics", None, OPEN),
    ("GET", "/"): ("/", None, OPEN),
    ("GET", "/docs"): ("/docs", None, OPEN),
    ("GET", "/openapi.json"): ("/openapi.json", None, OPEN),
    ("mount", "/docs-files"): ("/docs-files/swagger-ui.css", None, OPEN),
}


def routes(app: FastAPI) -> set[tuple[str, str]]:
    found = [(r.path, r.methods) for r in iter_route_contexts(app.routes)]
    return {(method, str(path)) for path, methods in found for method in (methods or {"mount"}) if method != "HEAD"}


@pytest.fixture
async def ingestion() -> AsyncIterator[IngestionStandIn]:
    async with ingesting() as made:
        yield made


@pytest.fixture
async def client(guarded: Settings, ingestion: IngestionStandIn) -> AsyncIterator[httpx.AsyncClient]:  # noqa: F811
    ingestion.add("bens", "ben")
    async with running(replace(guarded, ingestion_url=ingestion.url)) as made:
        yield made


def test_every_route_has_its_row(guarded: Settings) -> None:  # noqa: F811
    assert routes(create_app(guarded)) == set(MATRIX)


@pytest.mark.parametrize(("method", "route"), MATRIX)
async def test_access(client: httpx.AsyncClient, upstream: StandIn, ingestion: IngestionStandIn, method: str, route: str) -> None:
    path, body, wanted = MATRIX[method, route]
    for (name, headers), status in zip(CALLERS.items(), wanted, strict=True):
        upstream.calls.clear()
        ingestion.asked.clear()
        reply = await client.request("GET" if method == "mount" else method, path, json=body, headers=headers)
        assert reply.status_code == status, name
        if status in (401, 403):
            assert reply.json()["code"] == {401: "unauthorised", 403: "forbidden"}[status]
            assert ("insufficient_scope" in reply.headers["WWW-Authenticate"]) == (status == 403)
            assert not upstream.calls, "nobody was asked for them"
            assert not ingestion.asked


SPELLINGS = ["//v1/releases", "/v1//releases", "/V1/releases", "/v1/releases/", "/docs/../v1/releases", "/docs%2f..%2fv1/releases", "/healthz;/v1"]


@pytest.mark.parametrize("path", SPELLINGS)
async def test_no_spelling_of_a_path_goes_round_the_token(client: httpx.AsyncClient, path: str) -> None:
    for headers in ({}, {"Host": "a/healthz?x="}, {"X-Original-URL": "/healthz", "X-HTTP-Method-Override": "GET"}):
        for asked in (path, "/v1/releases"):
            reply = await client.get(httpx.URL("http://quarry", raw_path=asked.encode()), headers=headers)
            assert reply.status_code in (401, 404), asked


async def test_without_tokens_changes_are_taken_only_where_that_is_wanted(settings: Settings, ingestion: IngestionStandIn) -> None:
    settings = replace(settings, ingestion_url=ingestion.url)
    async with running(settings) as client:
        for method, path in (("PUT", "/v1/documents/a"), ("DELETE", "/v1/documents/a"), ("GET", "/v1/jobs/a")):
            assert (await client.request(method, path)).status_code == 403
    async with running(replace(settings, auth=AuthSettings(anonymous_writes=True))) as client:
        assert (await client.put("/v1/documents/a", content=b"x")).status_code == 202
        assert ingestion.asked[-1].principals == ("*",)
        assert ingestion.asked[-1].submitter is None


def asked_for(upstream: StandIn) -> list[list[str]]:
    """The principals in every question to the retriever since the last look."""
    messages = [c[1]["jsonData"] for c in upstream.calls if c[0] == "retriever"]
    upstream.calls.clear()
    return [next(iter(m.values()))["principals"] if "search" in m else m["documents"]["principals"] for m in messages]


ANNA = ["user:anna", "group:site team", "group:*"]


async def test_the_retriever_is_asked_for_the_caller_on_every_path(client: httpx.AsyncClient, upstream: StandIn) -> None:
    anna, ben = bearer("anna", groups=("site team", "*")), bearer("ben", **{"cognito:groups": ["ops"]})
    for headers, principals in ((anna, ANNA), (ben, ["user:ben", "group:ops"]), (anna, ANNA)):
        for retrieval in ("hybrid", "dense", "bm25", "tfidf"):
            assert (await client.post("/v1/answers", json={"question": "q", "retrieval": retrieval}, headers=headers)).status_code == 200
            assert asked_for(upstream) == [principals, principals], "search and verification"
            assert (await client.post("/v1/search", json={"question": "q", "retrieval": retrieval}, headers=headers)).status_code == 200
            assert asked_for(upstream) == [principals]
        assert (await client.get("/v1/documents/rules/ms%20014.pdf", headers=headers)).status_code == 200
        assert asked_for(upstream) == [principals]


async def test_without_tokens_it_is_asked_for_nobody_in_particular(settings: Settings, upstream: StandIn) -> None:
    async with running(settings) as client:
        await client.post("/v1/answers", json={"question": "q"}, headers=bearer("anna"))
        await client.get("/v1/documents/a")
    assert asked_for(upstream) == [[], [], []]


@pytest.mark.parametrize("path", ["/v1/answers", "/v1/search"])
async def test_nobody_says_in_a_body_who_they_are(client: httpx.AsyncClient, upstream: StandIn, path: str) -> None:
    for headers in (CALLERS["reader"], CALLERS["writer"]):
        reply = await client.post(path, json={"question": "q", "principals": ["group:board"]}, headers={**headers, "X-Quarry-Principals": "group:board"})
        assert (reply.status_code, reply.json()["code"]) == (400, "invalid_request")
        assert "board" not in reply.text
    assert upstream.calls == []


async def test_what_the_retriever_hides_is_answered_like_what_is_not_there(client: httpx.AsyncClient, upstream: StandIn) -> None:
    """The stand-in knows one document; asked for any other, it says None, as the retriever does for a hidden one."""
    hidden = await client.get("/v1/documents/secret.pdf?version=v1", headers=CALLERS["reader"])
    absent = await client.get("/v1/documents/nothing.pdf?version=v1", headers=CALLERS["reader"])
    assert (hidden.status_code, hidden.json() | {"request_id": ""}) == (404, absent.json() | {"request_id": ""})
    assert "X-Quarry-Principals" not in hidden.headers


@pytest.mark.parametrize(
    ("groups", "status"),
    [
        ([], 200),
        (["a", "b", "a"], 200),
        ([f"g{n}" for n in range(MAX_PRINCIPALS - 1)], 200),
        ([f"g{n}" for n in range(MAX_PRINCIPALS)], 401),
        (["x" * 251], 401),
        (["a", ""], 401),
    ],
)
async def test_groups_by_number_and_length(client: httpx.AsyncClient, upstream: StandIn, groups: list[str], status: int) -> None:
    reply = await client.post("/v1/search", json={"question": "q"}, headers=bearer(groups=tuple(groups)))
    assert reply.status_code == status
    if status == 200:
        assert asked_for(upstream) == [["user:anna", *(f"group:{g}" for g in dict.fromkeys(groups))]]


async def test_scopes_come_as_text_or_list(client: httpx.AsyncClient) -> None:
    lists, text, others = {"scp": ["a", "quarry:write"]}, {"scp": "a quarry:write"}, {"scope": "quarry:write2 xquarry:write"}
    for said, status in ((lists, 202), (text, 202), (others, 403), ({"scp": 3}, 401)):
        headers = {"Authorization": f"Bearer {token({**claims(), **said})}"}
        assert (await client.delete("/v1/documents/a", headers=headers)).status_code == status, said


# --- documents that change while a question is answered ---


def vanishing(times: int, upstream: StandIn) -> None:
    """From now on, cited documents are gone `times` times when they are verified."""
    left = [times]
    words = upstream._words

    def maybe(r: dict[str, Any]) -> Any:
        left[0] -= 1
        return None if left[0] >= 0 else words(r)

    upstream._words = maybe  # type: ignore[method-assign]


@pytest.mark.parametrize(("times", "status", "searches"), [(0, 200, 1), (1, 200, 2), (2, 200, 3), (3, 503, 3), (99, 503, 3)])
async def test_a_document_that_changed_meanwhile_is_asked_again(settings: Settings, upstream: StandIn, times: int, status: int, searches: int) -> None:
    vanishing(times, upstream)
    async with running(settings) as client:
        reply = await client.post("/v1/answers", json={"question": "q"})
        assert reply.status_code == status
        assert sum("search" in c[1]["jsonData"] for c in upstream.calls) == searches
        if status == 503:
            assert (reply.json()["code"], reply.headers["Retry-After"]) == ("not_ready", "1")
        counted = (await client.get("/metrics")).text
        assert f"quarry_asked_again_total {min(times, 3)}.0" in counted
        assert "quarry_evidence_mismatch_total 0.0" in counted


@pytest.mark.parametrize(("times", "status", "searches"), [(0, 200, 1), (1, 200, 2), (99, 503, 3)])
async def test_passages_hidden_while_the_reader_breaks_are_not_shown(settings: Settings, upstream: StandIn, times: int, status: int, searches: int) -> None:
    async def broken(_: web.Request) -> web.Response:
        return problem("internal", 500)

    upstream.reader_fault = broken
    vanishing(times, upstream)
    async with running(settings) as client:
        reply = await client.post("/v1/answers", json={"question": "q"})
        assert reply.status_code == status
        assert sum("search" in c[1]["jsonData"] for c in upstream.calls) == searches
        assert (TEXT[:20] in reply.text) == (status == 200)


async def test_asking_again_ends_at_the_deadline(settings: Settings, upstream: StandIn) -> None:
    async def slow(_: web.Request) -> None:
        await asyncio.sleep(0.2)

    upstream.retriever_fault = slow
    vanishing(99, upstream)
    async with running(settings) as client:
        reply = await client.post("/v1/answers", json={"question": "q"}, headers={"X-Request-Deadline-Ms": "500"})
        assert (reply.status_code, reply.json()["code"]) == (504, "deadline_exceeded")


async def test_other_words_are_never_taken_for_a_change(settings: Settings, upstream: StandIn) -> None:
    """One citation is gone, another is a lie: the lie counts."""
    [span] = upstream.spans
    upstream.spans = [span, {**span, "text": "wind", "evidence": [{"passage_id": "p1", "start": 13, "end": 17}]}]
    words = upstream._words
    upstream._words = lambda r: None if r["start"] != PASSAGE["start"] + 13 else {**words(r), "text": "mind"}  # type: ignore[method-assign]
    async with running(settings) as client:
        assert (await client.post("/v1/answers", json={"question": "q"})).status_code == 500
        assert "quarry_evidence_mismatch_total 1.0" in (await client.get("/metrics")).text
