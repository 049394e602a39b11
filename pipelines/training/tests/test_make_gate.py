"""`make gate` itself, on a registry that it starts: a better candidate becomes champion, a damaged one is refused and its slice named."""

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from quarry_training.register import register

from .test_gate import World, world  # noqa: F401 - a fixture

CLONE = Path(__file__).resolve().parents[3]
Make = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """make in the clone, with a state folder and a registry of its own, which this process's MLflow client speaks to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    outer = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS", "QUARRY_", "MLFLOW_"))}
    environment = outer | {"QUARRY_HOME": str(tmp_path / "home"), "QUARRY_MLFLOW_PORT": port}

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(["make", *arguments], cwd=CLONE, env=environment, capture_output=True, text=True, check=False)

    run("envs", "P=services/contract")
    stack = [str(CLONE / "services/contract/.venv/bin/python"), str(CLONE / "local/stack.py")]
    subprocess.run([*stack, "up", "mlflow"], env=environment, check=True, capture_output=True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    mlflow.set_tracking_uri(f"http://127.0.0.1:{port}")
    yield run
    subprocess.run([*stack, "down"], env=environment, check=False, capture_output=True)


def champion() -> str:
    return str(MlflowClient().get_model_version_by_alias("reader", "champion").version)


def test_the_better_one_is_promoted_and_the_damaged_one_refused(world: World, make: Make, tmp_path: Path) -> None:  # noqa: F811
    damaged, better = (register(folder, alias, {}, {}, [], []) for folder, alias in ((world.damaged, "champion"), (world.good, "challenger")))
    assert (damaged, better, champion()) == ("models:/reader/1", "models:/reader/2", "1")
    given = [f"DATA={world.data}", f"POLICY={world.policy}"]

    done = make("gate", f"CHALLENGER={better}", *given)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\npassed\n" in done.stdout
    assert champion() == "2"

    done = make("gate", f"CHALLENGER={damaged}", *given)
    assert done.returncode != 0
    assert "refused: answerable_f1 in slice question_word=when" in done.stdout
    assert champion() == "2"
    tags = {n: MlflowClient().get_model_version("reader", n).tags["gate_verdict"] for n in "12"}
    assert tags == {"1": "refused", "2": "passed"}
    assert "question_word=when" in (tmp_path / "home" / "gate" / "report.md").read_text()
