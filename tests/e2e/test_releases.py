"""Releases on one machine: real services with tiny models, switched and rolled back while questions go on, and a switch killed on its way."""

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from quarry_contract.manifests import MODEL_MANIFEST, digest_file

from .conftest import CLONE
from .machine import NEEDED, QUESTIONS, WORDS, Machine, bind_parts, environment_of, ingest, make_models

PAUSE_SEC = 0.01  # between one caller's questions: the processors are needed by what starts meanwhile


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    subprocess.run(["make", "envs", f"P={' '.join(NEEDED)}"], cwd=CLONE, check=True, capture_output=True, timeout=1800)
    home = tmp_path_factory.mktemp("releases")
    make_models(home)
    documents = home / "documents"
    documents.mkdir()
    for i, word in enumerate(WORDS):
        (documents / f"{i}.txt").write_text(f"It is {word} {WORDS[i - 5]}.")
    ingest(home, str(documents))
    ingest(home, "--reindex", version=2)
    broken = home / "models/reader/3"
    (broken / "model.onnx").write_bytes(b"no model")
    manifest = json.loads((broken / MODEL_MANIFEST).read_text())
    manifest["files"]["model.onnx"] = digest_file(broken / "model.onnx").__dict__
    (broken / MODEL_MANIFEST).write_text(json.dumps(manifest))
    ids = {name: bind_parts(home, *parts) for name, parts in {"a": (1, 1), "b": (2, 1), "c": (1, 2), "broken": (3, 1)}.items()}
    made = Machine(home, environment_of(home), ids)
    yield made
    made.stack("down")
    assert made.running() == []


def test_promote_and_rollback_are_remembered_and_wrong_ones_are_told(machine: Machine) -> None:
    """With nothing running: the history alone."""
    a, b, c = (machine.ids[x] for x in "abc")
    assert "nothing is released yet" in machine.stack("up", check=False).stderr
    for name in (a, b, c):
        assert f"release {name} is live" in machine.stack("promote", name).stdout
    with (machine.home / "releases/history.jsonl").open("a") as history:
        history.write('{"at": "2026-01-0')  # killed in the middle of a line
    assert [machine.stack("rollback").stdout.split()[1] for _ in range(2)] == [b, a]
    assert "no earlier release" in machine.stack("rollback", check=False).stderr
    assert f"* {a}" in machine.stack("releases").stdout
    unknown = machine.make("promote", "RELEASE=nope")
    assert unknown.returncode != 0
    assert "there is no release nope; there are: " in unknown.stderr
    assert all(identity in unknown.stderr for identity in machine.ids.values())
    path = machine.home / "releases" / b / "release.json"
    whole = path.read_text()
    path.write_text(whole.replace('"threshold": 0.5', '"threshold": 0.0'))
    assert "it was changed" in machine.stack("promote", b, check=False).stderr
    path.write_text(whole)
    model = machine.home / "models/reader/2/model.onnx"
    bytes_of_it = model.read_bytes()
    model.write_bytes(bytes_of_it + b"x")
    assert "model.onnx does not have the digest" in machine.stack("promote", b, check=False).stderr
    model.write_bytes(bytes_of_it)
    assert machine.running() == []


class Callers:
    """Three threads that ask one question after another until the block ends."""

    def __init__(self, machine: Machine) -> None:
        self.replies: list[tuple[str, str, dict[str, Any]]] = []  # question, release header, body
        self.failures: list[str] = []
        self._machine = machine
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(3)]

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
            try:
                self.replies.append((question, *self._machine.ask(question)))
            except OSError as error:  # refusals and passed deadlines are HTTPError, which is one
                self.failures.append(repr(error))
            time.sleep(PAUSE_SEC)

    def wait_for(self, more: int) -> None:
        """So many more replies."""
        wanted, until = len(self.replies) + more, time.monotonic() + 60
        while len(self.replies) < wanted and time.monotonic() < until:
            time.sleep(0.02)


