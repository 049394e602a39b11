"""What `helm test` runs, as it runs it: the rendered pod's own command and environment, against replies in the contract's golden shapes."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from .chart import GOLDEN, HELM, render, values

pytestmark = pytest.mark.skipif(not Path(HELM).exists(), reason="helm is not there: make test P=tests fetches it")
ANSWER = json.loads(GOLDEN.with_name("answer_response.json").read_text())
ABSTENTION = json.loads(GOLDEN.with_name("abstention.json").read_text())


class Gateway(ThreadingHTTPServer):
    """Says what it is told to, and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer: dict[str, Any] = ANSWER
        self.words = ANSWER["answers"][0]["text"]
        self.token = ""
        self.asked: list[tuple[str, str]] = []  # path, edge key


class Handler(BaseHTTPRequestHandler):
    server: Gateway

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._reply(self.server.answer)

    def do_GET(self) -> None:
        self._reply({"text": self.server.words})

    def _reply(self, body: dict[str, Any]) -> None:
        self.server.asked.append((self.path, self.headers["X-Quarry-Edge"]))
        refused = self.server.token and self.headers["Authorization"] != f"Bearer {self.server.token}"
        self.send_response(401 if refused else 200)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        """Nothing to the screen."""


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with Gateway() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def question(server: Gateway, secrets: dict[str, str], **given: Any) -> "subprocess.CompletedProcess[str]":
    """Run the pod's container here; what its variables take from secrets comes from `secrets`, by key."""
    [pod] = (m for m in render(values(**given)) if m["kind"] == "Pod")
    [container] = pod["spec"]["containers"]
    environment = {v["name"]: v.get("value") or secrets[v["valueFrom"]["secretKeyRef"]["key"]] for v in container["env"]}
    environment["GATEWAY"] = f"http://127.0.0.1:{server.server_port}"
    command = [sys.executable, *container["command"][1:], *container["args"]]
    return subprocess.run(command, env=environment | {"PATH": os.environ["PATH"]}, capture_output=True, text=True, timeout=60)


def test_it_reads_the_answers_words_in_the_document(gateway: Gateway) -> None:
    done = question(gateway, {"keys": "k1\nk2\n"}, gateway={"edge": {"existingSecret": "existing-edge"}})
    assert (done.returncode, done.stdout) == (0, "'14 m/s' stands in ms-014.pdf, 158 to 164 (release f8d74ec1693a)\n"), done.stderr
    version = ANSWER["answers"][0]["citations"][0]["version"]
    assert gateway.asked == [("/v1/answers", "k1"), (f"/v1/documents/ms-014.pdf?start=158&end=164&version={version}", "k1")]


def test_other_words_in_the_document_fail_it(gateway: Gateway) -> None:
    gateway.words = "12 m/s"
    done = question(gateway, {})
    assert (done.returncode, done.stderr) == (1, "the document says '12 m/s' where the answer says '14 m/s'\n")


def test_an_abstention_fails_it(gateway: Gateway) -> None:
    gateway.answer = ABSTENTION
    done = question(gateway, {})
    assert (done.returncode, done.stderr) == (1, f"no answer: {ABSTENTION['reason']}\n")


def test_it_asks_with_a_token_and_says_where_one_is_wanted(gateway: Gateway) -> None:
    gateway.token = "t"
    refused = question(gateway, {})
    assert (refused.returncode, refused.stderr) == (1, "the gateway answers 401; where it wants a token, test.existingSecret names the secret with one\n")
    assert question(gateway, {"token": "t"}, test={"existingSecret": "existing-token"}).returncode == 0


def test_nobody_there_is_said_in_a_line(gateway: Gateway) -> None:
    gateway.server_close()
    done = question(gateway, {})
    assert done.returncode == 1
    assert done.stderr.startswith("the gateway does not answer: ")
    assert len(done.stderr.splitlines()) == 1
