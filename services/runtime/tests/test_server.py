"""The server's promises, over a model written for the test: in process where time does not matter, as a real process where it does."""

import asyncio
import json
import logging
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from echo import SECRET, Echo
from prometheus_client import CollectorRegistry
from quarry_contract.errors import ErrorCode

from quarry_runtime.draining import ACCEPT_SEC, Server
from quarry_runtime.logs import JsonFormatter
from quarry_runtime.server import create_app, uvicorn_config
from quarry_runtime.settings import ServerSettings

# Without it, httpx reads the certificates of all authorities for each call, which takes longer than the call.
PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@pytest.fixture
async def client() -> Any:
    model = Echo()
    app = create_app(ServerSettings("echo", max_body_bytes=10_000), lambda _: model, lambda reason: pytest.fail(reason))
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://echo") as made:
        while (await made.get("/readyz")).status_code != 200:
            await asyncio.sleep(0.01)
        yield made


async def post(client: httpx.AsyncClient, body: Any, **headers: str) -> httpx.Response:
    return await client.post("/api/v1.0/predictions", content=json.dumps({"jsonData": body}), headers={"Content-Type": "application/json", **headers})


async def test_predictions_speak_seldons_protocol(client: httpx.AsyncClient) -> None:
    reply = await post(client, {"a": 1}, **{"X-Request-Id": "abc-1"})
    assert reply.status_code == 200
    assert reply.json()["jsonData"] == {"echo": {"a": 1}}
    assert "meta" in reply.json()
    assert reply.headers["X-Request-Id"] == "abc-1"
    assert (await client.get("/health/ping")).status_code == 200
    assert (await client.get("/metadata")).json()["name"] == "echo"


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "code"),
    [
        ("GET", "/nope", b"", {}, "not_found"),
        ("GET", "/api/v1.0/predictions", b"", {}, "method_not_allowed"),
        ("DELETE", "/predict", b"", {}, "method_not_allowed"),
        ("POST", "/predict/", b"{}", {"Content-Type": "application/json"}, "not_found"),
        ("POST", "/predict", b"{}", {"Content-Type": "text/plain"}, "unsupported_media_type"),
        ("POST", "/predict", b"{}", {}, "unsupported_media_type"),
        ("POST", "/predict", b"", {"Content-Type": "application/json"}, "invalid_request"),
        ("POST", "/predict", b"\xff\xfe", {"Content-Type": "application/json"}, "invalid_request"),
        ("POST", "/predict", b'{"jsonData": NaN}', {"Content-Type": "application/json"}, "invalid_request"),
        ("POST", "/predict", b"[" * 9_000, {"Content-Type": "application/json"}, "invalid_request"),
        ("POST", "/predict", b'{"data": {}}', {"Content-Type": "application/json"}, "invalid_request"),
        ("POST", "/predict", b"[]", {"Content-Type": "application/json"}, "invalid_request"),
        ("POST", "/predict", b'{"jsonData": {}, "x": 1}', {"Content-Type": "application/json; charset=utf-8"}, "invalid_request"),
        ("POST", "/predict", b" " * 10_001, {"Content-Type": "application/json"}, "too_large"),
        ("POST", "/predict", b'{"jsonData": {}}', {"Content-Type": "application/json", "X-Request-Deadline-Ms": "soon"}, "invalid_request"),
        ("POST", "/predict", b'{"jsonData": {}}', {"Content-Type": "application/json", "X-Request-Deadline-Ms": "0"}, "deadline_exceeded"),
        ("POST", "/predict", b'{"jsonData": {"sleep": 5}}', {"Content-Type": "application/json", "X-Request-Deadline-Ms": "50"}, "deadline_exceeded"),
        ("POST", "/predict", b'{"jsonData": {"full": 1}}', {"Content-Type": "application/json"}, "overloaded"),
    ],
)
async def test_every_error_has_its_code_and_status(client: httpx.AsyncClient, method: str, path: str, body: bytes, headers: dict[str, str], code: str) -> None:
    reply = await client.request(method, path, content=body, headers=headers)
    problem = reply.json()
    assert problem["code"] == code
    assert reply.status_code == problem["status"] == next(c for c in ErrorCode if c.code == code).status
    assert reply.headers["content-type"] == "application/problem+json"
    assert problem["request_id"] == reply.headers["X-Request-Id"]
    assert ("Retry-After" in reply.headers) == (code == "overloaded")


