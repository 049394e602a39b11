"""The whole stack, set up by `make demo` itself, with its own state folder and ports, and taken down by `make down`."""

import json
import os
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

CLONE = Path(__file__).resolve().parents[2]
# The whole of the training, however busy the machine: after a fifth of it answers are below their floors. By one thread: two that wait for each
# other by spinning take up to three times the processor time, where other suites run too.
TRAINING = {"DEMO_SECONDS": "0", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Stack:
    """A running demo: how to call make for it, where its gateway is, what `make demo` printed."""

    environment: dict[str, str]
    gateway: str
    printed: str

    def make(self, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run make in the clone against this stack."""
        done = subprocess.run(["make", *arguments], cwd=CLONE, env=self.environment, capture_output=True, text=True, check=False, timeout=1800)
        assert not check or done.returncode == 0, f"make {arguments}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """POST JSON to the gateway."""
        request = urllib.request.Request(self.gateway + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as reply:
            return dict(json.load(reply))

    def get(self, path: str) -> Any:
        """GET JSON from the gateway."""
        with urllib.request.urlopen(self.gateway + path, timeout=30) as reply:
            return json.load(reply)

    def text(self, document_id: str, start: int, end: int) -> str:
        """Characters of a document's canonical text."""
        return str(self.get(f"/v1/documents/{urllib.parse.quote(document_id)}?start={start}&end={end}")["text"])


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    ports = {f"QUARRY_{name}_PORT": str(free_port()) for name in ("MLFLOW", "READER", "RETRIEVER", "INGESTION", "GATEWAY")}
    home = tmp_path_factory.mktemp("quarry-home")
    outer = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS", "QUARRY_", "MLFLOW_"))}
    environment = {**outer, **ports, **TRAINING, "QUARRY_HOME": str(home)}
    made = Stack(environment, f"http://127.0.0.1:{ports['QUARRY_GATEWAY_PORT']}", "")
    try:
        printed = made.make("demo").stdout
        yield Stack(environment, made.gateway, printed)
    finally:
        made.make("down", check=False)


@pytest.fixture(scope="session")
def questions() -> list[tuple[str, str, list[str]]]:
    """(document, question, gold answers) of the sample corpus's test split; no gold = unanswerable."""
    data = json.loads((CLONE / "examples" / "questions" / "test.json").read_text())["data"]
    return [(a["title"], qa["question"], [x["text"] for x in qa["answers"]]) for a in data for p in a["paragraphs"] for qa in p["qas"]]
