"""The reader over HTTP as its callers meet it: our server and the stock seldon-core wrapper, each a real process."""

import asyncio
import json
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from select import select
from typing import Any

import httpx
import pytest
from quarry_contract.manifests import MODEL_MANIFEST, ModelManifest, digest_file, read_manifest

from .forked import forked

PROJECT = Path(__file__).resolve().parents[1]
SELDON = PROJECT / "seldon" / ".venv" / "bin"
JSON = {"Content-Type": "application/json"}
# Without it, httpx reads the certificates of all authorities for each call, which takes longer than the call.
PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@dataclass
class Served:
    """A running server."""

    url: str
    process: "subprocess.Popen[bytes]"
    log: Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def clean() -> dict[str, str]:
    """The environment without settings of ours."""
    return {k: v for k, v in os.environ.items() if not k.startswith("QUARRY_")}


def start(kind: str, model_dir: Path, log: Path, **extra: str) -> Served:
    port = free_port()
    environment = {**clean(), "QUARRY_READER_MODEL_DIR": str(model_dir), **extra}
    if kind == "quarry":
        command = [sys.executable, "-m", "quarry_reader"]
        environment["QUARRY_READER_PORT"] = str(port)
    else:
        assert SELDON.exists(), "the wrapper's environment is missing: make envs P=services/reader/seldon"
        command = [str(SELDON / "seldon-core-microservice"), "quarry_reader.seldon_model.ReaderModel", "--service-type", "MODEL"]
        environment |= {
            "PREDICTIVE_UNIT_HTTP_SERVICE_PORT": str(port),
            "PREDICTIVE_UNIT_METRICS_SERVICE_PORT": str(free_port()),
            "PREDICTIVE_UNIT_METRICS_ENDPOINT": "/metrics",
            "PREDICTIVE_UNIT_ID": "reader",
            "GUNICORN_WORKERS": "1",
            "GUNICORN_THREADS": "48",
            "GRPC_WORKERS": "0",
            "HOME": str(log.parent),
        }
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True, cwd=log.parent)
    return Served(f"http://127.0.0.1:{port}", process, log)


def health(url: str) -> int | None:
    """The status, or None while nobody listens; by what takes least, because it is asked again and again."""
    connection = HTTPConnection(url.removeprefix("http://"), timeout=2)
    try:
        connection.request("GET", "/health/status")
        return connection.getresponse().status
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()


def wait_ready(served: Served) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until and served.process.poll() is None:
        if health(served.url) == 200:
            return
        time.sleep(0.05)
    raise AssertionError(f"never ready:\n{served.log.read_text()[-3000:]}")


def stop(served: Served) -> None:
    served.process.send_signal(signal.SIGTERM)
    try:
        served.process.wait(15)
    finally:
        if served.process.poll() is None:
            os.killpg(served.process.pid, signal.SIGKILL)