async def test_a_body_is_not_read_past_the_limit(client: httpx.AsyncClient) -> None:
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        while sent < 50_000_000:
            sent += 1_000
            yield b" " * 1_000

    reply = await client.post("/predict", content=endless(), headers={"Content-Type": "application/json"})
    assert reply.status_code == 413
    assert sent < 50_000_000


async def test_a_caller_who_stops_sending_is_let_go_at_the_deadline(client: httpx.AsyncClient) -> None:
    async def stalled() -> Any:
        yield b'{"jsonData": '
        await asyncio.sleep(60)

    reply = await client.post("/predict", content=stalled(), headers={"Content-Type": "application/json", "X-Request-Deadline-Ms": "50"}, timeout=20)
    assert (reply.status_code, reply.json()["code"]) == (504, "deadline_exceeded")


async def test_a_crash_tells_nothing_and_logs_no_words(client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    client._transport.raise_app_exceptions = False  # type: ignore[attr-defined]
    with caplog.at_level(logging.ERROR):
        reply = await post(client, {"crash": SECRET})
    assert reply.status_code == 500
    assert reply.json()["code"] == "internal"
    assert SECRET not in reply.text
    lines = [JsonFormatter("echo").format(r) for r in caplog.records if r.name == "quarry"]
    assert lines and not any(SECRET in line for line in lines)
    assert json.loads(lines[0])["error.type"] == "RuntimeError"


async def test_metrics_count_by_outcome(client: httpx.AsyncClient) -> None:
    await post(client, {})
    await post(client, {"full": 1})
    text = (await client.get("/metrics")).text
    assert 'quarry_requests_total{code="ok"} 1.0' in text
    assert 'quarry_requests_total{code="overloaded"} 1.0' in text
    assert "quarry_requests_in_flight 0.0" in text


async def test_not_ready_while_loading() -> None:
    gate = asyncio.Event()
    loop = asyncio.get_running_loop()

    def load(_: CollectorRegistry) -> Echo:
        asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(10)
        return Echo()

    app = create_app(ServerSettings("echo"), load, lambda reason: pytest.fail(reason))
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://echo") as client:
        assert (await client.get("/health/status")).status_code == 503
        assert (await client.get("/health/ping")).status_code == 200
        assert (await post(client, {})).json()["code"] == "not_ready"
        gate.set()
        while (await client.get("/health/status")).status_code != 200:
            await asyncio.sleep(0.01)
        app.state.quarry.stopping = True
        assert (await client.get("/health/status")).status_code == 503
        assert (await post(client, {})).status_code == 200, "what is still sent is still answered"


# --- as a real process ---

MODULE = """
import asyncio, sys, time
from quarry_runtime.server import serve
from quarry_runtime.settings import ServerSettings
sys.path.insert(0, {tests!r})
from echo import Echo
def load(registry):
    {load}
serve(ServerSettings("echo", port={port}, load_timeout_sec=1.0, lame_duck_sec={lame_duck}), load)
"""


def start(load: str, lame_duck: float = 0.0) -> "tuple[subprocess.Popen[bytes], str]":
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = MODULE.format(tests=str(Path(__file__).parent), load=load, port=port, lame_duck=lame_duck)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT), f"http://127.0.0.1:{port}"


