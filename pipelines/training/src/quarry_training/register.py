"""Register an artefact folder as a model version in MLflow: a run with parameters, metrics and plots, the version, and an alias.

Run it again after any interruption: it finds what is there and adds what is missing. The champion is chosen in promote.py alone.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow.entities import Metric
from quarry_contract.manifests import MODEL_MANIFEST, ManifestError, ModelManifest, digest_of

from .describe import describe
from .formats import artefact_digest, check_artefact
from .promote import promote
from .registry import CHALLENGER, CHAMPION, MODEL_FOLDER, aliases, create_version, find, open_run, registry, upload, uri_of

MAX_PARAM = 6000  # characters, MLflow's limit


def register(
    artefact: Path, alias: str, params: Mapping[str, object], metrics: Mapping[str, float], attachments: Sequence[Path], losses: Sequence[float]
) -> str:
    """Add the artefact to the registry as challenger and, if `alias` is champion, promote it as the first; returns e.g. models:/reader/3.

    Raises:
        ManifestError: the artefact folder is not whole, or holds what is never loaded.
        RegistryError: the server failed, or the version may not become champion: it stays registered as challenger.
    """
    uri = add(artefact, params, metrics, attachments, losses)
    if alias == CHAMPION:
        promote(uri, bootstrap=True)
    return uri


def add(artefact: Path, params: Mapping[str, object], metrics: Mapping[str, float], attachments: Sequence[Path], losses: Sequence[float]) -> str:
    """The model version that holds this artefact, new or already there, whole, and challenger unless it is champion."""
    manifest = check_artefact(artefact)
    texts = {k: str(v)[:MAX_PARAM] for k, v in params.items()}
    with registry() as client, TemporaryDirectory() as scratch:
        version = find(client, manifest.name, artefact_digest(manifest))
        if version is None or not version.run_id:
            run_id = open_run(client, manifest, digest_of([artefact_digest(manifest), texts]), texts, _metrics(manifest, metrics, losses))
        else:
            run_id = version.run_id
        files = [*(artefact / name for name in manifest.files), *describe(artefact, manifest, Path(scratch)), artefact / MODEL_MANIFEST]
        upload(client, run_id, MODEL_FOLDER, {path.name: path for path in files})
        upload(client, run_id, "reports", {path.name: path for path in attachments})
        client.set_terminated(run_id)
        version = version or create_version(client, manifest, run_id)
        if aliases(client, manifest.name).get(CHAMPION) != str(version.version):
            client.set_registered_model_alias(manifest.name, CHALLENGER, version.version)
        return uri_of(version)


def _metrics(manifest: ModelManifest, metrics: Mapping[str, float], losses: Sequence[float]) -> list[Metric]:
    """All at the artefact's own time, so that logging them again adds nothing."""
    time = int(datetime.fromisoformat(manifest.created).timestamp() * 1000)
    curve = [Metric("loss", losses[step], time, step) for step in range(0, len(losses), max(1, len(losses) // 200))]
    return [Metric(k, v, time, 0) for k, v in {**manifest.metrics, **metrics}.items()] + curve


def main() -> None:
    """`python -m quarry_training.register`; the server is MLFLOW_TRACKING_URI."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artefact", type=Path, required=True)
    parser.add_argument("--alias", default=CHALLENGER, choices=[CHALLENGER, CHAMPION], help="champion only if the model has none yet, or after a passed gate")
    parser.add_argument("--model", type=Path, help="the folder fit wrote: its settings, losses")
    parser.add_argument("--calibration", type=Path, help="the folder calibrate wrote: its plots")
    parser.add_argument("--report", type=Path, help="the dataset check's report.json")
    parser.add_argument("--evaluation", type=Path)
    parser.add_argument("--out", type=Path, help="write the model version's URI here")
    args = parser.parse_args()
    try:
        uri = _add(args)
        if args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(uri)
    except (ManifestError, OSError, ValueError, KeyError) as error:
        sys.exit(f"not registered: {error}")
    try:
        if args.alias == CHAMPION:
            promote(uri, bootstrap=True)
    except ManifestError as error:
        sys.exit(f"{uri} is registered, not promoted: {error}")
    print(json.dumps({"model_version": uri, "alias": args.alias}))


def _add(args: argparse.Namespace) -> str:
    params: dict[str, object] = {}
    losses: list[float] = []
    if args.model:
        params = json.loads((args.model / "fit.json").read_text())["settings"]
        curve = args.model / "losses.json"  # not every kind of model has one
        losses = json.loads(curve.read_text()) if curve.exists() else []
    metrics = json.loads(args.evaluation.read_text()) if args.evaluation else {}
    attachments = [p for p in (args.report, args.evaluation) if p]
    attachments += sorted(args.calibration.glob("*.png")) if args.calibration else []
    numbers = {f"eval_{k}": v for k, v in metrics.items() if isinstance(v, float)}
    return add(args.artefact, params, numbers, attachments, losses)


if __name__ == "__main__":
    main()
