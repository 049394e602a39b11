"""The gateway as a real process over real HTTP: start, bad starts, and stopping under load."""

import asyncio
import os
import socket
import ssl
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import httpx
import pytest

from .conftest import StandIn
from .forked import forked

# Without it, httpx reads the certificates of all authorities for each call, which takes longer than the call.
PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def told(release: Path, upstream: StandIn, **extra: str) -> tuple[dict[str, str], str]:
    """The environment of a gateway, and its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    values = {"PORT": str(port), "RELEASE": str(release), "READER_URL": upstream.urls["reader"], "RETRIEVER_URL": upstream.urls["retriever"], **extra}
    return os.environ | {f"QUARRY_GATEWAY_{name}": value for name, value in values.items()}, f"http://127.0.0.1:{port}"


def start(release: Path, upstream: StandIn, **extra: str) -> tuple[BaseProcess, str]:
    """A gateway that writes to the file `log` beside the release; its process and address."""
    environment, url = told(release, upstream, **extra)
    return forked("quarry_gateway", environment, release.with_name("log")), url


def wait_ready(url: str) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            if httpx.get(f"{url}/readyz", verify=PLAIN).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError("never ready")


def test_sigterm_under_load_loses_no_accepted_request(release: Path, upstream: StandIn) -> None:
    async def slow(_: Any) -> None:
        await asyncio.sleep(0.3)

    upstream.reader_fault = slow
    process, url = start(release, upstream)
    wait_ready(url)

    async def caller(client: httpx.AsyncClient, outcomes: list[str]) -> None:
        while True:
            try:
                outcomes.append(str((await client.post("/v1/answers", json={"question": "When?"})).status_code))
            except httpx.ConnectError:
                outcomes.append("refused")
                return

    async def scenario() -> list[str]:
        outcomes: list[str] = []
        limits = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=url, timeout=30, limits=limits, verify=PLAIN) as client:
            callers = [asyncio.ensure_future(caller(client, outcomes)) for _ in range(12)]
            await asyncio.sleep(1.2)
            process.terminate()
            await asyncio.gather(*callers)
        return outcomes

    outcomes = asyncio.run(scenario())
    ended = time.monotonic()
    process.join(20)
    assert time.monotonic() - ended < 5
    assert process.exitcode == 0
    assert set(outcomes) == {"200", "refused"}
    assert outcomes.count("200") >= 12


def test_a_connection_taken_before_sigterm_is_answered_though_its_request_comes_after(release: Path, upstream: StandIn) -> None:
    process, url = start(release, upstream)
    wait_ready(url)
    body = b'{"question": "When?"}'
    head = f"POST /v1/answers HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=20) as connection:
        time.sleep(0.3)  # taken by the server, not only by the kernel
        process.terminate()
        time.sleep(0.4)
        connection.sendall(head.encode() + body)
        reply = b"".join(iter(lambda: connection.recv(65_536), b""))
    process.join(20)
    assert reply.startswith(b"HTTP/1.1 200 ")
    assert process.exitcode == 0


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({"RELEASE": "/nowhere/release.json"}, "release.json cannot be read"),
        ({"PIPELINE": "/nowhere/p.yaml"}, "p.yaml is not a pipeline"),
        ({"PORT": "eighty"}, "QUARRY_GATEWAY_PORT must be a number from 1 to 65535"),
        ({"DEADLINE_MS": "-1"}, "QUARRY_GATEWAY_DEADLINE_MS must be a number"),
        ({"AUTH": "jwt"}, "QUARRY_GATEWAY_AUTH=jwt needs QUARRY_GATEWAY_JWKS"),
        ({"AUTH": "jwt", "JWKS": "/nowhere/jwks.json", "ISSUER": "i", "AUDIENCE": "a"}, "the JWKS file cannot be read"),
    ],
)
def test_a_wrong_setting_is_told_and_nothing_is_started(release: Path, upstream: StandIn, extra: dict[str, str], says: str) -> None:
    process, _ = start(release, upstream, **extra)
    process.join(60)
    output = release.with_name("log").read_text()
    assert process.exitcode not in (0, None)
    assert says in output
    assert "Traceback" not in output
