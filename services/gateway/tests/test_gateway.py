import asyncio
import json
import logging
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from aiohttp import web
from quarry_contract.errors import ErrorCode
from quarry_contract.messages import AnswerResponse
from quarry_contract.releases import read_release

from quarry_gateway.app import create_app
from quarry_gateway.service import PipelineError, load_pipeline
from quarry_gateway.settings import Settings
from quarry_gateway.telemetry import JsonFormatter

from .conftest import CANONICAL, PASSAGE, TEXT, StandIn, problem, span

JSON = {"Content-Type": "application/json"}
MARK = "unmistakable-input-words"


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://quarry", timeout=30) as made:
        yield made


async def ask(client: httpx.AsyncClient, question: str = "When does lifting stop?", headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
    return await client.post("/v1/answers", json={"question": question, **fields}, headers=headers)


async def test_an_answer_comes_with_its_place_in_the_document(client: httpx.AsyncClient, upstream: StandIn, settings: Settings) -> None:
    reply = await ask(client, headers={"X-Request-Id": "r-7"})
    assert reply.status_code == 200
    assert reply.headers["X-Request-Id"] == "r-7"
    answer = AnswerResponse.from_dict(reply.json()).answers[0]
    place = answer.citations[0]
    assert CANONICAL[place.start : place.end] == place.text == answer.text == "14 m/s"
    assert place.sentence == "Lifting with TC1 stops at 14 m/s, as Mr. Moore says."
    assert (place.document_id, place.page, answer.confidence) == ("rules/ms 014.pdf", 3, 0.9)
    assert reply.json()["release_id"] == reply.headers["X-Quarry-Release"] == read_release(settings.release).release_id
    assert {c[2]["X-Request-Id"] for c in upstream.calls} == {"r-7"}


async def test_the_threshold_is_the_releases_or_the_callers(client: httpx.AsyncClient, upstream: StandIn) -> None:
    upstream.spans = [span(confidence=0.45)]
    unsure = (await ask(client)).json()
    assert (unsure["answers"], unsure["abstained"], unsure["reason"]) == ([], True, "not_confident")
    assert (await ask(client, min_confidence=0.4)).json()["answers"][0]["text"] == "14 m/s"
    upstream.passages = []
    assert (await ask(client)).json()["reason"] == "no_passages"


@pytest.mark.parametrize("lie", ["canonical", "text", "place", "passage"])
async def test_a_lie_about_the_evidence_is_loud_counted_and_never_answered(client: httpx.AsyncClient, upstream: StandIn, lie: str, caplog: Any) -> None:
    if lie == "canonical":
        upstream.canonical = CANONICAL.replace("14 m/s", "15 m/s")
    elif lie == "text":
        upstream.spans = [{**span(), "text": "13 m/s"}]
    elif lie == "place":
        upstream.spans = [{**span(), "evidence": [{"passage_id": "p1", "start": 5, "end": 99_999}]}]
    else:
        upstream.spans = [{**span(), "evidence": [{"passage_id": "other", "start": 0, "end": 6}]}]
    with caplog.at_level(logging.ERROR, "quarry"):
        reply = await ask(client)
    assert (reply.status_code, reply.json()["code"]) == (500, "internal")
    assert "m/s" not in reply.text
    assert "quarry_evidence_mismatch_total 1.0" in (await client.get("/metrics")).text
    assert any("evidence does not hold" in r.getMessage() for r in caplog.records)
    assert not any("m/s" in r.getMessage() for r in caplog.records)


async def test_joined_duplicates_are_each_checked_against_their_own_words(client: httpx.AsyncClient, upstream: StandIn) -> None:
    upstream.spans = [{**span("wind"), "evidence": [*span("wind")["evidence"], *span("Cranes")["evidence"]]}]
    citations = (await ask(client)).json()["answers"][0]["citations"]
    assert [c["text"] for c in citations] == ["wind", "Cranes"]
    assert all(CANONICAL[c["start"] : c["end"]] == c["text"] for c in citations)


async def test_without_the_reader_passages_are_given_and_it_is_said(client: httpx.AsyncClient, upstream: StandIn) -> None:
    async def broken(_: web.Request) -> web.Response:
        return problem("internal", 500, MARK)

    upstream.reader_fault = broken
    reply = await ask(client)
    body = reply.json()
    assert (reply.status_code, body["degraded"], body["reason"], body["answers"]) == (200, ["reader"], "reader_unavailable", [])
    assert body["passages"][0]["passage"]["text"] == TEXT
    assert MARK not in reply.text
    assert 'quarry_degraded_total{what="reader"} 1.0' in (await client.get("/metrics")).text


async def test_upstream_errors_keep_their_meaning(client: httpx.AsyncClient, upstream: StandIn) -> None:
    async def full(_: web.Request) -> web.Response:
        return problem("overloaded", 429, "the queue is full", **{"Retry-After": "9"})

    async def garbage(_: web.Request) -> web.Response:
        return web.Response(text=f"<html>{MARK}")

    upstream.reader_fault = full
    reply = await ask(client)
    assert (reply.status_code, reply.headers["Retry-After"]) == (429, "9")
    upstream.reader_fault, upstream.retriever_fault = None, garbage
    reply = await ask(client)
    assert (reply.status_code, reply.json()["code"]) == (502, "upstream_failed")
    assert MARK not in reply.text


async def test_one_deadline_goes_through_every_hop(client: httpx.AsyncClient, upstream: StandIn) -> None:
    await ask(client, headers={"X-Request-Deadline-Ms": "3000"})
    left = [int(c[2]["X-Request-Deadline-Ms"]) for c in upstream.calls]
    assert left == sorted(left, reverse=True)
    assert 0 < left[-1] <= left[0] <= 3000

    async def hang(_: web.Request) -> None:
        await asyncio.sleep(30)

    upstream.reader_fault = hang
    reply = await ask(client, headers={"X-Request-Deadline-Ms": "300"})
    assert (reply.status_code, reply.json()["code"]) == (504, "deadline_exceeded")
    assert (await ask(client, headers={"X-Request-Deadline-Ms": "-5"})).status_code == 504
    assert (await ask(client, headers={"X-Request-Deadline-Ms": "soon"})).status_code == 400


async def test_retries_are_few_and_only_for_what_was_not_begun(client: httpx.AsyncClient, upstream: StandIn) -> None:
    async def not_ready(_: web.Request) -> web.Response:
        return problem("not_ready", 503)

    upstream.retriever_fault = not_ready
    for _ in range(60):
        reply = await ask(client)
        assert (reply.status_code, reply.json()["code"]) == (503, "not_ready")
        assert "Retry-After" in reply.headers
    assert len(upstream.calls) <= 66, "a budget, not a second try for each"


async def test_search_and_documents(client: httpx.AsyncClient) -> None:
    found = (await client.post("/v1/search", json={"question": "wind"})).json()
    assert found["passages"][0]["passage"]["text"] == TEXT
    assert found["generation"] == "g1"
    words = (await client.get("/v1/documents/rules/ms%20014.pdf?start=10&end=16")).json()
    assert (words["text"], words["length"]) == ("Cranes", len(CANONICAL))
    assert (await client.get("/v1/documents/nothing.txt")).status_code == 404
    for query in ("start=-1", "start=x", "start=9&end=3", "start=0&end=999999999"):
        assert (await client.get(f"/v1/documents/rules/ms%20014.pdf?{query}")).status_code == 400
    assert (await client.get("/v1/releases/current")).json()["reader"] == "models:/reader/1"


async def test_readiness_asks_the_services_and_liveness_does_not(client: httpx.AsyncClient, upstream: StandIn) -> None:
    assert (await client.get("/readyz")).status_code == 200
    upstream.ready = False
    reply = await client.get("/readyz")
    assert reply.status_code == 503
    assert "retriever, reader" in reply.json()["detail"]
    assert (await client.get("/healthz")).status_code == 200


@pytest.mark.parametrize(
    ("body", "headers", "code"),
    [
        (b'{"question": "\\ud800"}', JSON, "invalid_request"),
        (b'{"question": "a", "top_k": NaN}', JSON, "invalid_request"),
        (b'{"question": "a", "top_k": 1e999}', JSON, "invalid_request"),
        (b"", JSON, "invalid_request"),
        (b"question=a", JSON, "invalid_request"),
        (b'{"question": "\xff"}', JSON, "invalid_request"),
        (json.dumps({"question": [MARK]}).encode(), JSON, "invalid_request"),
        (json.dumps({"question": MARK, MARK: 1}).encode(), JSON, "invalid_request"),
        (b'{"question": ""}', JSON, "invalid_request"),
        (json.dumps({"question": "x" * 3_000}).encode(), JSON, "too_large"),
        (json.dumps({"question": "x" * 1_000_000}).encode(), JSON, "too_large"),
        (b'{"question": "a", "top_k": 0}', JSON, "invalid_request"),
        (b'{"question": "a", "top_k": -1}', JSON, "invalid_request"),
        (b'{"question": "a", "top_k": 1000000000}', JSON, "invalid_request"),
        (b"[" * 60_000, JSON, "invalid_request"),
        (b'{"question": "a"}', {"Content-Type": "text/plain"}, "unsupported_media_type"),
        (b'{"question": "a"}', {}, "unsupported_media_type"),
        (b'{"question": "a", "mode": "generative"}', JSON, "not_implemented"),
        (b'{"question": "a", "stream": true}', JSON, "not_implemented"),
        (b'{"question": "a", "min_confidence": 2}', JSON, "invalid_request"),
        (b'{"question": "a", "filters": {"x": {"y": 1}}}', JSON, "invalid_request"),
    ],
)
async def test_bad_input(client: httpx.AsyncClient, body: bytes, headers: dict[str, str], code: str) -> None:
    reply = await client.post("/v1/answers", content=body, headers=headers)
    assert reply.json()["code"] == code
    assert reply.status_code == next(c for c in ErrorCode if c.code == code).status
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json()["request_id"] == reply.headers["X-Request-Id"]
    assert MARK not in reply.text
    assert (await ask(client)).status_code == 200


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/answers", 405), ("GET", "/v2", 404), ("PUT", "/healthz", 405), ("POST", "/v1/nope", 404)])
async def test_unknown_paths_and_methods(client: httpx.AsyncClient, method: str, path: str, status: int) -> None:
    reply = await client.request(method, path)
    assert (reply.status_code, reply.json()["status"]) == (status, status)


async def test_the_description_agrees_with_the_interface(client: httpx.AsyncClient) -> None:
    described = (await client.get("/openapi.json")).json()
    schemas = described["components"]["schemas"]
    assert {"/v1/answers", "/v1/search", "/v1/documents/{document_id}", "/v1/releases/current", "/healthz", "/readyz"} <= set(described["paths"])
    resolver = {"$defs": schemas, "components": {"schemas": schemas}}
    jsonschema.validate((await ask(client)).json(), {**schemas["AnswerResponse"], **resolver})
    for operation in ("/v1/answers", "/v1/search"):
        example = described["paths"][operation]["post"]["requestBody"]["content"]["application/json"]["example"]
        assert (await client.post(operation, json=example)).status_code == 200
    jsonschema.validate((await client.get("/v1/nope")).json(), schemas["Problem"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"question": "a", "surprise": 1}, {**schemas["AnswerRequest"], **resolver})


async def test_the_documentation_page_needs_no_internet(client: httpx.AsyncClient) -> None:
    page = (await client.get("/docs")).text
    for path in ("/docs-files/swagger-ui-bundle.js", "/docs-files/swagger-ui.css"):
        assert path in page
        assert (await client.get(path)).status_code == 200
    assert "//cdn" not in page
    assert (await client.get("/")).status_code == 200


async def test_logs_say_how_it_went_and_not_what_was_asked(client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        await ask(client, MARK, headers={"X-Request-Id": "r-9"})
        await client.post("/v1/answers", content=MARK.encode(), headers=JSON)
    lines = [json.loads(JsonFormatter().format(r)) for r in caplog.records if r.name == "quarry"]
    entry = next(line for line in lines if line.get("http.request.id") == "r-9")
    assert entry["http.response.status_code"] == 200
    assert entry["quarry.reader_ms"] >= 0
    assert MARK not in json.dumps(lines)
    assert not any(MARK in r.getMessage() for r in caplog.records)


def test_a_pipeline_may_be_replaced_but_not_by_anything(tmp_path: Path, settings: Settings) -> None:
    good = settings.pipeline.read_text()
    (tmp_path / "deep.yaml").write_text(good.replace("depth: 5", "depth: 3"))
    assert load_pipeline(tmp_path / "deep.yaml").get_component("retriever").depth == 3
    for name, text in {
        "foreign": good.replace("quarry_gateway.components.SeldonReader", "subprocess.Popen"),
        "renamed": good.replace("  reader:", "  other:").replace("reader.documents", "other.documents"),
        "not yaml": "{[",
    }.items():
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(PipelineError, match=r"bad\.yaml"):
            create_app(replace(settings, pipeline=tmp_path / "bad.yaml"))
            pytest.fail(name)


async def test_any_words_keep_their_place(client: httpx.AsyncClient, upstream: StandIn, settings: Settings) -> None:
    rng = random.Random(5)
    alphabet = "ab \n.é\u0301😀👩‍🚒שםمر日本\r\u202e0"
    for _ in range(150):
        text = "".join(rng.choices(alphabet, k=rng.randint(1, 60)))
        start = rng.randrange(len(text))
        end = rng.randint(start + 1, len(text))
        before = "".join(rng.choices(alphabet, k=rng.randint(0, 20)))
        upstream.canonical = before + text + "after"
        upstream.passages = [{**PASSAGE, "text": text, "start": len(before), "end": len(before) + len(text)}]
        upstream.spans = [{"text": text[start:end], "score": 1.0, "confidence": 0.9, "evidence": [{"passage_id": "p1", "start": start, "end": end}]}]
        reply = await ask(client)
        assert reply.status_code == 200, repr(text)
        place = reply.json()["answers"][0]["citations"][0]
        assert upstream.canonical[place["start"] : place["end"]] == place["text"] == text[start:end]
        assert place["text"] in place["sentence"]
