"""The components. A component's body is copied into the compiled pipeline as source, so it imports what it needs itself.

In a cluster the step's image holds quarry_training; locally QUARRY_TRAINING_PYTHON names the interpreter of its environment.
"""

# No `from __future__ import annotations` here: kfp reads the annotations.
from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Metrics, Model, Output

IMAGE = "quarry/training-python:latest"  # replaced by digest when the pipeline is uploaded


def run_step(module, *arguments, **environment):  # type: ignore[no-untyped-def]
    """Run one training script; its output goes to the step's log, its failure fails the step."""
    import os
    import subprocess
    import sys

    python = os.environ.get("QUARRY_TRAINING_PYTHON", sys.executable)
    subprocess.run([python, "-m", f"quarry_training.{module}", *map(str, arguments)], check=True, env={**os.environ, **environment})


step = dsl.component(base_image=IMAGE, install_kfp_package=False, additional_funcs=[run_step])


@step
def check_dataset(data: str, held_out: str, dataset: Output[Dataset]) -> None:
    """Check and split the SQuAD file."""
    run_step("check", "--data", data, *(["--dev", held_out] if held_out else []), "--out", dataset.path)


@step
def fit_reader(dataset: Input[Dataset], base: str, epochs: float, learning_rate: float, max_seconds: float, seed: int, model: Output[Model]) -> None:
    """Fine-tune the span reader."""
    options = ["--epochs", epochs, "--learning-rate", learning_rate, "--max-seconds", max_seconds, "--seed", seed]
    run_step("fit", "--base", base, "--data", f"{dataset.path}/train.json", "--out", model.path, *options)


@step
def calibrate_reader(dataset: Input[Dataset], model: Input[Model], min_answered: float, calibration: Output[Artifact]) -> None:
    """Fit confidence and the threshold to abstain below."""
    data = ["--data", f"{dataset.path}/dev.json", "--contexts", f"{dataset.path}/train.json"]
    run_step("calibrate", "--model", model.path, *data, "--min-answered", min_answered, "--out", calibration.path)


@step
def export_reader(dataset: Input[Dataset], model: Input[Model], calibration: Input[Artifact], base: str, artefact: Output[Model]) -> None:
    """Export to ONNX, with the parity check."""
    report = f"{dataset.path}/report.json"
    run_step("export", "reader", "--model", model.path, "--base", base, "--calibration", calibration.path, "--report", report, "--out", artefact.path)


@step
def evaluate_reader(dataset: Input[Dataset], artefact: Input[Model], evaluation: Output[Dataset], metrics: Output[Metrics]) -> float:
    """Exact match and F1 of the exported reader on the held-out questions; returns F1."""
    import json

    run_step("evaluate", "--artefact", artefact.path, "--data", f"{dataset.path}/dev.json", "--out", evaluation.path)
    with open(evaluation.path) as file:  # noqa: PTH123 - a component's body stands alone
        result = json.load(file)
    for name in ("exact_match", "f1"):
        metrics.log_metric(name, result[name])
    return float(result["f1"])


@step
def register_reader(
    dataset: Input[Dataset],
    model: Input[Model],
    calibration: Input[Artifact],
    artefact: Input[Model],
    evaluation: Input[Dataset],
    mlflow_uri: str,
    alias: str,
    version: Output[Artifact],
) -> str:
    """Register the artefact folder in MLflow; returns the model version's URI."""
    made = ["--artefact", artefact.path, "--model", model.path, "--calibration", calibration.path]
    reports = ["--report", f"{dataset.path}/report.json", "--evaluation", evaluation.path]
    run_step("register", *made, *reports, "--alias", alias, "--out", version.path, MLFLOW_TRACKING_URI=mlflow_uri)
    with open(version.path) as file:  # noqa: PTH123
        return file.read()


@step
def export_retriever(base: str, artefact: Output[Model]) -> None:
    """Export the sentence encoder as question and passage encoder, with the parity check."""
    run_step("export", "retriever", "--base", base, "--out", artefact.path)


@step
def register_retriever(artefact: Input[Model], mlflow_uri: str, alias: str, version: Output[Artifact]) -> str:
    """Register the dual encoder in MLflow; returns the model version's URI."""
    run_step("register", "--artefact", artefact.path, "--alias", alias, "--out", version.path, MLFLOW_TRACKING_URI=mlflow_uri)
    with open(version.path) as file:  # noqa: PTH123
        return file.read()
