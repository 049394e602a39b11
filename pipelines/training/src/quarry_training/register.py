"""Register an artefact folder as a model version in MLflow: a run with parameters, data digest, metrics and plots, and an alias."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from quarry_contract.manifests import MODEL_MANIFEST, ModelManifest, read_manifest, verify_files

EXPERIMENT = "quarry"


def register(
    artefact: Path, alias: str, params: Mapping[str, object], metrics: Mapping[str, float], attachments: Sequence[Path], losses: Sequence[float]
) -> str:
    """Log the run, create the next version of the manifest's model name, point `alias` at it; returns e.g. models:/reader/3.

    Raises:
        ManifestError: the artefact folder is not whole.
    """
    manifest = read_manifest(artefact / MODEL_MANIFEST, ModelManifest)
    verify_files(artefact, manifest.files)
    mlflow.set_experiment(EXPERIMENT)
    with mlflow.start_run(run_name=f"train-{manifest.name}") as run:
        mlflow.log_params({k: str(v) for k, v in params.items()})
        mlflow.set_tags({"data_digest": manifest.data_digest or "none", "code_commit": manifest.code_commit or "unknown", "model_digest": manifest.digest})
        mlflow.log_metrics({**manifest.metrics, **metrics})
        for step in range(0, len(losses), max(1, len(losses) // 200)):
            mlflow.log_metric("loss", losses[step], step=step)
        for path in attachments:
            mlflow.log_artifact(str(path), "reports")
        mlflow.log_artifacts(str(artefact), "model")
    return _version(manifest, run.info.run_id, alias)


def _version(manifest: ModelManifest, run_id: str, alias: str) -> str:
    client = MlflowClient()
    try:
        client.create_registered_model(manifest.name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {"model_digest": manifest.digest, "data_digest": manifest.data_digest or "none", "code_commit": manifest.code_commit or "unknown"}
    version = client.create_model_version(manifest.name, source=f"runs:/{run_id}/model", run_id=run_id, tags=tags)
    client.set_registered_model_alias(manifest.name, alias, version.version)
    return f"models:/{manifest.name}/{version.version}"


def main() -> None:
    """`python -m quarry_training.register`; the server is MLFLOW_TRACKING_URI."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artefact", type=Path, required=True)
    parser.add_argument("--alias", default="champion")
    parser.add_argument("--model", type=Path, help="the folder fit wrote: its settings, losses")
    parser.add_argument("--calibration", type=Path, help="the folder calibrate wrote: its plots")
    parser.add_argument("--report", type=Path, help="the dataset check's report.json")
    parser.add_argument("--evaluation", type=Path)
    parser.add_argument("--out", type=Path, help="write the model version's URI here")
    args = parser.parse_args()
    params: dict[str, object] = {}
    losses: list[float] = []
    if args.model:
        params = json.loads((args.model / "fit.json").read_text())["settings"]
        losses = json.loads((args.model / "losses.json").read_text())
    metrics = json.loads(args.evaluation.read_text()) if args.evaluation else {}
    attachments = [p for p in (args.report, args.evaluation) if p]
    attachments += sorted(args.calibration.glob("*.png")) if args.calibration else []
    numbers = {f"eval_{k}": v for k, v in metrics.items() if isinstance(v, float)}
    uri = register(args.artefact, args.alias, params, numbers, attachments, losses)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(uri)
    print(json.dumps({"model_version": uri, "alias": args.alias}))


if __name__ == "__main__":
    main()
