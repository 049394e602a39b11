"""The pipelines compile to their golden files, and run for real through kfp's local runner, over recorded scripts."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from quarry_kubeflow import __main__ as cli

SOURCE = Path(cli.__file__).parent
# In place of the training and ingestion environments' interpreters: writes down how it was called and makes what the next step
# reads. The real scripts run in tests/e2e, where those environments are there.
SCRIPT = """#!{python}
import json, os, pathlib, sys
module, *arguments = sys.argv[2:]
with open({log!r}, "a") as file:
    file.write(json.dumps([module, *arguments, os.environ.get("MLFLOW_TRACKING_URI")]) + "\\n")
if os.environ.get("FAIL_AT", "nothing") == module.rpartition(".")[2]:
    sys.exit(4)
if "--out" not in arguments:
    sys.exit(0)
out = pathlib.Path(arguments[arguments.index("--out") + 1])
written = {{
    "evaluate": json.dumps({{"f1": 81.5, "exact_match": 70.0}}),
    "register": "models:/reader/7",
    "release": json.dumps({{"folder": "/home/models/retriever/2", "release_id": "r1"}}),
}}
if text := written.get(module.rpartition(".")[2]):
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text)
else:
    out.mkdir(parents=True, exist_ok=True)
if module.endswith("gate"):
    (out / "report.md").write_text("# Report")
    verdict = os.environ.get("VERDICT", "passed")
    (out / "gate.json").write_text(json.dumps({{"verdict": verdict}}))
    sys.exit({{"passed": 0, "refused": 1, "unjudged": 2}}[verdict])