@pytest.fixture(scope="module", params=["quarry", "seldon"])
def served(request: pytest.FixtureRequest, artefact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = start(request.param, artefact, tmp_path_factory.mktemp("served") / "log")
    try:
        wait_ready(made)
        yield made
    finally:
        stop(made)


def ask(question: str, *texts: str, **fields: Any) -> dict[str, Any]:
    return {"jsonData": {"question": question, "passages": [{"passage_id": f"p{i}", "text": t} for i, t in enumerate(texts)], **fields}}


def test_it_answers(served: Served) -> None:
    reply = httpx.post(f"{served.url}/api/v1.0/predictions", json=ask("who", "the café is 😀 Alpha, in", "beta"), headers={"X-Request-Id": "r-1"}, verify=PLAIN)
    assert reply.status_code == 200
    assert reply.headers["X-Request-Id"] == "r-1"
    spans = reply.json()["jsonData"]["spans"]
    assert [s["text"] for s in spans][:2] == ["Alpha", "beta"]
    assert spans[0]["evidence"] == [{"passage_id": "p0", "start": 14, "end": 19}]


def test_it_says_which_model_it_serves(served: Served, artefact: Path) -> None:
    """The gateway sends questions only to a release's own model."""
    digest = read_manifest(artefact / MODEL_MANIFEST, ModelManifest).digest
    for path in ("/metadata", "/api/v1.0/metadata"):
        assert httpx.get(served.url + path, verify=PLAIN).json()["custom"]["digest"] == digest


def test_seldons_own_client_can_call_it(served: Served) -> None:
    """Both ways SeldonClient has: straight to the microservice (a form), and the external API (JSON)."""
    endpoint = served.url.removeprefix("http://")
    script = f"""
import json
from seldon_core.seldon_client import SeldonClient
from seldon_core.utils import seldon_message_to_json
message = {ask("who", "the alpha")["jsonData"]!r}
client = SeldonClient(microservice_endpoint={endpoint!r}, gateway="seldon", gateway_endpoint={endpoint!r}, deployment_name="reader", client_return_type="dict")
direct = client.microservice(method="predict", json_data=message)
outside = client.predict(json_data=message)
bad = client.microservice(method="predict", json_data={{"question": 3}})
print(json.dumps([direct.success, seldon_message_to_json(direct.response), outside.success, outside.response, bad.success, bad.msg]))
"""
    done = subprocess.run([str(SELDON / "python"), "-W", "ignore", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    direct_ok, direct, outside_ok, outside, bad_ok, _ = json.loads(done.stdout.strip().splitlines()[-1])
    assert direct_ok and outside_ok and not bad_ok
    assert direct["jsonData"]["spans"][0]["text"] == "alpha"
    assert outside["jsonData"]["spans"][0]["text"] == "alpha"


MARK = "unmistakable-input-words"
BAD: list[tuple[str, bytes, dict[str, str], int, str]] = [
    ("lone surrogate", b'{"jsonData": {"question": "\\ud800", "passages": [{"passage_id": "a", "text": "b"}]}}', JSON, 400, "invalid_request"),
    ("NaN", b'{"jsonData": {"question": "a", "passages": [], "top_k": NaN}}', JSON, 400, "invalid_request"),
    ("1e999", b'{"jsonData": {"question": "a", "passages": [], "top_k": 1e999}}', JSON, 400, "invalid_request"),
    ("empty body", b"", JSON, 400, "invalid_request"),
    ("not JSON", b"{'a'", JSON, 400, "invalid_request"),
    ("not UTF-8", b'{"jsonData": "\xff"}', JSON, 400, "invalid_request"),
    ("wrong types", json.dumps({"jsonData": {"question": [MARK], "passages": {}}}).encode(), JSON, 400, "invalid_request"),
    ("unknown field", json.dumps({"jsonData": {"question": MARK, "passages": [], MARK: 1}}).encode(), JSON, 400, "invalid_request"),
    ("empty question", json.dumps(ask(" ", "a")).encode(), JSON, 400, "invalid_request"),
    ("1 MB question", json.dumps(ask(MARK * 50_000, "a")).encode(), JSON, 413, "too_large"),
    ("top_k 0", json.dumps(ask("q", "a", top_k=0)).encode(), JSON, 400, "invalid_request"),
    ("top_k -1", json.dumps(ask("q", "a", top_k=-1)).encode(), JSON, 400, "invalid_request"),
    ("top_k 10^9", json.dumps(ask("q", "a", top_k=10**9)).encode(), JSON, 400, "invalid_request"),
    ("5,000-digit number", b'{"jsonData": {"top_k": ' + b"9" * 5000 + b"}}", JSON, 400, "invalid_request"),
    ("no passages", json.dumps(ask("q")).encode(), JSON, 400, "invalid_request"),
    ("10,000 passages", json.dumps(ask("q", *[MARK] * 10_000)).encode(), JSON, 400, "invalid_request"),
    ("a passage of 5 MB", json.dumps(ask("q", "x" * 5_000_000)).encode(), JSON, 413, "too_large"),
    ("a body of 9 MB", b" " * 9_000_000, JSON, 413, "too_large"),
    ("deep nesting", b'{"jsonData": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", JSON, 400, "invalid_request"),
    ("wrong content type", json.dumps(ask("q", "a")).encode(), {"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
    ("same id twice", json.dumps({"jsonData": {"question": "q", "passages": [{"passage_id": "a", "text": ""}] * 2}}).encode(), JSON, 400, "invalid_request"),
]


@pytest.mark.parametrize(("body", "headers", "status", "code"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_input_is_refused_with_its_code_and_nothing_echoed(served: Served, body: bytes, headers: dict[str, str], status: int, code: str) -> None:
    try:
        reply = httpx.post(f"{served.url}/api/v1.0/predictions", content=body, headers=headers, timeout=30, verify=PLAIN)
    except httpx.WriteError:
        pytest.fail("the connection broke before the reply")
    assert (reply.status_code, reply.json()["code"]) == (status, code)
    assert MARK not in reply.text
    assert "Traceback" not in reply.text
    assert httpx.post(f"{served.url}/predict", json=ask("who", "alpha"), verify=PLAIN).json()["jsonData"]["spans"][0]["text"] == "alpha"


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nope", 404), ("GET", "/api/v1.0/predictions", 405), ("DELETE", "/predict", 405)])
def test_unknown_paths_and_methods(served: Served, method: str, path: str, status: int) -> None:
    reply = httpx.request(method, served.url + path, verify=PLAIN)
    assert (reply.status_code, reply.json()["status"]) == (status, status)


def mutations(count: int, seed: int) -> Iterator[bytes]:
    """Valid bodies with bytes changed, cut, doubled and joined."""
    rng = random.Random(seed)
    seeds = [json.dumps(ask("who is ü", "alpha 😀 beta", "in the", top_k=2), ensure_ascii=False).encode(), *(case[1][:400] for case in BAD)]
    pieces = [b"\x00", b"\xff", b"\\ud83d", b"NaN", b"-Infinity", b"1e999", b"null", b"{}", b"[[", b'"', b"}", b"\\u0000", b"9" * 30, b"true"]
    for _ in range(count):
        body = bytearray(rng.choice(seeds) if rng.random() < 0.5 else seeds[0])
        for _ in range(rng.randint(1, 4)):
            at = rng.randint(0, len(body))
            change = rng.random()
            if change < 0.35:
                body[at:at] = rng.choice(pieces)
            elif change < 0.6:
                del body[at : at + rng.randint(1, 9)]
            elif change < 0.85 and body:
                body[min(at, len(body) - 1)] = rng.randrange(256)
            else:
                body += body[at : at + 30]
        yield bytes(body)


def statuses(url: str, bodies: Sequence[bytes]) -> Counter[int]:
    """All on one connection, of the standard library: httpx takes longer than the server."""
    connection = HTTPConnection(url.removeprefix("http://"), timeout=60)
    counts: Counter[int] = Counter()
    for body in bodies:
        if connection.sock and select([connection.sock], [], [], 0)[0]:
            connection.close()  # by the server, as it may when nothing was asked for a while
        connection.request("POST", "/predict", body, JSON)
        reply = connection.getresponse()
        reply.read()
        counts[reply.status] += 1
    connection.close()
    return counts


def test_mutated_bodies_never_break_it_over_http(served: Served) -> None:
    bodies = list(mutations(1_000, 11))
    with ThreadPoolExecutor(4) as pool:
        counts = sum(pool.map(lambda n: statuses(served.url, bodies[n::4]), range(4)), Counter[int]())
    assert counts.total() == 1_000
    assert all(status < 500 for status in counts), counts
    assert counts[400] > 500
    assert counts[200] > 5


async def asgi_status(app: Any, body: bytes) -> int:
    """POST /predict as the server would pass it on. No client in between: it takes longer than the application."""
    came, status = [{"type": "http.request", "body": body, "more_body": False}], 0

    async def receive() -> Any:
        return came.pop() if came else await asyncio.Future()  # nobody leaves

    async def send(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)

    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http", "query_string": b"", "headers": headers}
    await app({**scope, "path": "/predict", "raw_path": b"/predict", "root_path": "", "client": ("127.0.0.1", 1), "server": ("reader", 80)}, receive, send)
    return status


async def test_20_000_mutated_bodies_never_break_it(artefact: Path) -> None:
    from quarry_runtime.server import create_app
    from quarry_runtime.settings import ServerSettings

    from quarry_reader.core import Reader, ReaderSettings

    settings = ReaderSettings(artefact, runners=1)
    app = create_app(ServerSettings("reader"), lambda _: Reader.load(settings), lambda reason: pytest.fail(reason))
    async with app.router.lifespan_context(app):
        while app.state.quarry.model is None:
            await asyncio.sleep(0.01)
        counts = Counter([await asgi_status(app, body) for body in mutations(20_000, 12)])
    assert all(200 <= status < 500 for status in counts), counts
    assert counts[200] > 100


def test_32_callers_a_tenth_of_them_leaving_all_get_their_own_answer(served: Served) -> None:
    async def caller(client: httpx.AsyncClient, i: int) -> None:
        word = f"word{i % 32}"
        for n in range(6):
            texts = ["the is in " * (1 + (i * n) % 30), f"in the {word.upper()} is", "what"]
            if i % 10 == 3:
                try:
                    await asyncio.wait_for(client.post("/predict", json=ask("who", *texts)), 0.005 * (n + 1))
                except TimeoutError:
                    continue
                continue
            reply = await client.post("/predict", json=ask("who", *texts))
            assert reply.status_code == 200, reply.text
            best = reply.json()["jsonData"]["spans"][0]
            assert best["text"] == word.upper()
            assert texts[1][best["evidence"][0]["start"] : best["evidence"][0]["end"]] == word.upper()

    async def everybody() -> None:
        limits = httpx.Limits(max_connections=32)
        async with httpx.AsyncClient(base_url=served.url, timeout=60, limits=limits, verify=PLAIN) as client:
            await asyncio.gather(*(caller(client, i) for i in range(32)))

    asyncio.run(everybody())


def test_sigterm_under_load_loses_no_accepted_request(artefact: Path, tmp_path: Path) -> None:
    # Room for all callers at once (8 x 11,000 tokens): a refusal for want of room is another test's matter.
    served = start("quarry", artefact, tmp_path / "log", QUARRY_READER_MAX_QUEUED_TOKENS="2000000")
    wait_ready(served)
    body = ask("who", *["the is in " * 300] * 12, "alpha")

    async def caller(client: httpx.AsyncClient, outcomes: list[str]) -> None:
        while True:
            try:
                reply = await client.post("/predict", json=body)
            except httpx.ConnectError:
                outcomes.append("refused")
                return
            assert reply.status_code == 200, reply.text
            outcomes.append(f"{reply.status_code} {reply.json()['jsonData']['spans'][0]['text']}")

    async def scenario() -> list[str]:
        outcomes: list[str] = []
        # One connection a caller: a kept-alive connection may be closed under an idle client, which is no accepted request.
        limits = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=served.url, timeout=60, limits=limits, verify=PLAIN) as client:
            callers = [asyncio.ensure_future(caller(client, outcomes)) for _ in range(8)]
            while len(outcomes) < 8 and not any(c.done() for c in callers):  # whoever is answered asks again: eight are being worked on when the signal comes
                await asyncio.sleep(0.02)
            served.process.send_signal(signal.SIGTERM)
            await asyncio.gather(*callers)
        return outcomes

    outcomes = asyncio.run(scenario())
    ended = time.monotonic()
    served.process.wait(20)
    assert time.monotonic() - ended < 5
    assert served.process.returncode == 0
    assert set(outcomes) == {"200 alpha", "refused"}, set(outcomes)
    assert outcomes.count("200 alpha") > 8


def _resign(folder: Path, name: str, content: bytes) -> None:
    """Replace a file and give the manifest its new digest: the damage is then inside, not in transit."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / MODEL_MANIFEST).read_text())
    manifest["files"][name] = digest_file(folder / name).to_dict()
    (folder / MODEL_MANIFEST).write_text(json.dumps(manifest))


def _edit(folder: Path, **fields: Any) -> None:
    manifest = json.loads((folder / MODEL_MANIFEST).read_text())
    (folder / MODEL_MANIFEST).write_text(json.dumps({**manifest, **fields}))


def _wrong_shape(folder: Path) -> None:
    from quarry_runtime import tiny

    other = folder / "other"
    tiny.encoder(other, ["alpha"])
    _resign(folder, "model.onnx", (other / "encoder.onnx").read_bytes())


def _other_vocabulary(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] = {word: i + 100_000 for word, i in tokenizer["model"]["vocab"].items()}
    _resign(folder, "tokenizer.json", json.dumps(tokenizer).encode())


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


FAILURES: dict[str, Callable[[Path], Any]] = {
    "no folder": lambda f: shutil.rmtree(f),
    "no manifest": lambda f: (f / MODEL_MANIFEST).unlink(),
    "manifest is not JSON": lambda f: (f / MODEL_MANIFEST).write_text("{"),
    "manifest of another kind": lambda f: _edit(f, kind="retriever"),
    "unknown field": lambda f: _edit(f, surprise=1),
    "model missing": lambda f: (f / "model.onnx").unlink(),
    "model truncated": lambda f: (f / "model.onnx").write_bytes((f / "model.onnx").read_bytes()[:100]),
    "one bit flipped": lambda f: _flip(f / "model.onnx"),
    "not an ONNX file": lambda f: _resign(f, "model.onnx", b"not a model"),
    "other inputs and outputs": _wrong_shape,
    "not a tokenizer": lambda f: _resign(f, "tokenizer.json", b"{}"),
    "tokens the model does not know": _other_vocabulary,
    "no calibration": lambda f: _edit(f, calibration=None),
    "no room for passages": lambda f: _edit(f, max_tokens=20),
}


def _never_ready(url: str, exit_code: Callable[[], int | None], log: Path) -> str:
    seen = set()
    until = time.monotonic() + 60
    while exit_code() is None and time.monotonic() < until:
        seen.add(health(url))
        time.sleep(0.02)
    assert exit_code() not in (0, None)
    assert 200 not in seen
    return log.read_text()


@pytest.mark.parametrize("change", FAILURES.values(), ids=FAILURES.keys())
def test_a_model_that_cannot_be_loaded_is_never_ready_and_the_process_ends(change: Callable[[Path], Any], artefact: Path, tmp_path: Path) -> None:
    shutil.copytree(artefact, tmp_path / "model")
    change(tmp_path / "model")
    port = free_port()
    environment = {**clean(), "QUARRY_READER_MODEL_DIR": str(tmp_path / "model"), "QUARRY_READER_PORT": str(port)}
    process = forked("quarry_reader", environment, tmp_path / "log")
    log = _never_ready(f"http://127.0.0.1:{port}", lambda: process.exitcode, tmp_path / "log")
    assert log.count("the model was not loaded") == 1
    assert "Traceback" not in log


@pytest.mark.parametrize("name", ["one bit flipped", "not an ONNX file", "no manifest", "no calibration"])
def test_under_the_wrapper_too(name: str, artefact: Path, tmp_path: Path) -> None:
    shutil.copytree(artefact, tmp_path / "model")
    FAILURES[name](tmp_path / "model")
    served = start("seldon", tmp_path / "model", tmp_path / "log")
    try:
        assert "the model was not loaded" in _never_ready(served.url, served.process.poll, served.log)
    finally:
        if served.process.poll() is None:
            os.killpg(served.process.pid, signal.SIGKILL)
