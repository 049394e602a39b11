"""What must hold when a peer is not as agreed: a model service's reply, or a client that stops sending."""

import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

from .conftest import TEXT, StandIn, _json
from .test_gateway import ask, client  # noqa: F401 # a fixture
from .test_process import start, wait_ready

SHAPES: list[Any] = [{}, [], None, 3, {"spans": "x"}, {"search": {}}, {"search": 3}, {"search": {"passages": [1], "generation": "g", "model": "m"}}]


def saying(data: Any) -> Any:
    async def fault(_: Any) -> Any:
        return _json(data)

    return fault


@pytest.mark.parametrize("data", SHAPES)
async def test_a_reply_that_is_not_the_contracts_is_never_the_callers_fault(client: httpx.AsyncClient, upstream: StandIn, data: Any) -> None:  # noqa: F811
    upstream.reader_fault = saying(data)
    assert (await ask(client)).json()["degraded"] == ["reader"]
    upstream.reader_fault, upstream.retriever_fault = None, saying(data)
    for reply in (await ask(client), await client.post("/v1/search", json={"question": "q"}), await client.get("/v1/documents/a.txt")):
        assert (reply.status_code, reply.json()["code"]) == (502, "upstream_failed")


async def test_more_citations_than_one_call_takes_are_all_verified(client: httpx.AsyncClient, upstream: StandIn) -> None:  # noqa: F811
    places = [[a, 0, 1, 2] for a in range(4, 84)]
    upstream.spans = [
        {"text": TEXT[p[0]], "score": 1.0, "confidence": 0.9, "evidence": [{"passage_id": "p1", "start": x, "end": x + 1} for x in p]} for p in places
    ]
    reply = await ask(client, top_k=80)
    assert (reply.status_code, len(reply.json()["answers"])) == (200, 80)
    asked = [len(c[1]["jsonData"]["documents"]["ranges"]) for c in upstream.calls if "documents" in c[1]["jsonData"]]
    assert asked == [200, 120]


@pytest.mark.parametrize("other", [{"version": "v2"}, {"document_id": "other.txt"}, {"start": 1, "end": 7}])
async def test_the_same_words_of_another_place_are_no_evidence(client: httpx.AsyncClient, upstream: StandIn, other: dict[str, Any]) -> None:  # noqa: F811
    words = upstream._words
    upstream._words = lambda r: {**words(r), **other}  # type: ignore[method-assign]
    assert (await ask(client)).status_code == 500
    assert "quarry_evidence_mismatch_total 1.0" in (await client.get("/metrics")).text


async def test_a_wrong_method_is_told_the_right_one(client: httpx.AsyncClient) -> None:  # noqa: F811
    for method in ("PUT", "HEAD", "OPTIONS"):
        reply = await client.request(method, "/v1/answers")
        assert (reply.status_code, reply.headers["Allow"]) == (405, "POST")
    assert (await client.post("/v1/documents/a")).headers["Allow"] == "GET, PUT, DELETE"


async def test_head_is_get_without_a_body(client: httpx.AsyncClient) -> None:  # noqa: F811
    reply = await client.head("/healthz")
    assert (reply.status_code, reply.headers["content-type"]) == (200, "application/json")


async def test_outcomes_are_counted_by_stable_error_code(client: httpx.AsyncClient) -> None:  # noqa: F811
    await client.post("/v1/answers", json={"question": ""})
    await client.get("/healthz")
    counted = (await client.get("/metrics")).text
    assert 'quarry_gateway_requests_total{code="invalid_request",route="/v1/answers"} 1.0' in counted
    assert 'quarry_gateway_requests_total{code="ok",route="/healthz"} 1.0' in counted


async def test_a_surer_span_of_lower_rank_does_not_stand_in_for_an_unsure_best_one(client: httpx.AsyncClient, upstream: StandIn) -> None:  # noqa: F811
    [span] = upstream.spans[:1]
    upstream.spans = [{**span, "confidence": 0.1}, {**span, "confidence": 0.99}]
    reply = (await ask(client)).json()
    assert (reply["abstained"], reply["answers"], reply["reason"]) == (True, [], "not_confident")


def test_a_body_that_never_comes_ends_at_the_deadline_and_does_not_hold_up_the_end(release: Path, upstream: StandIn) -> None:
    process, url = start(release, upstream)
    try:
        wait_ready(url)
        with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), timeout=10) as line:
            head = "POST /v1/answers HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nX-Request-Deadline-Ms: 300\r\nContent-Length: 50\r\n\r\n"
            line.sendall(head.encode() + b'{"q')
            assert b" 504 " in line.recv(1000)
            process.terminate()
            process.join(5)
        assert process.exitcode == 0
    finally:
        process.kill()
