"""The components. A component's body is copied into the compiled pipeline as source, so it imports what it needs itself.

In a cluster a step's image holds the package it calls; locally QUARRY_TRAINING_PYTHON and QUARRY_INGESTION_PYTHON name the
interpreters of their environments.
"""

# No `from __future__ import annotations` here: kfp reads the annotations.
from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Markdown, Metrics, Model, Output

# `make images` builds them; replaced by digest when a pipeline is submitted.
TRAINING_IMAGE = "quarry/training:0.1.0"
INGESTION_IMAGE = "quarry/ingestion:0.1.0"


def run_step(module, *arguments, accept=(0,), **environment):  # type: ignore[no-untyped-def]
    """Run one script; its output goes to the step's log, an exit code that is not accepted fails the step; returns the exit code."""
    import os
    import subprocess
    import sys

    package = module.partition(".")[0].removeprefix("quarry_").upper()
    python = os.environ.get(f"QUARRY_{package}_PYTHON", sys.executable)
    code = subprocess.run([python, "-m", module, *map(str, arguments)], check=False, env={**os.environ, **environment}).returncode
    if code not in accept:
        raise SystemExit(code)
    return code


training = dsl.component(base_image=TRAINING_IMAGE, install_kfp_package=False, additional_funcs=[run_step])
ingestion = dsl.component(base_image=INGESTION_IMAGE, install_kfp_package=False, additional_funcs=[run_step])


@training
def check_dataset(data: str, held_out: str, dataset: Output[Dataset]) -> None:
    """Check a SQuAD file and split it by document."""
    run_step("quarry_training.check", "--data", data, *(["--dev", held_out] if held_out else []), "--out", dataset.path)


@training
def evaluation_set(data: str, dataset: Output[Dataset]) -> None:
    """A SQuAD file that nothing was trained on, where the gate looks for it."""
    import os
    import shutil

    os.makedirs(dataset.path)  # noqa: PTH103
    shutil.copy(data, f"{dataset.path}/dev.json")


@training
def cut_passages(dataset: Input[Dataset], hard_negatives: int, passages: Output[Dataset]) -> None:
    """The checked file in DPR's layout: passages, positives, hard negatives by BM25."""
    run_step("quarry_training.dpr_data", "--data", dataset.path, "--hard-negatives", hard_negatives, "--out", passages.path)


@training
def fit_reader(
    dataset: Input[Dataset], base: str, epochs: float, learning_rate: float, max_seconds: float, lora_rank: int, seed: int, model: Output[Model]
) -> None:
    """Fine-tune the span reader."""
    options = ["--epochs", epochs, "--learning-rate", learning_rate, "--max-seconds", max_seconds, "--lora", lora_rank, "--seed", seed]
    run_step("quarry_training.fit", "--base", base, "--data", f"{dataset.path}/train.json", "--out", model.path, *options)


@training
def fit_retriever(
    passages: Input[Dataset], base: str, epochs: float, learning_rate: float, max_seconds: float, separate: bool, seed: int, model: Output[Model]
) -> None:
    """Fine-tune the dual encoder."""
    options = ["--epochs", epochs, "--learning-rate", learning_rate, "--max-seconds", max_seconds, "--seed", seed, *(["--separate"] if separate else [])]
    run_step("quarry_training.fit_retriever", "--base", base, "--data", f"{passages.path}/train.json", "--out", model.path, *options)


@training
def calibrate_reader(dataset: Input[Dataset], model: Input[Model], min_answered: float, max_wrong: float, calibration: Output[Artifact]) -> None:
    """Fit confidence and the threshold to abstain below: for a largest share wrong if `max_wrong` is set, else for `min_answered`."""
    data = ["--data", f"{dataset.path}/dev.json", "--contexts", f"{dataset.path}/train.json"]
    target = ["--max-wrong", max_wrong] if max_wrong else ["--min-answered", min_answered]
    run_step("quarry_training.calibrate", "--model", model.path, *data, *target, "--out", calibration.path)


@training
def export_reader(dataset: Input[Dataset], model: Input[Model], calibration: Input[Artifact], base: str, artefact: Output[Model]) -> None:
    """Export to ONNX, with the parity check."""
    made = ["--model", model.path, "--base", base, "--calibration", calibration.path, "--report", f"{dataset.path}/report.json"]
    run_step("quarry_training.export", "reader", *made, "--out", artefact.path)


@training
def export_retriever(dataset: Input[Dataset], model: Input[Model], base: str, artefact: Output[Model]) -> None:
    """Export question and passage encoder to ONNX, with the parity check."""
    made = ["--model", model.path, "--base", base, "--report", f"{dataset.path}/report.json"]
    run_step("quarry_training.export", "retriever", *made, "--out", artefact.path)


@training
def export_packaged_retriever(base: str, artefact: Output[Model]) -> None:
    """Export the packaged sentence encoder as question and passage encoder, with the parity check."""
    run_step("quarry_training.export", "retriever", "--base", base, "--out", artefact.path)