def test_every_answer_is_wholly_of_one_release_during_three_switches_and_a_rollback(machine: Machine) -> None:
    a, b, c = (machine.ids[x] for x in "abc")
    machine.stack("up", "gateway")
    expected = {a: machine.answers()}
    for name in (b, c):
        machine.stack("promote", name)
        expected[name] = machine.answers()
    assert all(answers[q]["answers"] for answers in expected.values() for q in QUESTIONS)
    told_apart = [{json.dumps(expected[name][q]["answers"]) for name in (a, b, c)} for q in QUESTIONS]
    assert max(map(len, told_apart)) == 3, "the releases' own answers differ, whatever their id"
    with Callers(machine) as callers:
        for name in (a, b, c):
            machine.stack("promote", name)
            callers.wait_for(12)
        done = machine.make("rollback")
        callers.wait_for(12)
    assert (done.returncode, f"release {b} is live" in done.stdout) == (0, True), done.stderr
    assert callers.failures == []
    assert {header for _, header, _ in callers.replies} == {a, b, c}
    for question, header, reply in callers.replies:
        assert reply == expected[header][question]
        assert reply["release_id"] == header
    assert machine.live() == b
    assert machine.running() == ["gateway", "ingestion", "reader", "retriever"]
    assert machine.stack("url", "reader").stdout.strip().startswith("http://127.0.0.1:")
    assert machine.stack("live", "retriever").stdout.strip() == "models:/retriever/1"


def test_a_candidate_answers_its_share_and_ends_by_promotion_or_without(machine: Machine) -> None:
    a, b, c = (machine.ids[x] for x in "abc")
    done = machine.make("canary", f"RELEASE={a}", "SHARE=1")
    assert done.returncode == 0, done.stderr
    assert f"release {a} answers 100% of the callers" in done.stdout
    assert {header for header, _ in (machine.ask(q) for q in QUESTIONS)} == {a}
    assert (machine.live(), machine.running()) == (b, ["gateway", "ingestion", "reader", "reader", "retriever", "retriever"])
    assert "did not get ready" in machine.stack("canary", machine.ids["broken"], "1", "0", check=False).stderr
    assert {header for header, _ in (machine.ask(q) for q in QUESTIONS)} == {a}
    machine.stack("canary", c, "0", "1")
    assert {header for header, _ in (machine.ask(q) for q in QUESTIONS)} == {b}
    assert len(machine.running()) == 6
    assert f"release {b} answers everyone" in machine.make("canary", f"RELEASE={c}", "SHARE=0").stdout
    assert machine.running() == ["gateway", "ingestion", "reader", "retriever"]
    machine.stack("canary", c, "0.5", "0")
    machine.stack("promote", c)
    assert (machine.live(), machine.running()) == (c, ["gateway", "ingestion", "reader", "retriever"])
    machine.stack("rollback")
    assert machine.live() == b
    for wrong in ([b, "0.1", "0"], ["nope", "0.1", "0"], [a, "2", "0"], [a], []):
        refused = machine.stack("canary", *wrong, check=False)
        assert refused.returncode != 0
        assert "Traceback" not in refused.stderr


def test_a_release_that_cannot_be_served_changes_nothing(machine: Machine) -> None:
    done = machine.stack("promote", machine.ids["broken"], check=False)
    assert done.returncode != 0
    assert "did not get ready" in done.stderr
    assert machine.live() == machine.ids["b"]
    assert machine.running() == ["gateway", "ingestion", "reader", "retriever"]
    assert machine.answers()
    assert f"* {machine.ids['b']}" in machine.stack("releases").stdout


def _kill_when(machine: Machine, arguments: list[str], reached: Callable[[], bool]) -> None:
    process = subprocess.Popen(machine.command(*arguments), env=machine.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not reached():
        assert process.poll() is None, "it was over before"
        time.sleep(0.001)
    process.kill()
    process.wait()


def test_a_switch_killed_on_its_way_is_finished_or_undone_by_running_again(machine: Machine) -> None:
    b, c = machine.ids["b"], machine.ids["c"]
    pid, table = machine.home / f"run/retriever-{c}.pid", machine.home / "routes.json"
    _kill_when(machine, ["promote", c], pid.exists)
    machine.stack("up", "gateway")
    assert (machine.live(), machine.running()) == (b, ["gateway", "ingestion", "reader", "retriever"])
    _kill_when(machine, ["promote", c], lambda: c in table.read_text())
    machine.stack("promote", c)
    assert (machine.live(), machine.running()) == (c, ["gateway", "ingestion", "reader", "retriever"])
    assert machine.stack("live", "retriever").stdout.strip() == "models:/retriever/2"
    _kill_when(machine, ["promote", b], (machine.home / f"run/reader-{b}.pid").exists)
    machine.stack("down")
    assert machine.running() == []
