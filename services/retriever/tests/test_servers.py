"""The retriever over HTTP: our own server, and the stock seldon-core wrapper around the same core, called by the real SeldonClient."""

import json
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import pytest
from quarry_contract.codec import loads
from quarry_contract.errors import QuarryError
from quarry_contract.messages import DocumentRequest, DocumentResponse, SearchRequest, SearchResponse
from quarry_runtime.encode import Encoder

from quarry_retriever.index import Index
from quarry_retriever.search import Searcher

from .making import DOCUMENTS, POISON, Document, Writer, make_index
from .serving import PLAIN, WRAPPER, lean, wrapped

SECRET = "zyzzyva"
CLIENT = """
import json, sys
from seldon_core.seldon_client import SeldonClient
from seldon_core.utils import seldon_message_to_json
client = SeldonClient(microservice_endpoint=sys.argv[1], gateway="seldon", gateway_endpoint=sys.argv[1], deployment_name="retriever", client_return_type="dict")
for line in sys.stdin:
    direct = client.microservice(method="predict", json_data=json.loads(line))
    outside = client.predict(json_data=json.loads(line))
    print(json.dumps([direct.success and seldon_message_to_json(direct.response), outside.success and outside.response]))
"""


@pytest.fixture(scope="module")
def server(model_dir: Path, index_dir: Path) -> Iterator[str]:
    with lean(model_dir, index_dir, QUARRY_RETRIEVER_MODEL_REF="models:/retriever/7") as (url, _):
        yield url


@pytest.fixture(scope="module")
def wrapper(model_dir: Path, index_dir: Path) -> Iterator[str]:
    if not (WRAPPER / "seldon-core-microservice").exists():
        pytest.fail('no environment of the wrapper: make envs P="services/retriever/seldon"')
    with wrapped(model_dir, index_dir) as (url, _):
        yield url


@pytest.fixture(scope="module", params=["lean", "wrapper"])
def either(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue("server" if request.param == "lean" else "wrapper"))


