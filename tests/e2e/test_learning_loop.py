"""The learning loop for real, with tiny models: every pipeline by kfp's local runner, a real registry, up to a release bound by digest."""

import json
import os
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .conftest import CLONE, free_port

POLICY = {
    "reader": "kind: reader\nmin_questions: 20\npassages: 1\nfloors:\n  answerable_f1: {at_least: 60}\noverall:\n  f1: {max_regression: 20.0}\n",
    "retriever": "kind: retriever\nmin_questions: 20\nfloors:\n  recall_at_20: {at_least: 0.05}\n",
}


def python(project: str) -> Path:
    return CLONE / project / ".venv" / "bin" / "python"


def squad(numbers: range) -> str:
    """Questions on `numbers` bridges, each in a paragraph of its own: who, where, when, and why, which no paragraph says."""
    articles = []
    for n in numbers:
        facts = {"who": ("anna", "ben", "cara")[n % 3], "where": ("dover", "leeds", "york")[n // 3 % 3], "when": ("monday", "tuesday", "friday")[n // 9 % 3]}
        context = f"{facts['who']} built bridge {n} in {facts['where']} on {facts['when']} ."
        qas = [
            {"id": f"{kind}-{n}", "question": f"{kind} was bridge {n} built", "answers": [{"text": a, "answer_start": context.index(a)}]}
            for kind, a in facts.items()
        ]
        qas.append({"id": f"why-{n}", "question": f"why was bridge {n} built", "answers": [], "is_impossible": True})
        articles.append({"title": f"bridge-{n}.txt", "paragraphs": [{"context": context, "qas": qas}]})
    return json.dumps({"version": "v2.0", "data": articles})


@dataclass(frozen=True)
class Loop:
    """A registry of its own, tiny bases, and how the pipelines are run against them."""

    home: Path
    environment: dict[str, str]
    uri: str

    def run(self, pipeline: str, *pairs: str) -> "subprocess.CompletedProcess[str]":
        """Run one pipeline through its command line."""
        root = ["--root", str(self.home / "pipelines"), "--set", f"mlflow_uri={self.uri}", *pairs]
        command = [str(python("pipelines/kubeflow")), "-W", "ignore", "-m", "quarry_kubeflow", "run", pipeline, *root]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=900)

    def outputs(self, pipeline: str, *pairs: str, code: int = 0) -> dict[str, str]:
        """Its outputs, when it ended with `code`."""
        done = self.run(pipeline, *pairs)
        assert done.returncode == code, f"{done.stdout[-4000:]}\n{done.stderr[-2000:]}"
        return dict(json.loads(next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{"))))

    def registry(self, question: str, **parameters: str) -> dict[str, Any]:
        """What the registry's server answers: over HTTP, because MLflow's own client takes seconds of imports."""
        with urllib.request.urlopen(f"{self.uri}/api/2.0/mlflow/{question}?{urllib.parse.urlencode(parameters)}", timeout=30) as reply:
            return dict(json.load(reply))

    def champion(self, name: str) -> str:
        """The champion's version number."""
        aliases = self.registry("registered-models/get", name=name)["registered_model"]["aliases"]
        return next(str(a["version"]) for a in aliases if a["alias"] == "champion")

    def versions(self, name: str) -> int:
        """How many versions the model has."""
        return len(self.registry("model-versions/search", filter=f"name='{name}'").get("model_versions", []))


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    home = tmp_path_factory.mktemp("loop")
    port = free_port()
    outer = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS", "QUARRY_", "MLFLOW_"))}
    interpreters = {f"QUARRY_{p.upper()}_PYTHON": str(python(f"pipelines/{p}")) for p in ("training", "ingestion")}
    environment = {**outer, **interpreters, "QUARRY_HOME": str(home), "QUARRY_MLFLOW_PORT": str(port), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    stack = [str(python("services/contract")), str(CLONE / "local" / "stack.py")]
    subprocess.run([*stack, "up", "mlflow"], env=environment, check=True, capture_output=True)
    subprocess.run([str(python("pipelines/training")), str(CLONE / "tests" / "e2e" / "tiny_base.py"), str(home / "base")], env=environment, check=True)
    for kind, policy in POLICY.items():
        (home / f"{kind}.yaml").write_text(policy)
    (home / "train.json").write_text(squad(range(100, 150)))
    (home / "held-out.json").write_text(squad(range(150, 170)))
    (home / "documents").mkdir()
    for n in range(100, 104):
        (home / "documents" / f"bridge-{n}.txt").write_text(f"anna built bridge {n} in dover on monday .")
    try:
        yield Loop(home, environment, f"http://127.0.0.1:{port}")
    finally:
        subprocess.run([*stack, "down"], env=environment, check=False, capture_output=True)


def reading(loop: Loop, **changes: str) -> list[str]:
    home = loop.home
    pairs = {"data": f"{home}/train.json", "held_out": f"{home}/held-out.json", "base": f"{home}/base", "policy": f"{home}/reader.yaml"}
    return [f"{k}={v}" for k, v in {**pairs, "epochs": "40", "learning_rate": "3e-3", **changes}.items()]


def test_from_data_to_a_release_and_a_bad_reader_changes_nothing(loop: Loop) -> None:
    home = loop.home
    data = [f"data={home}/train.json", f"held_out={home}/held-out.json", f"base={home}/base", f"policy={home}/retriever.yaml", "epochs=2"]
    beside = ThreadPoolExecutor(1)  # another pipeline against the same registry, on the other core
    retriever = beside.submit(loop.outputs, "train-retriever", *data)
    first = loop.outputs("train-reader", *reading(loop))
    assert first == {"version": "models:/reader/1", "verdict": "passed"}
    assert loop.champion("reader") == "1"

    assert loop.outputs("train-reader", *reading(loop)) == first  # the same again registers nothing anew
    assert loop.versions("reader") == 1

    worse = loop.run("train-reader", *reading(loop, epochs="12"))
    assert worse.returncode == 3, worse.stdout[-3000:]
    assert "refused: " in worse.stdout
    assert "Traceback" not in worse.stderr
    assert (loop.versions("reader"), loop.champion("reader")) == (2, "1")
    tags = loop.registry("model-versions/get", name="reader", version="2")["model_version"]["tags"]
    assert {"key": "gate_verdict", "value": "refused"} in tags

    assert retriever.result() == {"version": "models:/retriever/1", "verdict": "passed"}
    folder = loop.outputs("build-index", f"documents={home}/documents", f"home={home}")["Output"]
    assert json.loads((Path(folder) / "model.json").read_text())["kind"] == "retriever"

    models = ["reader=models:/reader/1", "retriever=models:/retriever/1"]
    policies = [f"reader_policy={home}/reader.yaml", f"retriever_policy={home}/retriever.yaml"]
    verdicts = loop.outputs("evaluate-and-release", f"data={home}/held-out.json", f"home={home}", *models, *policies)
    assert verdicts == {"reader": "passed", "retriever": "passed"}
    [release] = home.glob("releases/*/release.json")
    bound = json.loads(release.read_text())
    assert (bound["reader"], bound["retriever"]) == ("models:/reader/1", "models:/retriever/1")
    assert (home / "index" / bound["index_generation"] / "index.json").exists()


def test_bad_data_ends_in_a_clear_refusal_and_registers_nothing(loop: Loop) -> None:
    """What else makes the check refuse a file is tried in training's own tests."""
    before = loop.versions("reader")
    (loop.home / "bad.json").write_text(squad(range(1)))
    done = loop.run("train-reader", f"data={loop.home}/bad.json", f"base={loop.home}/base")
    assert done.returncode == 1
    assert "dataset refused: too few documents" in done.stdout
    assert loop.versions("reader") == before
