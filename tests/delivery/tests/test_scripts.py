"""The workflows' own scripts: which projects a change concerns, which release is to go live, and the recall canaries' verdict."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from quarry_contract.messages import Passage, ScoredPassage, SearchResponse

from quarry_delivery.workflows import CLONE, files_named

from .conftest import SCRIPTS

sys.path.insert(0, str(SCRIPTS))
import changed
import release_ids

KNOWN = changed.projects()


@pytest.mark.parametrize(
    ("paths", "wanted"),
    [
        (["Makefile"], KNOWN),
        ([".ci/run", "README.md"], KNOWN),
        (["services/gateway/src/quarry_gateway/app.py"], ["services/gateway", "tests", "tests/infrastructure", "tests/delivery"]),
        (["pipelines/kubeflow/README.md"], ["pipelines/kubeflow", "pipelines/airflow", "tests", "tests/delivery"]),
        (["local/stack.py", "examples/documents/a.txt"], ["tests"]),
        (["tests/e2e/machine.py", "k8s/README.md"], ["tests"]),
        (["helm/quarry/values.yaml"], ["tests", "tests/delivery"]),
        (["tests/delivery/tests/test_slo.py"], ["tests/delivery"]),
        ([".github/workflows/ci.yml", "Jenkinsfile", "docs/delivery.md"], ["tests/delivery"]),
        ([], []),
    ],
)
def test_a_change_concerns(paths: list[str], wanted: list[str]) -> None:
    found = changed.concerned(paths, KNOWN)
    assert found == [project for project in KNOWN if project in wanted]
    assert len(found) == len(wanted)


def test_a_contract_concerns_whoever_is_installed_with_it() -> None:
    found = changed.concerned(["services/contract/src/quarry_contract/messages.py"], KNOWN)
    assert {"services/contract", "services/runtime", "services/retriever", "services/reader", "services/gateway", "pipelines/ingestion"} <= set(found)


def test_every_project_is_known() -> None:
    assert {str(path.parent.relative_to(CLONE)) for path in files_named("requirements.lock") if "seldon" not in path.parts} == set(KNOWN)


def test_a_first_push_concerns_everything() -> None:
    done = subprocess.run([sys.executable, str(SCRIPTS / "changed.py"), "0" * 40, "HEAD"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.removeprefix("projects=")) == KNOWN


def test_the_release_that_values_name() -> None:
    manifest = json.dumps({"release_id": "0123456789ab"})
    text = "# a note\n" + json.dumps({"releases": {"live": {"manifest": manifest}, "candidate": {"manifest": ""}}}, indent=1) + "\n"
    assert release_ids.live(text, "values") == ("0123456789ab", manifest)


@pytest.mark.parametrize("text", ["", "# a\n", "releases: {}\n", '{"releases": {"live": {"manifest": ""}}}', '{"releases": {"live": {"manifest": "{}"}}}'])
def test_values_that_name_no_release_are_told(text: str) -> None:
    with pytest.raises(SystemExit, match="names no live release"):
        release_ids.live(text, "values")


FOUND = SearchResponse((ScoredPassage(Passage("p", "a.txt", "v", "A", 0, 1, "a"), 0.5),), "g", "models:/retriever/1")


class Search(BaseHTTPRequestHandler):
    """Finds a.txt whatever is asked."""

    came: list[tuple[str, str]] = []  # noqa: RUF012 # of the one server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.came.append((body["question"], self.headers.get("x-api-key", "")))
        reply = json.dumps(FOUND.to_dict()).encode()
        self.send_response(503 if body["question"] == "gone" else 200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def gateway() -> Iterator[str]:
    Search.came.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Search) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/production"
        server.shutdown()
        thread.join()


def canaries(path: Path, documents: dict[str, list[str]]) -> Path:
    asked = {title: [{"question": question, "answers": [{"text": "a"}]} for question in questions] for title, questions in documents.items()}
    path.write_text(json.dumps({"data": [{"title": title, "paragraphs": [{"qas": qas}]} for title, qas in asked.items()]}))
    return path


@pytest.mark.parametrize(
    ("documents", "code"),
    [({"a.txt": ["1", "2", "3"], "b.txt": ["4"]}, 0), ({"a.txt": ["1"], "b.txt": ["2"]}, 1), ({}, 1), ({"a.txt": ["gone"]}, 2)],
)
def test_recall_below_the_floor_is_told(gateway: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, documents: dict[str, list[str]], code: int) -> None:
    monkeypatch.setenv("QUARRY_API_KEY", "key")
    command = [sys.executable, str(SCRIPTS / "recall_canaries.py"), str(canaries(tmp_path / "q.json", documents)), "--gateway", gateway, "--floor", "0.75"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    if documents and code < 2:
        assert json.loads(done.stdout)["missing"] == ["b.txt"]
    assert all(key == "key" for _, key in Search.came)


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("rollout.sh", []),
        ("rollout.sh", ["fly", "r"]),
        ("terraform.sh", ["destroy"]),
        ("terraform.sh", ["plan", "nowhere"]),
        ("publish_image.sh", ["push", "a"]),
        ("publish_image.sh", ["build"]),
        ("forwarded.sh", ["a"]),
        ("comment_plans.sh", []),
    ],
)
def test_scripts_tell_what_they_need(script: str, arguments: list[str], tmp_path: Path) -> None:
    done = subprocess.run([str(SCRIPTS / script), *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip()
