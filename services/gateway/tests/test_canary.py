"""A candidate release beside the live one: the same callers always, whole answers of one release, and questions mirrored to compare."""

import asyncio
import base64
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest
from quarry_contract.messages import AnswerResponse

from quarry_gateway.auth import claimed
from quarry_gateway.mirror import AT_ONCE, agreement
from quarry_gateway.releases import place_of
from quarry_gateway.settings import Settings

from .conftest import problem, span
from .test_gateway import ask
from .test_releases import Two, gateway, two, until  # noqa: F401 - a fixture

CALLERS = [f"10.0.{i // 250}.{i % 250}" for i in range(400)]


def from_address(caller: str) -> dict[str, str]:
    return {"X-Forwarded-For": f"{caller}, 172.16.0.1"}


def bearer(subject: object) -> str:
    claims = base64.urlsafe_b64encode(json.dumps({"sub": subject}).encode()).rstrip(b"=").decode()
    return f"Bearer e30.{claims}.c2ln"


async def counted(client: httpx.AsyncClient, sample: str) -> float:
    lines = (await client.get("/metrics")).text.splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(sample + " ")), 0.0)


async def wait(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not await condition():
            await asyncio.sleep(0.02)


async def test_a_share_of_the_callers_is_answered_by_the_candidate_and_always_the_same_ones(two: Two) -> None:  # noqa: F811
    a, b = two.ids["a"], two.ids["b"]
    two.route("a", "b", share=0.25)
    async with gateway(Settings(routes=two.table)) as client:

        async def chosen() -> set[str]:
            replies = [(c, await client.get("/v1/releases/current", headers=from_address(c))) for c in CALLERS]
            assert {r.headers["X-Quarry-Release"] for _, r in replies} == {a, b}
            assert all(r.json()["release_id"] == r.headers["X-Quarry-Release"] for _, r in replies)
            return {c for c, r in replies if r.json()["release_id"] == b}

        few = await chosen()
        assert few == await chosen() == {c for c in CALLERS if place_of(c, b) < 0.25}
        assert 0.15 < len(few) / len(CALLERS) < 0.35  # six standard deviations
        two.route("a", "b", share=0.6)
        await until(client, lambda s: s["share"] == 0.6)
        assert few < await chosen()
        caller = next(iter(few))
        reply = await ask(client, headers=from_address(caller))
        assert (reply.json()["release_id"], reply.json()["answers"][0]["text"]) == (b, "The rest is silence")
        assert {kind for kind, *_ in two.services["b"].calls} == {"retriever", "reader"}
        assert two.services["a"].calls == []
        two.route("a")
        await until(client, lambda s: s["candidate"] is None)
        assert (await ask(client, headers=from_address(caller))).json()["release_id"] == a
        assert await counted(client, f'quarry_release_answers_total{{code="ok",release="{b}"}}') == 1


async def test_a_candidate_that_does_not_fit_gets_nobody_until_it_does(two: Two) -> None:  # noqa: F811
    two.services["b"].ready = False
    two.route("a", "b", share=1.0)
    async with gateway(Settings(routes=two.table)) as client:
        found = await until(client, lambda s: s["refused"] is not None)
        assert (found["live"], found["candidate"], found["share"]) == (two.ids["a"], None, 0.0)
        assert (await ask(client)).json()["release_id"] == two.ids["a"]
        two.services["b"].ready = True
        await until(client, lambda s: s["candidate"] == two.ids["b"] and s["refused"] is None)
        assert (await ask(client)).json()["release_id"] == two.ids["b"]


async def test_a_promoted_candidate_keeps_its_connections_and_the_live_one_drains(two: Two) -> None:  # noqa: F811
    two.route("a", "b", share=1.0)
    async with gateway(Settings(routes=two.table)) as client:
        await ask(client)
        before = two.services["b"].connections()
        two.route("b")
        found = await until(client, lambda s: s["live"] == two.ids["b"])
        assert (found["candidate"], found["draining"]) == (None, [])
        await ask(client)
        assert 0 < two.services["b"].connections() <= before


async def test_mirrored_questions_are_compared_and_never_seen(two: Two) -> None:  # noqa: F811
    a = two.services["a"]
    two.route("a", "b", mirror=1.0)
    outcomes = {
        "other": (a.spans, [span("The rest is silence")]),
        "same": ([span()], [span()]),
        "only_live": ([span()], []),
        "only_candidate": ([], [span()]),
        "both_abstained": ([], []),
    }
    async with gateway(Settings(routes=two.table)) as client:
        for outcome, (a.spans, two.services["b"].spans) in outcomes.items():
            reply = await ask(client)
            assert reply.json()["release_id"] == two.ids["a"]
            assert [x["text"] for x in reply.json()["answers"]] == [s["text"] for s in a.spans]

            async def seen(sample: str = f'quarry_mirrored_total{{outcome="{outcome}"}}') -> bool:
                return await counted(client, sample) == 1

            await wait(seen)
        assert await counted(client, f'quarry_release_abstained_total{{release="{two.ids["a"]}"}}') == 2
        assert await counted(client, f'quarry_release_answers_total{{code="ok",release="{two.ids["b"]}"}}') == 0
        assert await counted(client, 'quarry_mirrored_seconds_count{role="candidate"}') == len(outcomes)
        two.services["b"].reader_fault = two.services["b"].retriever_fault = _broken
        assert (await ask(client)).status_code == 200

        async def failed() -> bool:
            return await counted(client, 'quarry_mirrored_total{outcome="failed"}') == 1

        await wait(failed)


async def _broken(_: Any) -> Any:
    return problem("internal", 500)


async def test_a_slow_candidate_is_asked_few_questions_at_once_and_nobody_waits(two: Two) -> None:  # noqa: F811
    two.route("a", "b", mirror=1.0)
    go_on = asyncio.Event()

    async def slow(_: Any) -> None:
        while not go_on.is_set():
            await asyncio.sleep(0.01)

    two.services["b"].retriever_fault = slow
    async with gateway(Settings(routes=two.table)) as client:
        for _ in range(AT_ONCE + 3):
            assert (await ask(client)).status_code == 200
        assert await counted(client, 'quarry_mirrored_total{outcome="skipped"}') == 3
        two.route("a")
        assert (await until(client, lambda s: s["candidate"] is None))["draining"] == [two.ids["b"]]
        go_on.set()
        await until(client, lambda s: s["draining"] == [])
        assert await counted(client, 'quarry_mirrored_total{outcome="other"}') == AT_ONCE


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer a.b.c", "Bearer a.!!!.c", "Bearer e30.W10.x", "Bearer e30.e30.x", "Bearer e30.W1tb.x", "\xff.\xff"])
def test_a_token_that_is_none_claims_nothing(header: str) -> None:
    assert claimed(header) is None


def test_the_same_subject_is_the_same_caller_whatever_the_token() -> None:
    assert claimed(bearer("anna")) == "anna"
    assert claimed(bearer(7)) == "7"


def test_each_candidate_is_tried_by_other_callers() -> None:
    first, second = ({c for c in CALLERS if place_of(c, candidate) < 0.2} for candidate in ("x", "y"))
    assert first != second
    assert 0 <= place_of("\udcff", "x") < 1


def test_agreement_is_of_the_first_answers_words() -> None:
    none = AnswerResponse((), True, "r", "q", "no_answer")
    assert agreement(none, replace(none, release_id="s")) == "both_abstained"
