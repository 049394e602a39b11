"""Our services as pods, under the security context they have in a cluster."""

import json
import threading
import time
import urllib.parse
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from e2e.machine import QUESTIONS

from .world import Request, World, asked, get

PAUSE_SEC = 0.02  # between one caller's questions: a refusal comes at once, and the processors are needed by what starts again
PODS = ["quarry-gateway", "quarry-reader", "quarry-retriever"]
# In the container: every folder there is, and what comes of writing into it. /dev, /proc and /sys are the runtime's.
WRITE_EVERYWHERE = """
import json, os
written = []
for folder, names, _ in os.walk("/"):
    names[:] = [n for n in names if os.path.join(folder, n) not in ("/dev", "/proc", "/sys")]
    try:
        path = os.path.join(folder, "written")
        open(path, "w").close()
        os.remove(path)
        written.append(folder)
    except OSError:
        pass
print(json.dumps(written))
"""


class Callers:
    """Threads that ask until the block ends."""

    def __init__(self, world: World, threads: int = 3) -> None:
        self.replies: list[tuple[str, int, dict[str, Any]]] = []
        self._world, self._over = world, threading.Event()
        self._url = world.answers_url()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(threads)]

    def __enter__(self) -> "Callers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)

    def _ask(self, number: int) -> None:
        while not self._over.is_set():
            question = QUESTIONS[number % len(QUESTIONS)]
            number += 1
            self.replies.append((question, *get(self._url, asked(question))))
            time.sleep(PAUSE_SEC)


