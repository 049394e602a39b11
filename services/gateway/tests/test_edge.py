"""Only by the edge: whoever does not bring one of its keys gets 401, on every route but those that probes and Prometheus ask."""

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from quarry_gateway.app import create_app
from quarry_gateway.edge import HEADER_EDGE, EdgeError
from quarry_gateway.settings import Settings

from .conftest import StandIn
from .test_access import routes
from .test_auth import running

SENT, OTHER = "a" * 40, "b" * 40
QUESTION = {"question": "q"}
PROBED = {"/healthz", "/readyz", "/metrics"}


def write(path: Path, *keys: str) -> None:
    """As Kubernetes exchanges a mounted secret: whole, by rename."""
    new = path.with_suffix(".new")
    new.write_text("\n".join(keys) + "\n")
    new.replace(path)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    write(tmp_path / "edge-keys", SENT, OTHER)
    return tmp_path / "edge-keys"


@pytest.fixture
async def client(settings: Settings, keys: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with running(replace(settings, edge_keys=keys)) as made:
        yield made


async def status(client: httpx.AsyncClient, *given: str) -> int:
    return (await client.post("/v1/answers", json=QUESTION, headers=[(HEADER_EDGE, key) for key in given])).status_code


@pytest.mark.parametrize("key", [SENT, OTHER])
async def test_both_keys_are_taken(client: httpx.AsyncClient, key: str) -> None:
    assert await status(client, key) == 200


@pytest.mark.parametrize("given", [(), ("",), ("c" * 40,), (SENT[:-1],), (SENT + "a",), (SENT, SENT), ("wrong", SENT), (f"{SENT}, {SENT}",), ("é" * 40,)])
async def test_a_bypass_is_refused(client: httpx.AsyncClient, upstream: StandIn, given: tuple[str, ...]) -> None:
    upstream.calls.clear()
    headers = [(HEADER_EDGE.encode(), key.encode()) for key in given]
    reply = await client.post("/v1/answers", json=QUESTION, headers=headers)
    assert (reply.status_code, reply.json()["code"], upstream.calls) == (401, "unauthorised", [])
    assert reply.headers["X-Request-Id"] == reply.json()["request_id"]
    assert not any(key and key in reply.text for key in (SENT, OTHER, *given))
    assert "quarry_gateway_bypasses_refused_total 1.0" in (await client.get("/metrics")).text


async def test_every_route_but_the_probes_asks_for_it(client: httpx.AsyncClient, settings: Settings, keys: Path) -> None:
    for method, path in routes(create_app(replace(settings, edge_keys=keys))):
        reply = await client.request("GET" if method == "mount" else method, path)
        assert (reply.status_code == 401) == (path not in PROBED), path
    for path in ("/healthz/", "//healthz", "/healthz/../v1/answers", "/nowhere", "/Metrics"):
        assert (await client.get(path)).status_code == 401, path


async def test_keys_are_changed_without_a_restart(client: httpx.AsyncClient, keys: Path) -> None:
    new = "n" * 40
    write(keys, SENT, new)
    assert [await status(client, key) for key in (SENT, OTHER, new)] == [200, 401, 200]
    write(keys, new)
    assert [await status(client, key) for key in (SENT, new)] == [401, 200]


async def test_a_broken_file_changes_nothing(client: httpx.AsyncClient, keys: Path) -> None:
    for text in ("", "short\n", "\n\n"):
        keys.write_text(text)
        os.utime(keys, ns=(1, hash(text) % 10**9))
        assert [await status(client, key) for key in (SENT, OTHER, text.strip())] == [200, 200, 401]
    keys.unlink()
    assert await status(client, SENT) == 200


@pytest.mark.parametrize("text", [None, "", "short\n", "ü" * 40])
def test_it_does_not_start_with_a_file_that_cannot_be_used(settings: Settings, tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "edge-keys"
    if text is not None:
        path.write_text(text)
    with pytest.raises(EdgeError, match="edge keys"):
        create_app(replace(settings, edge_keys=path))


def test_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.from_environment().edge_keys is None
    monkeypatch.setenv("QUARRY_GATEWAY_EDGE_KEYS", "/run/edge-keys")
    assert Settings.from_environment().edge_keys == Path("/run/edge-keys")
