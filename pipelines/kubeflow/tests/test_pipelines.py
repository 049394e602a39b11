"""The pipelines compile to their golden files, and run for real through kfp's local runner."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from quarry_kubeflow import __main__ as cli

SOURCE = Path(cli.__file__).parent


def test_compiled_pipelines_are_the_golden_files(tmp_path: Path) -> None:
    for path in cli.compile_all(tmp_path):
        golden = list(yaml.safe_load_all((SOURCE / path.name).read_text()))
        assert list(yaml.safe_load_all(path.read_text())) == golden, f"{path.name} changed: run `python -m quarry_kubeflow compile`"


def test_steps_come_in_the_order_of_the_loop() -> None:
    spec = next(iter(yaml.safe_load_all((SOURCE / "train_reader.yaml").read_text())))
    tasks = spec["root"]["dag"]["tasks"]
    assert tasks["register-reader"]["dependentTasks"] == ["calibrate-reader", "check-dataset", "evaluate-reader", "export-reader", "fit-reader"]
    assert set(tasks["evaluate-reader"]["dependentTasks"]) == {"check-dataset", "export-reader"}


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of the training environment's interpreter: a script that writes down how it was called and makes what the next step reads.

    The real scripts run in tests/e2e, where the training environment is there.
    """
    log = tmp_path / "calls.jsonl"
    script = tmp_path / "python"
    script.write_text(
        f"""#!{sys.executable}
import json, os, pathlib, sys
arguments = sys.argv[1:]
with open({str(log)!r}, "a") as file:
    file.write(json.dumps([*arguments, os.environ.get("MLFLOW_TRACKING_URI")]) + "\\n")
if "FAIL_AT" in os.environ and os.environ["FAIL_AT"] in arguments[1]:
    sys.exit(3)
out = pathlib.Path(arguments[arguments.index("--out") + 1])
if arguments[1].endswith("evaluate"):
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({{"f1": 81.5, "exact_match": 70.0}}))
elif arguments[1].endswith("register"):
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("models:/reader/7")
else:
    out.mkdir(parents=True, exist_ok=True)
"""
    )
    script.chmod(0o755)
    monkeypatch.setenv("QUARRY_TRAINING_PYTHON", str(script))
    return log


def test_train_reader_calls_each_script_with_the_outputs_of_those_before(recorded: Path, tmp_path: Path) -> None:
    output = cli.run("train-reader", tmp_path / "root", cli.inputs("train-reader", ["data=d.json", "held_out=h.json", "mlflow_uri=http://m", "epochs=1.5"]))
    assert output == "models:/reader/7"
    calls = {call[1].removeprefix("quarry_training."): call for call in map(json.loads, recorded.read_text().splitlines())}
    assert list(calls) == ["check", "fit", "calibrate", "export", "evaluate", "register"]
    dataset = calls["check"][calls["check"].index("--out") + 1]
    model = calls["fit"][calls["fit"].index("--out") + 1]
    assert calls["check"][2:6] == ["--data", "d.json", "--dev", "h.json"]
    assert calls["fit"][calls["fit"].index("--data") + 1] == f"{dataset}/train.json"
    assert calls["fit"][calls["fit"].index("--epochs") + 1] == "1.5"
    assert calls["calibrate"][calls["calibrate"].index("--model") + 1] == model
    assert calls["register"][-1] == "http://m"


def test_a_failing_step_stops_the_pipeline(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIL_AT", "calibrate")
    with pytest.raises(RuntimeError):
        cli.run("train-reader", tmp_path / "root", {"data": "d.json", "mlflow_uri": "http://m"})
    assert "register" not in recorded.read_text()


def test_the_command_line_reports_a_failed_pipeline(recorded: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "quarry_kubeflow", "run", "publish-retriever", "--root", str(tmp_path / "root"), "--set", "mlflow_uri=http://m"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"FAIL_AT": "export"})
    assert done.returncode != 0
    assert "publish-retriever failed" in done.stderr