@training
def evaluate(dataset: Input[Dataset], artefact: Input[Model], evaluation: Output[Dataset], metrics: Output[Metrics]) -> None:
    """The exported model on the held-out questions."""
    import json

    run_step("quarry_training.evaluate", "--artefact", artefact.path, "--data", f"{dataset.path}/dev.json", "--out", evaluation.path)
    with open(evaluation.path) as file:  # noqa: PTH123 - a component's body stands alone
        result = json.load(file)
    for name, value in result.items():
        if isinstance(value, float):
            metrics.log_metric(name, value)


@training
def register_reader(
    dataset: Input[Dataset],
    model: Input[Model],
    calibration: Input[Artifact],
    artefact: Input[Model],
    evaluation: Input[Dataset],
    mlflow_uri: str,
    version: Output[Artifact],
) -> str:
    """Register the artefact folder in MLflow as challenger; returns the model version's URI."""
    made = ["--artefact", artefact.path, "--model", model.path, "--calibration", calibration.path]
    reports = ["--report", f"{dataset.path}/report.json", "--evaluation", evaluation.path]
    run_step("quarry_training.register", *made, *reports, "--out", version.path, MLFLOW_TRACKING_URI=mlflow_uri)
    with open(version.path) as file:  # noqa: PTH123
        return file.read()


@training
def register_retriever(
    dataset: Input[Dataset], model: Input[Model], artefact: Input[Model], evaluation: Input[Dataset], mlflow_uri: str, version: Output[Artifact]
) -> str:
    """Register the artefact folder in MLflow as challenger; returns the model version's URI."""
    made = ["--artefact", artefact.path, "--model", model.path, "--report", f"{dataset.path}/report.json", "--evaluation", evaluation.path]
    run_step("quarry_training.register", *made, "--out", version.path, MLFLOW_TRACKING_URI=mlflow_uri)
    with open(version.path) as file:  # noqa: PTH123
        return file.read()


@training
def register_first(artefact: Input[Model], mlflow_uri: str, version: Output[Artifact]) -> str:
    """Register the artefact folder as the first champion of its model; returns the model version's URI."""
    run_step("quarry_training.register", "--artefact", artefact.path, "--alias", "champion", "--out", version.path, MLFLOW_TRACKING_URI=mlflow_uri)
    with open(version.path) as file:  # noqa: PTH123
        return file.read()


@training
def gate(version: str, dataset: Input[Dataset], policy: str, mlflow_uri: str, verdict: Output[Artifact], report: Output[Markdown]) -> str:
    """Judge a model version against the present champion on the held-out questions, and put the verdict on it; returns passed or refused.

    Exit code 2 of the script, it could not be judged, fails the step.
    """
    import shutil
    import tempfile

    data = ["--data", f"{dataset.path}/dev.json", *(["--policy", policy] if policy else [])]
    with tempfile.TemporaryDirectory() as home:
        options = ["--challenger", version, "--against-champion", "--home", home, "--out", verdict.path]
        code = run_step("quarry_training.gate", *options, *data, accept=(0, 1), MLFLOW_TRACKING_URI=mlflow_uri)
    shutil.copy(f"{verdict.path}/report.md", report.path)
    recorded = ["--verdict", f"{verdict.path}/gate.json", "--record-only"]
    run_step("quarry_training.promote", version, *recorded, MLFLOW_TRACKING_URI=mlflow_uri)
    return "passed" if code == 0 else "refused"


@training
def promote(version: str, mlflow_uri: str) -> str:
    """Make a version champion, on the verdict recorded on it; returns its URI."""
    run_step("quarry_training.promote", version, MLFLOW_TRACKING_URI=mlflow_uri)
    return version


@training
def fetch_retriever(version: str, home: str, mlflow_uri: str, fetched: Output[Artifact]) -> str:
    """Bring a retriever's artefact folder under `home`, checked by digest; returns the folder."""
    import json

    run_step("quarry_training.release", "fetch", "--home", home, "--retriever", version, "--out", fetched.path, MLFLOW_TRACKING_URI=mlflow_uri)
    with open(fetched.path) as file:  # noqa: PTH123
        return str(json.load(file)["folder"])


@ingestion
def build_index(documents: str, home: str, model_dir: str) -> str:
    """Extract, cut and encode a folder of documents into an index generation under `home`; returns the retriever's folder."""
    run_step("quarry_ingestion", documents, "--home", home, "--model-dir", model_dir)
    return model_dir


@training
def bind_release(reader: str, retriever: str, home: str, mlflow_uri: str, release: Output[Artifact]) -> str:
    """Bind models and the retriever's index into a release, checked to belong together; returns its id."""
    import json

    parts = ["--reader", reader, "--retriever", retriever, "--home", home, "--out", release.path]
    run_step("quarry_training.release", "release", *parts, MLFLOW_TRACKING_URI=mlflow_uri)
    with open(release.path) as file:  # noqa: PTH123
        return str(json.load(file)["release_id"])
