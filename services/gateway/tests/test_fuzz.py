"""20,000 mutated bodies: 8,000 over HTTP to the real process, which also reads what is no JSON, the others in this process, without a server in between."""

import asyncio
import json
import logging
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from quarry_gateway.app import create_app
from quarry_gateway.settings import Settings

from .conftest import StandIn
from .test_process import PLAIN, start, wait_ready

MARK = "unmistakable"
QUESTION = {"question": f"When is {MARK}? \u00fc \U0001f600", "top_k": 2, "retrieval": "bm25", "filters": {"format": ["pdf"]}}
SEED = json.dumps(QUESTION, ensure_ascii=False).encode()
PIECES = [b"\x00", b"\xff", b"\\ud83d", b"NaN", b"1e999", b"null", b"{}", b"[[", b'"', b"}", b"9" * 30, b"true", b"-1", b"\\"]
CONNECTIONS = 4
PATHS = ("/v1/answers", "/v1/search")


def mutated(seed: int, number: int) -> Iterator[bytes]:
    """Bodies with one to four changes each."""
    rng = random.Random(seed)
    for _ in range(number):
        body = bytearray(SEED)
        for _ in range(rng.randint(1, 4)):
            at = rng.randint(0, len(body))
            change = rng.random()
            if change < 0.4:
                body[at:at] = rng.choice(PIECES)
            elif change < 0.7:
                del body[at : at + rng.randint(1, 9)]
            else:
                body[min(at, len(body) - 1)] = rng.randrange(256)
        yield bytes(body)


def check(counts: Counter[int]) -> None:
    """Refused mostly, answered sometimes, and nothing else."""
    assert all(status < 500 for status in counts), counts
    assert counts[400] > counts.total() / 2 and counts[200] > counts.total() / 200, counts


async def asgi_status(app: FastAPI, path: str, body: bytes) -> int:
    """A POST as the server would pass it on. No client in between: it takes as long as the application. The reply is looked at for what was sent."""
    came, status = [{"type": "http.request", "body": body, "more_body": False}], 0

    async def receive() -> Any:
        return came.pop() if came else await asyncio.Future()  # nobody leaves

    async def send(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)
        assert MARK.encode() not in message.get("body", b""), body

    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http", "query_string": b"", "headers": headers}
    place = {"path": path, "raw_path": path.encode(), "root_path": "", "client": ("127.0.0.1", 1), "server": ("quarry", 80)}
    await app({**scope, **place}, receive, send)
    return status


async def test_in_process(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        for seed, path in enumerate(PATHS, 8):
            check(Counter([await asgi_status(app, path, body) for body in mutated(seed, 6_000)]))


async def exchange(port: int, path: str, bodies: Iterator[bytes]) -> Counter[int]:
    """All on one connection; the statuses. Each reply is looked at for what was sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    counts: Counter[int] = Counter()
    for body in bodies:
        writer.write(b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(body)) + body)
        head = await reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        reply = head + await reader.readexactly(size)
        assert MARK.encode() not in reply and b"Traceback" not in reply, body
        counts[int(head.split(b" ", 2)[1])] += 1
    writer.close()
    await writer.wait_closed()
    return counts


def test_over_http(release: Path, upstream: StandIn) -> None:
    process, url = start(release, upstream)
    try:
        wait_ready(url)

        async def all_at_once() -> list[Counter[int]]:
            port = int(url.rpartition(":")[2])
            each = 8_000 // CONNECTIONS
            return await asyncio.gather(*(exchange(port, PATHS[n % 2], mutated(n, each)) for n in range(CONNECTIONS)))

        counts = asyncio.run(all_at_once())
        for one in counts:
            check(one)
        assert sum(one.total() for one in counts) == 8_000
        assert httpx.get(f"{url}/readyz", verify=PLAIN).status_code == 200
        process.terminate()
        process.join(60)
        assert process.exitcode == 0
    finally:
        process.kill()
    printed = release.with_name("log").read_text()
    assert printed.count("\n") >= 8_000 and "Traceback" not in printed and MARK not in printed