def until(reached: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, "not reached"
        time.sleep(0.2)  # podman itself is a process to start


def without_id(reply: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in reply.items() if k != "request_id"}


@pytest.fixture(scope="module")
def expected(world: World) -> dict[str, dict[str, Any]]:
    return {question: without_id(world.ask(question)[1]) for question in QUESTIONS}


def test_a_question_through_the_gateway_is_answered_with_its_evidence(world: World) -> None:
    for question in QUESTIONS:
        status, reply = world.ask(question)
        assert (status, reply["release_id"], reply["degraded"]) == (200, world.release, []), reply
        best = reply["answers"][0]
        cited = best["citations"][0]
        where = f"{urllib.parse.quote(cited['document_id'])}?start={cited['start']}&end={cited['end']}"
        _, document = get(f"http://{world.address('quarry-gateway')}:8080/v1/documents/{where}")
        assert best["text"]
        assert document["text"] == cited["text"] == best["text"]


def test_what_helm_test_runs_finds_the_answer_in_its_document(world: World) -> None:
    pod = world.once["quarry-question"]
    world.start(pod)
    [container] = pod.containers
    ended = world.engine.podman("wait", container)
    said = world.engine.podman("logs", container)
    assert (ended, f"(release {world.release})" in said) == ("0", True), said


@pytest.mark.parametrize("pod", PODS)
def test_every_probe_is_answered_and_asks_what_is_there(world: World, pod: str) -> None:
    assert {kind: world.probe(pod, kind) for kind in ("startupProbe", "readinessProbe", "livenessProbe")} == dict.fromkeys(
        ("startupProbe", "readinessProbe", "livenessProbe"), 200
    )


@pytest.mark.parametrize("pod", PODS)
def test_no_process_is_root_or_can_become_more_than_it_is(world: World, pod: str) -> None:
    cgroup = Path(f"/proc/{world.pid(pod)}/cgroup").read_text()
    same = [path.parent for path in Path("/proc").glob("[0-9]*/cgroup") if _text(path) == cgroup]
    assert same
    for process in same:
        status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line)
        assert status["Uid"].split() == status["Gid"].split() == ["65532"] * 4
        assert {status[name] for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {"0" * 16}
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


@pytest.mark.parametrize("pod", PODS)
def test_nothing_but_tmp_can_be_written(world: World, pod: str) -> None:
    written = json.loads(world.engine.podman("exec", world.container(pod), "python3", "-c", WRITE_EVERYWHERE))
    assert "/tmp" in written
    assert all(Path(folder).is_relative_to("/tmp") for folder in written), written


def test_while_a_killed_reader_is_away_passages_are_shown_and_then_answers_again(world: World, expected: dict[str, dict[str, Any]]) -> None:
    before = world.restarts("quarry-reader")
    with Callers(world) as callers:
        until(lambda: len(callers.replies) > 10)
        world.kill("quarry-reader")
        until(lambda: any(reply.get("degraded") for _, _, reply in list(callers.replies)))
        until(lambda: world.restarts("quarry-reader") == before + 1)
        until(lambda: world.ask(QUESTIONS[0])[1].get("answers"))
    for question, status, reply in callers.replies:
        assert status == 200, reply
        if reply["degraded"]:
            assert (reply["degraded"], reply["answers"], reply["reason"]) == (["reader"], [], "reader_unavailable")
            assert reply["passages"]
        else:
            assert without_id(reply) == expected[question]
    assert without_id(world.ask(QUESTIONS[0])[1]) == expected[QUESTIONS[0]]


def test_while_a_killed_retriever_is_away_that_is_said_and_then_answers_come_again(world: World, expected: dict[str, dict[str, Any]]) -> None:
    before = world.restarts("quarry-retriever")
    with Callers(world) as callers:
        until(lambda: len(callers.replies) > 10)
        world.kill("quarry-retriever")
        until(lambda: any(status != 200 for _, status, _ in list(callers.replies)))
        until(lambda: world.restarts("quarry-retriever") == before + 1)
        until(lambda: world.ask(QUESTIONS[0])[0] == 200)
    assert {(status, reply["code"]) for _, status, reply in callers.replies if status != 200} <= {(502, "upstream_failed"), (503, "not_ready")}
    assert all(without_id(reply) == expected[question] for question, status, reply in callers.replies if status == 200)


def test_a_killed_gateway_comes_back_by_itself(world: World, expected: dict[str, dict[str, Any]]) -> None:
    before = world.restarts("quarry-gateway")
    world.kill("quarry-gateway")
    until(lambda: world.restarts("quarry-gateway") == before + 1)
    world.wait_ready("quarry-gateway")
    assert without_id(world.ask(QUESTIONS[0])[1]) == expected[QUESTIONS[0]]


def _stop_under(world: World, pod: str, url: str, body: bytes) -> list[tuple[int, dict[str, Any]]]:
    """SIGTERM while three requests are half sent; the rest is sent when nothing new is taken any more. The replies."""
    requests = [Request.begin(url, body) for _ in range(3)]
    with ThreadPoolExecutor(1) as aside:
        stopped = aside.submit(world.engine.podman, "stop", "--time", str(world.pods[pod].grace_sec), world.container(pod))
        until(lambda: world.probe(pod, "readinessProbe") != 200)
        replies = [request.end() for request in requests]
        stopped.result()
    state = world.engine.inspect(world.container(pod))["State"]
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False), "not killed at the end of its grace"
    world.engine.podman("start", world.container(pod))
    world.wait_ready()
    return replies


def test_sigterm_drains_the_gateway(world: World, expected: dict[str, dict[str, Any]]) -> None:
    replies = _stop_under(world, "quarry-gateway", world.answers_url(), asked(QUESTIONS[0]))
    assert [(status, without_id(reply)) for status, reply in replies] == [(200, expected[QUESTIONS[0]])] * 3
    assert without_id(world.ask(QUESTIONS[0])[1]) == expected[QUESTIONS[0]]


def test_sigterm_drains_a_model_service(world: World, expected: dict[str, dict[str, Any]]) -> None:
    body = json.dumps({"jsonData": {"question": QUESTIONS[0], "passages": [{"passage_id": "p", "text": "It is word3.", "heading": ""}]}}).encode()
    url = f"http://{world.address('quarry-reader')}:9000/api/v1.0/predictions"
    replies = _stop_under(world, "quarry-reader", url, body)
    assert [status for status, _ in replies] == [200] * 3, replies
    assert without_id(world.ask(QUESTIONS[0])[1]) == expected[QUESTIONS[0]]
