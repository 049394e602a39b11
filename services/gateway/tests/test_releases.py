"""Switching releases by the routing table: whole, refused, or finished on the release a request began with."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from quarry_contract.manifests import write_manifest
from quarry_contract.releases import Route, RoutingTable

from quarry_gateway.app import create_app
from quarry_gateway.settings import Settings

from .conftest import DIGEST, StandIn, serving, span, write_release
from .test_gateway import ask
from .test_process import PLAIN, start, wait_ready


@dataclass(frozen=True)
class Two:
    """Two releases, `a` and `b` by id, each behind stand-ins of its own, and the routing table."""

    folder: Path
    ids: dict[str, str]
    services: dict[str, StandIn]

    @property
    def table(self) -> Path:
        return self.folder / "routes.json"

    def route(self, name: str, candidate: str | None = None, share: float = 0.0, mirror: float = 0.0) -> None:
        """Make it the live one, and the other a candidate."""
        routes = {self.ids[n]: Route(f"{n}.json", s.urls["retriever"], s.urls["reader"]) for n, s in self.services.items()}
        write_manifest(self.table, RoutingTable(self.ids[name], routes, self.ids[candidate] if candidate else None, share, mirror))


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    ids = {"a": write_release(tmp_path / "a.json")[1], "b": write_release(tmp_path / "b.json", "g2")[1]}
    other = StandIn(spans=[span("The rest is silence")])
    other.custom |= {"generation": "g2"}
    with serving(StandIn()) as first, serving(other) as second:
        made = Two(tmp_path, ids, {"a": first, "b": second})
        made.route("a")
        yield made


@asynccontextmanager
async def gateway(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://quarry", timeout=30) as made:
        yield made


async def state(client: httpx.AsyncClient) -> dict[str, Any]:
    return dict((await client.get("/v1/releases")).json())


async def until(client: httpx.AsyncClient, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    async with asyncio.timeout(120):
        while not wanted(found := await state(client)):
            await asyncio.sleep(0.05)
    return found


async def test_a_request_in_flight_finishes_on_the_release_it_began_with(two: Two) -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()
    here = asyncio.get_running_loop()

    async def slow(_: Any) -> None:
        here.call_soon_threadsafe(reached.set)
        while not go_on.is_set():
            await asyncio.sleep(0.01)

    two.services["a"].reader_fault = slow
    async with gateway(Settings(routes=two.table)) as client:
        first = asyncio.create_task(ask(client))
        await reached.wait()
        two.route("b")
        found = await until(client, lambda s: s["live"] == two.ids["b"])
        assert (found["draining"], found["refused"]) == ([two.ids["a"]], None)
        second = await ask(client)
        assert second.json()["answers"][0]["text"] == "The rest is silence"
        assert second.json()["release_id"] == second.headers["X-Quarry-Release"] == two.ids["b"]
        assert (first.done(), two.services["a"].connections() > 0) == (False, True)
        go_on.set()
        reply = await first
        assert reply.json()["answers"][0]["text"] == "14 m/s"
        assert reply.json()["release_id"] == reply.headers["X-Quarry-Release"] == two.ids["a"]
        assert (await state(client))["draining"] == []
        async with asyncio.timeout(120):
            while two.services["a"].connections():
                await asyncio.sleep(0.02)
        assert two.services["b"].connections()
    asked = {name: ["documents" if "documents" in c[1]["jsonData"] else c[0] for c in s.calls] for name, s in two.services.items()}
    assert asked == {"a": ["retriever", "reader", "documents"], "b": ["retriever", "reader", "documents"]}


async def test_every_v1_reply_names_its_release_errors_too(two: Two) -> None:
    async with gateway(Settings(routes=two.table)) as client:
        asked = [("POST", "/v1/search", 415), ("GET", "/v1/nope", 404), ("GET", "/v1/documents/x", 404), ("GET", "/v1/releases/current", 200)]
        for method, path, status in asked:
            reply = await client.request(method, path)
            assert (reply.status_code, reply.headers["X-Quarry-Release"]) == (status, two.ids["a"])
        assert "X-Quarry-Release" not in (await client.get("/healthz")).headers


def edited(two: Two) -> None:
    text = (two.folder / "b.json").read_text()
    (two.folder / "b.json").write_text(text.replace('"threshold": 0.5', '"threshold": 0.1'))
    two.route("b")


def misnamed(two: Two) -> None:
    (two.folder / "b.json").write_text((two.folder / "a.json").read_text())
    two.route("b")


def another(two: Two, **custom: str) -> None:
    two.services["b"].custom |= custom
    two.route("b")


REFUSALS: dict[str, Callable[[Two], Any]] = {
    "routes.json is not a routing table: the body is not valid JSON": lambda t: t.table.write_text("{"),
    "releases has no route for the live release": lambda t: t.table.write_text('{"live": "x", "releases": {}}'),
    "candidate must be a release that has a route": lambda t: t.route("a", "a"),
    "share and mirror must be from 0 to 1": lambda t: t.route("a", "b", share=1.5),
    "must begin with http": lambda t: t.table.write_text('{"live": "x", "releases": {"x": {"release": "a.json", "retriever_url": "", "reader_url": ""}}}'),
    "routes.json cannot be read": lambda t: t.table.unlink(),
    "its content is another: it was changed": edited,
    "b.json is release": misnamed,
    "retriever (another digest than release": lambda t: another(t, digest="0" * 64),
    "retriever (another generation than release": lambda t: another(t, generation="g1"),
    "not ready: retriever, reader": lambda t: (setattr(t.services["b"], "ready", False), t.route("b")),
}


@pytest.mark.parametrize("says", REFUSALS)
async def test_what_does_not_fit_is_refused_and_the_old_release_goes_on(two: Two, says: str) -> None:
    async with gateway(Settings(routes=two.table)) as client:
        REFUSALS[says](two)
        found = await until(client, lambda s: s["refused"] is not None)
        assert says in found["refused"]
        assert (found["live"], found["draining"]) == (two.ids["a"], [])
        assert (await ask(client)).json()["release_id"] == two.ids["a"]
        assert "quarry_gateway_routing_refused_total 1.0" in (await client.get("/metrics")).text
        assert (await client.get("/readyz")).status_code == 200
        two.route("a")
        assert (await until(client, lambda s: s["refused"] is None))["live"] == two.ids["a"]


async def test_a_refused_release_is_taken_once_its_services_fit(two: Two) -> None:
    two.services["a"].ready = False
    async with gateway(Settings(routes=two.table)) as client:
        reply = await ask(client)
        assert (reply.status_code, reply.json()["code"]) == (503, "not_ready")
        assert (await client.get("/readyz")).status_code == 503
        two.services["a"].ready = True
        await until(client, lambda s: s["live"] == two.ids["a"])
        assert (await ask(client)).status_code == 200


async def test_services_restarted_behind_the_release_do_not_answer_for_it(two: Two) -> None:
    async with gateway(Settings(routes=two.table)) as client:
        two.services["a"].model = f"reader@{DIGEST[:12]}"
        assert (await ask(client)).json()["answers"]
        two.services["a"].model = "models:/reader/2"
        assert (await ask(client)).json()["degraded"] == ["reader"]
        two.services["a"].custom["generation"] = "g9"
        assert "another generation" in (await client.get("/readyz")).json()["detail"]
        for reply in (await ask(client), await client.post("/v1/search", json={"question": "q"})):
            assert (reply.status_code, reply.json()["code"]) == (502, "upstream_failed")


def test_a_process_follows_the_table_and_outlives_sighup(two: Two, release: Path) -> None:
    process, url = start(release, two.services["a"], ROUTES=str(two.table))
    try:
        wait_ready(url)
        two.route("b")
        assert process.pid
        os.kill(process.pid, signal.SIGHUP)
        with httpx.Client(base_url=url, verify=PLAIN) as client:
            while client.get("/v1/releases").json()["live"] != two.ids["b"]:
                time.sleep(0.05)
            assert client.post("/v1/answers", json={"question": "What is the rest?"}).json()["release_id"] == two.ids["b"]
            assert f'quarry_gateway_release_info{{release="{two.ids["b"]}",role="live"}} 1.0' in client.get("/metrics").text
        process.terminate()
        process.join(20)
        assert process.exitcode == 0
    finally:
        process.kill()