"""


def test_compiled_pipelines_are_the_golden_files(tmp_path: Path) -> None:
    for path in cli.compile_all(tmp_path):
        golden = list(yaml.load_all((SOURCE / path.name).read_text(), yaml.CSafeLoader))
        assert list(yaml.load_all(path.read_text(), yaml.CSafeLoader)) == golden, f"{path.name} changed: run `python -m quarry_kubeflow compile`"


def spec(name: str) -> dict[str, Any]:
    return dict(next(yaml.load_all(cli.package(name).read_text(), yaml.CSafeLoader)))


def test_steps_come_in_the_order_of_the_loop() -> None:
    tasks = spec("train-reader")["root"]["dag"]["tasks"]
    assert tasks["register-reader"]["dependentTasks"] == ["calibrate-reader", "check-dataset", "evaluate", "export-reader", "fit-reader"]
    assert set(tasks["gate"]["dependentTasks"]) == {"check-dataset", "register-reader"}
    [promoted] = [t for name, t in tasks.items() if name.startswith("condition")]
    assert promoted["triggerPolicy"]["condition"] == "inputs.parameter_values['pipelinechannel--gate-Output'] == 'passed'"


@pytest.mark.parametrize("name", sorted(cli.PIPELINES))
def test_every_step_asks_for_resources_and_is_tried_again_if_that_can_help_and_what_acts_is_never_cached(name: str) -> None:
    made = spec(name)
    tasks = dict(made["root"]["dag"]["tasks"])
    for component in made["components"].values():
        tasks |= component.get("dag", {}).get("tasks", {})
    executors = made["deploymentSpec"]["executors"]
    for task in tasks.values():
        label = made["components"][task["componentRef"]["name"]].get("executorLabel")
        if label is None:
            continue  # a condition
        container = executors[label]["container"]
        assert container["resources"]["resourceCpuRequest"], label
        assert container["resources"]["resourceMemoryLimit"], label
        assert container["image"].startswith("quarry/"), label
        judges = any(word in label for word in ("check-dataset", "evaluation-set"))
        assert task.get("retryPolicy", {}).get("maxRetryCount", 0) >= 1 or judges, label
        assert "retryPolicy" not in task or not judges, label
        acts = any(word in label for word in ("register", "gate", "promote", "bind", "fetch", "build-index"))
        assert task["cachingOptions"].get("enableCache", False) is not acts, label


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    log = tmp_path / "calls.jsonl"
    script = tmp_path / "project" / "venv" / "bin" / "python"
    script.parent.mkdir(parents=True)
    script.write_text(SCRIPT.format(python=sys.executable, log=str(log)))
    script.chmod(0o755)
    for package in ("TRAINING", "INGESTION"):
        monkeypatch.setenv(f"QUARRY_{package}_PYTHON", str(script))
    return log


def calls(log: Path) -> list[list[str]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def modules(log: Path) -> list[str]:
    return [call[0].removeprefix("quarry_training.") for call in calls(log)]


def option(call: list[str], name: str) -> str:
    return call[call.index(name) + 1]


READER = ["data=d.json", "held_out=h.json", "mlflow_uri=http://m", "epochs=1.5"]


def test_train_reader_calls_each_script_with_the_outputs_of_those_before(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    output = cli.run("train-reader", tmp_path / "root", cli.inputs("train-reader", READER))
    assert list((tmp_path / "temporary").iterdir()) == [], "kfp's copies of the steps are left"
    assert output == {"version": "models:/reader/7", "verdict": "passed"}
    assert modules(recorded) == ["check", "fit", "calibrate", "export", "evaluate", "register", "gate", "promote", "promote"]
    check, fit, calibrate, _, _, register, gate, record, promote = calls(recorded)
    dataset = option(check, "--out")
    assert check[1:5] == ["--data", "d.json", "--dev", "h.json"]
    assert (option(fit, "--data"), option(fit, "--epochs")) == (f"{dataset}/train.json", "1.5")
    assert option(calibrate, "--model") == option(fit, "--out")
    assert (option(calibrate, "--min-answered"), "--max-wrong" in calibrate) == ("0.87", False)
    assert (option(gate, "--challenger"), option(gate, "--data")) == ("models:/reader/7", f"{dataset}/dev.json")
    assert "--against-champion" in gate
    assert record[1:] == ["models:/reader/7", "--verdict", f"{option(gate, '--out')}/gate.json", "--record-only", "http://m"]
    assert promote[1:] == ["models:/reader/7", "http://m"]
    assert {c[-1] for c in (register, gate, record, promote)} == {"http://m"}


def test_an_interrupted_run_goes_on_where_it_stood(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "d.json"
    data.write_text("1")
    arguments = cli.inputs("train-reader", [f"data={data}", "mlflow_uri=http://m"])
    monkeypatch.setenv("FAIL_AT", "calibrate")
    with pytest.raises(RuntimeError):
        cli.run("train-reader", tmp_path / "root", arguments)
    assert modules(recorded) == ["check", "fit", "calibrate", "calibrate"]  # tried again once
    monkeypatch.delenv("FAIL_AT")
    cli.run("train-reader", tmp_path / "root", arguments)
    assert modules(recorded)[4:6] == ["calibrate", "export"]
    assert modules(recorded).count("fit") == 1
    cli.run("train-reader", tmp_path / "root", arguments)  # what acts on the registry is done again, what computes is not
    assert modules(recorded)[-4:] == ["register", "gate", "promote", "promote"]
    data.write_text("2")
    monkeypatch.setenv("FAIL_AT", "calibrate")  # what comes after would tell no more
    with pytest.raises(RuntimeError):
        cli.run("train-reader", tmp_path / "root", arguments)
    assert modules(recorded).count("fit") == 2


def test_train_retriever_turns_the_checked_file_into_passages(recorded: Path, tmp_path: Path) -> None:
    arguments = cli.inputs("train-retriever", ["data=d.json", "mlflow_uri=http://m", "separate=true"])
    assert cli.run("train-retriever", tmp_path / "root", arguments)["verdict"] == "passed"
    assert modules(recorded) == ["check", "dpr_data", "fit_retriever", "export", "evaluate", "register", "gate", "promote", "promote"]
    check, cut, fit, export, *_ = calls(recorded)
    assert option(cut, "--data") == option(check, "--out")
    assert option(fit, "--data") == f"{option(cut, '--out')}/train.json"
    assert "--separate" in fit
    assert option(export, "--model") == option(fit, "--out")


def test_build_index_encodes_with_the_fetched_retriever(recorded: Path, tmp_path: Path) -> None:
    cli.run("build-index", tmp_path / "root", cli.inputs("build-index", ["documents=/docs", "home=/home", "mlflow_uri=http://m"]))
    fetch, ingest = calls(recorded)
    assert fetch[:2] == ["quarry_training.release", "fetch"]
    assert ingest[:6] == ["quarry_ingestion", "/docs", "--home", "/home", "--model-dir", "/home/models/retriever/2"]


@pytest.mark.parametrize("verdict", ["passed", "refused"])
def test_a_release_is_bound_only_when_both_pass(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verdict: str) -> None:
    monkeypatch.setenv("VERDICT", verdict)
    data = tmp_path / "eval.json"
    data.write_text("{}")
    pairs = [f"data={data}", "home=/home", "mlflow_uri=http://m", "reader=models:/reader/7", "retriever=models:/retriever/2"]
    output = cli.run("evaluate-and-release", tmp_path / "root", cli.inputs("evaluate-and-release", pairs))
    assert output == {"reader": verdict, "retriever": verdict}
    assert modules(recorded).count("gate") == 2
    bound = [c for c in calls(recorded) if c[:2] == ["quarry_training.release", "release"]]
    assert len(bound) == (1 if verdict == "passed" else 0)
    if bound:
        assert (option(bound[0], "--reader"), option(bound[0], "--retriever")) == ("models:/reader/7", "models:/retriever/2")


@pytest.mark.parametrize(("verdict", "code", "says"), [("refused", cli.REFUSED, "the gate refused"), ("unjudged", 1, "failed")])
def test_a_refused_model_is_recorded_and_not_promoted_and_one_that_cannot_be_judged_fails_the_run(
    recorded: Path, tmp_path: Path, verdict: str, code: int, says: str
) -> None:
    """And the command line tells the two apart."""
    command = [sys.executable, "-m", "quarry_kubeflow", "run", "train-reader", "--root", str(tmp_path / "root"), "--set", *READER]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"VERDICT": verdict})
    assert done.returncode == code
    assert f"train-reader {says}" in done.stderr.replace("train-reader: ", "train-reader ")
    if verdict == "refused":
        assert json.loads(done.stdout.splitlines()[-1]) == {"version": "models:/reader/7", "verdict": "refused"}
        assert modules(recorded)[-2:] == ["gate", "promote"]
        assert "--record-only" in calls(recorded)[-1]
    else:
        assert modules(recorded)[-1] == "gate"