def wait_ready(url: str, process: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        assert process.poll() is None
        try:
            if httpx.get(f"{url}/readyz", verify=PLAIN).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError("never ready")


@pytest.mark.parametrize(
    "load",
    ["raise AttributeError", "raise NotImplementedError", "raise SystemExit(0)", "raise MemoryError", "raise KeyboardInterrupt", "time.sleep(60)", "1 / 0"],
)
def test_whatever_goes_wrong_in_loading_ends_the_process_unready(load: str) -> None:
    process, url = start(load)
    seen = set()
    while process.poll() is None:
        try:
            seen.add(httpx.get(f"{url}/readyz", timeout=1, verify=PLAIN).status_code)
        except httpx.TransportError:
            time.sleep(0.02)
    output = process.communicate(timeout=30)[0].decode()
    assert process.returncode not in (0, None)
    assert seen <= {503}
    assert "the model was not loaded" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("lame_duck", [0.0, 1.0])
def test_sigterm_finishes_what_is_in_flight(lame_duck: float) -> None:
    process, url = start("return Echo()", lame_duck)
    wait_ready(url, process)

    async def scenario() -> list[int]:
        async with httpx.AsyncClient(base_url=url, timeout=30, verify=PLAIN) as client:
            calls = [asyncio.ensure_future(post(client, {"sleep": 1.5})) for _ in range(20)]
            await asyncio.sleep(0.7)
            os.kill(process.pid, signal.SIGTERM)
            if lame_duck:
                await asyncio.sleep(0.2)
                assert (await client.get("/readyz")).status_code == 503
                assert (await post(client, {})).status_code == 200
            return [(await c).status_code for c in calls]

    assert asyncio.run(scenario()) == [200] * 20
    ended = time.monotonic()
    process.communicate(timeout=20)
    assert time.monotonic() - ended < 5 + lame_duck
    assert process.returncode == 0


def test_a_connection_taken_before_sigterm_is_answered_though_its_request_comes_after() -> None:
    process, url = start("return Echo()")
    wait_ready(url, process)
    body = b'{"jsonData": {}}'
    head = f"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=20) as connection:
        time.sleep(0.3)  # taken by the server, not only by the kernel
        os.kill(process.pid, signal.SIGTERM)
        time.sleep(0.4)
        connection.sendall(head.encode() + body)
        reply = b"".join(iter(lambda: connection.recv(65_536), b""))
    process.communicate(timeout=20)
    assert reply.startswith(b"HTTP/1.1 200 ")
    assert process.returncode == 0


class HeldUp(Server):
    """Told to stop just after callers came, while each turn of its loop, in which one of them is taken, is as long as it waits for callers."""

    async def main_loop(self) -> None:
        address = self.servers[0].sockets[0].getsockname()
        self.callers = [socket.create_connection(address, timeout=20) for _ in range(6)]
        for caller in self.callers:
            caller.sendall(b"GET /health/ping HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        self.hold_up(10)

    def hold_up(self, turns: int) -> None:
        time.sleep(ACCEPT_SEC)
        if turns:
            asyncio.get_running_loop().call_soon(self.hold_up, turns - 1)


def test_who_waits_at_the_port_is_answered_though_the_loop_is_held_up() -> None:
    settings = ServerSettings("echo", host="127.0.0.1", port=0)
    app = create_app(settings, lambda _: Echo(), lambda reason: pytest.fail(reason))
    server = HeldUp(uvicorn_config(app, settings), settings, app.state.quarry)
    server.run()
    replies = []
    for caller in server.callers:
        with caller:
            replies.append(caller.recv(65_536)[:13])
    assert replies == [b"HTTP/1.1 200 "] * 6


def test_a_caller_who_leaves_cancels_the_work() -> None:
    process, url = start("return Echo()")
    wait_ready(url, process)
    try:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/predict", json={"jsonData": {"sleep": 30}}, timeout=0.3, verify=PLAIN)
        until = time.monotonic() + 10
        while 'code="cancelled"} 1.0' not in httpx.get(f"{url}/metrics", verify=PLAIN).text:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert "quarry_requests_in_flight 0.0" in httpx.get(f"{url}/metrics", verify=PLAIN).text
    finally:
        process.terminate()
        process.communicate(timeout=20)