def post(url: str, body: Any, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(f"{url}/api/v1.0/predictions", content=content, headers={"Content-Type": "application/json", **headers}, timeout=60, verify=PLAIN)


def search(url: str, **request: Any) -> SearchResponse:
    reply = post(url, {"jsonData": {"search": request}})
    assert reply.status_code == 200, reply.text
    return SearchResponse.from_dict(reply.json()["jsonData"]["search"])


@pytest.mark.parametrize("retrieval", ["dense", "bm25", "tfidf", "hybrid"])
def test_the_same_answer_as_in_process(either: str, model_dir: Path, index_dir: Path, retrieval: Any) -> None:
    encoder = Encoder.load(model_dir)
    inside = Searcher(Index.open(index_dir, encoder.manifest.digest, encoder.encode), encoder.encode, "m")
    asked: dict[str, Any] = {"question": "crane wind limit at gate 2", "top_k": 7, "retrieval": retrieval, "filters": {"kind": ("method", "report")}}
    there, here = search(either, **asked).passages, inside.search(SearchRequest(**asked)).passages
    assert [p.passage for p in there] == [p.passage for p in here]
    assert [p.score for p in there] == pytest.approx([p.score for p in here], rel=1e-5)  # the wrapper has another numpy


def test_documents_word_for_word(either: str) -> None:
    text = DOCUMENTS[2].text
    ranges = [{"document_id": "minutes.txt", "start": 20, "end": 30}, {"document_id": "none", "start": 0, "end": 1}]
    reply = post(either, {"jsonData": {"documents": {"ranges": ranges}}})
    first, second = DocumentResponse.from_dict(reply.json()["jsonData"]["documents"]).texts
    assert first is not None and first.text == text[20:30] and "👷" in first.text
    assert second is None


def test_the_real_seldon_client(either: str, wrapper: str) -> None:
    """Both ways it has: straight to the microservice (a form), and the external API (JSON)."""
    asked = [{"search": {"question": "crane", "top_k": 2}}, {"documents": {"ranges": [{"document_id": "wall.md", "start": 0, "end": 8}]}}, {"search": {}}]
    command = [str(WRAPPER / "python"), "-W", "ignore", "-c", CLIENT, either.removeprefix("http://")]
    done = subprocess.run(command, input="\n".join(map(json.dumps, asked)), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found, words, bad = [json.loads(line) for line in done.stdout.splitlines()[-3:]]
    for reply in found:
        assert [p["passage"]["document_id"] for p in reply["jsonData"]["search"]["passages"]] == ["crane.md"] * 2
    for reply in words:
        assert reply["jsonData"]["documents"]["texts"][0]["text"] == "Concrete"
    assert bad == [False, False]


BAD: dict[str, tuple[Any, int, str]] = {
    "empty": (b"", 400, "invalid_request"),
    "not JSON": (b'{"jsonData": zyzzyva}', 400, "invalid_request"),
    "not UTF-8": (b'{"jsonData": "\xff"}', 400, "invalid_request"),
    "NaN": (b'{"jsonData": {"search": {"question": "zyzzyva", "top_k": NaN}}}', 400, "invalid_request"),
    "1e999": (b'{"jsonData": {"search": {"question": "zyzzyva", "top_k": 1e999}}}', 400, "invalid_request"),
    "lone surrogate": (b'{"jsonData": {"search": {"question": "zyzzyva \\ud800"}}}', 400, "invalid_request"),
    "deep": (b'{"jsonData": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "invalid_request"),
    "no jsonData": ({"data": SECRET}, 400, "invalid_request"),
    "not an object": ({"jsonData": [SECRET]}, 400, "invalid_request"),
    "neither": ({"jsonData": {}}, 400, "invalid_request"),
    "both": ({"jsonData": {"search": {"question": "a"}, "documents": {"ranges": []}}}, 400, "invalid_request"),
    "another": ({"jsonData": {SECRET: {}}}, 400, "invalid_request"),
    "no question": ({"jsonData": {"search": {"top_k": 1}}}, 400, "invalid_request"),
    "blank question": ({"jsonData": {"search": {"question": " \n"}}}, 400, "invalid_request"),
    "unknown field": ({"jsonData": {"search": {"question": "a", SECRET: 1}}}, 400, "invalid_request"),
    "wrong type": ({"jsonData": {"search": {"question": [SECRET]}}}, 400, "invalid_request"),
    "top_k 0": ({"jsonData": {"search": {"question": SECRET, "top_k": 0}}}, 400, "invalid_request"),
    "top_k -1": ({"jsonData": {"search": {"question": SECRET, "top_k": -1}}}, 400, "invalid_request"),
    "top_k 10^9": ({"jsonData": {"search": {"question": SECRET, "top_k": 10**9}}}, 400, "invalid_request"),
    "top_k true": ({"jsonData": {"search": {"question": SECRET, "top_k": True}}}, 400, "invalid_request"),
    "retrieval": ({"jsonData": {"search": {"question": SECRET, "retrieval": SECRET}}}, 400, "invalid_request"),
    "filter field": ({"jsonData": {"search": {"question": SECRET, "filters": {SECRET: 1}}}}, 400, "invalid_request"),
    "filter nested": ({"jsonData": {"search": {"question": SECRET, "filters": {"kind": {"a": SECRET}}}}}, 400, "invalid_request"),
    "many filters": ({"jsonData": {"search": {"question": SECRET, "filters": {str(i): i for i in range(21)}}}}, 400, "invalid_request"),
    "no ranges": ({"jsonData": {"documents": {"ranges": []}}}, 400, "invalid_request"),
    "range backwards": ({"jsonData": {"documents": {"ranges": [{"document_id": SECRET, "start": 5, "end": 1}]}}}, 400, "invalid_request"),
    "1 MB question": ({"jsonData": {"search": {"question": SECRET * 150_000}}}, 413, "too_large"),
    "9 MB": ({"jsonData": {"search": {"question": SECRET * 1_300_000}}}, 413, "too_large"),
    "model fails": ({"jsonData": {"search": {"question": f"{SECRET} {POISON}", "retrieval": "dense"}}}, 500, "internal"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_has_its_code_and_nothing_is_echoed(either: str, name: str) -> None:
    body, status, code = BAD[name]
    reply = post(either, body, **{"X-Request-Id": "r-1"})
    problem = reply.json()
    assert (reply.status_code, problem["code"], problem["request_id"]) == (status, code, "r-1")
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert SECRET not in reply.text and "Traceback" not in reply.text
    assert len(search(either, question="crane", top_k=1).passages) == 1


def test_deadlines_and_unknown_paths(either: str) -> None:
    body = {"jsonData": {"search": {"question": "crane"}}}
    assert post(either, body, **{"X-Request-Deadline-Ms": "0"}).json()["code"] == "deadline_exceeded"
    assert post(either, body, **{"X-Request-Deadline-Ms": "soon"}).json()["code"] == "invalid_request"
    assert post(either, body, **{"X-Request-Deadline-Ms": "20000"}).status_code == 200
    assert post(either, body, **{"Content-Type": "text/plain"}).status_code == 415
    assert httpx.get(f"{either}/nowhere", verify=PLAIN).status_code == 404
    assert httpx.delete(f"{either}/api/v1.0/predictions", verify=PLAIN).status_code == 405


def test_degraded_says_so(either: str) -> None:
    response = search(either, question=f"crane wind {POISON}")
    assert response.degraded == ("dense",) and response.passages[0].passage.document_id == "crane.md"


def test_32_callers_a_tenth_of_them_gone_midway(server: str) -> None:
    questions = [f"{word} {extra}" for word in ("crane", "wall", "fire plan", "scaffold") for extra in ("", "gate", "wind", "size 3.1")]
    expected = {q: search(server, question=q) for q in questions}

    def caller(seed: int) -> int:
        choose, right = random.Random(seed), 0
        with httpx.Client(base_url=server, timeout=60, verify=PLAIN) as client:
            for _ in range(12):
                question = choose.choice(questions)
                body = {"jsonData": {"search": {"question": question}}}
                if choose.random() < 0.1:
                    try:
                        client.post("/api/v1.0/predictions", json=body, timeout=0.001)
                    except httpx.TimeoutException:
                        continue
                reply = client.post("/api/v1.0/predictions", json=body)
                assert reply.status_code == 200
                assert SearchResponse.from_dict(reply.json()["jsonData"]["search"]) == expected[question]
                right += 1
        return right

    with ThreadPoolExecutor(32) as pool:
        assert sum(pool.map(caller, range(32))) > 300


def test_mutated_bodies_never_break_it(server: str) -> None:
    choose = random.Random(7)
    seeds = [json.dumps({"jsonData": {"search": {"question": "crane wind", "top_k": 3, "filters": {"kind": ["method"], "page": 1}}}}).encode()]
    seeds.append(json.dumps({"jsonData": {"documents": {"ranges": [{"document_id": "wall.md", "start": 0, "end": 9}]}}}).encode())
    parts = [b"null", b"-1", b"1e400", b'"\\ud800"', b"{}", b"[]", b"true", b"\xff", b'"', b"9" * 400, b"NaN", b"\x00", b"}", b","]
    with closing(HTTPConnection(server.removeprefix("http://"), timeout=60)) as connection:  # httpx takes longer than the server
        for _ in range(1500):
            body = bytearray(choose.choice(seeds))
            for _ in range(choose.randint(1, 3)):
                at = choose.randrange(len(body))
                body[at : at + choose.randint(0, 9)] = choose.choice(parts)
            connection.request("POST", "/api/v1.0/predictions", bytes(body), {"Content-Type": "application/json"})
            reply = connection.getresponse()
            reply.read()
            assert reply.status in (200, 400, 413), bytes(body)
            assert (reply.status == 200) == valid(bytes(body)), bytes(body)


def valid(body: bytes) -> bool:
    """Whether the contract takes it, and the filters' fields are known."""
    try:
        message = loads(body)
        data = message["jsonData"]
        if len(message.keys() - {"jsonData", "meta"}) or len(data) != 1:
            return False
        if "search" not in data:
            return bool(DocumentRequest.from_dict(data["documents"]))
        return SearchRequest.from_dict(data["search"]).filters.keys() <= {"kind", "page", "revision", "approved", "title", "section", "document_id", "version"}
    except (QuarryError, KeyError, TypeError, AttributeError):
        return False


def test_metrics_tell_what_is_served_and_how(server: str) -> None:
    search(server, question="crane", retrieval="tfidf")
    search(server, question=f"crane {POISON}")
    text = httpx.get(f"{server}/metrics", verify=PLAIN).text
    assert 'quarry_index_info{encoder_digest="' in text and 'generation="g1",model="models:/retriever/7"} 1.0' in text
    assert "quarry_index_passages 49.0" in text and "quarry_index_documents 4.0" in text
    counted = [line for line in text.splitlines() if line.startswith("quarry_searches_total")]
    assert any('outcome="ok",retrieval="tfidf"' in line for line in counted)
    assert any('outcome="degraded",retrieval="hybrid"' in line for line in counted)
    assert 'quarry_search_seconds_count{retrieval="tfidf"}' in text
    assert POISON not in text


@pytest.mark.parametrize("running", [lean, wrapped])
def test_a_running_server_follows_its_index(running: Any, model_dir: Path, tmp_path: Path) -> None:
    folder = make_index(tmp_path, model_dir, [])
    writer = Writer(folder, Encoder.load(model_dir).encode)
    with running(model_dir, folder) as (url, _):

        def seen(*principals: str) -> bool:
            return bool(search(url, question="crane plan", principals=principals).passages)

        def until(expected: bool) -> None:
            limit = time.monotonic() + 60
            while seen("group:a") != expected:
                assert time.monotonic() < limit, "did not happen in time"
                time.sleep(0.05)

        def outside() -> list[bytes]:
            filters: list[Any] = [{}, {"document_id": "plan"}, {"kind": "x"}]
            ways: list[Any] = [{"retrieval": r, "filters": f} for r in ("dense", "bm25", "tfidf", "hybrid") for f in filters]
            asked = [{"search": {"question": "crane plan", "principals": ["group:b"], **way}} for way in ways]
            asked.append({"documents": {"ranges": [{"document_id": "plan", "start": 0, "end": 3}], "principals": ["group:b"]}})
            return [post(url, {"jsonData": data}, **{"X-Request-Id": "r"}).content for data in asked]

        assert not seen("group:a")
        before = outside()
        writer.put(Document("plan", "Plan", "The crane plan.", {"kind": "x"}, principals=("group:a",)))
        until(True)
        assert not seen() and outside() == before, "byte for byte as before there was anything"
        text = httpx.get(f"{url}/prometheus", verify=PLAIN).text
        assert all(
            f"{line}.0\n" in text for line in ("quarry_index_revision 1", "quarry_index_passages 1", "quarry_index_documents 1", "quarry_index_follow_errors 0")
        )
        for principals, expected in ((["group:a"], "The"), (["group:b"], None)):
            asked = {"ranges": [{"document_id": "plan", "start": 0, "end": 3}], "principals": principals}
            [words] = post(url, {"jsonData": {"documents": asked}}).json()["jsonData"]["documents"]["texts"]
            assert (words and words["text"]) == expected
        writer.delete("plan")
        until(False)
    writer.close()


def test_sigterm_under_load_loses_no_accepted_request(model_dir: Path, index_dir: Path) -> None:
    body = {"jsonData": {"search": {"question": "crane wind " * 90, "top_k": 5}}}

    outcomes: list[str] = []

    def caller(url: str) -> None:
        while True:
            try:
                outcomes.append(str(httpx.post(f"{url}/predict", json=body, timeout=30, verify=PLAIN).status_code))
            except httpx.ConnectError:
                outcomes.append("refused")
                return

    with lean(model_dir, index_dir) as (url, process), ThreadPoolExecutor(8) as pool:
        callers = [pool.submit(caller, url) for _ in range(8)]
        while len(outcomes) < 24 and not any(c.done() for c in callers):  # whoever is answered asks again: eight are being worked on when the signal comes
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        for c in callers:
            c.result()
        began = time.monotonic()
        assert process.wait(timeout=30) == 0
        assert time.monotonic() - began < 5
    assert set(outcomes) == {"200", "refused"}
    assert outcomes.count("200") > 24
