"""The model registry: model versions in MLflow, written so that doing anything twice changes nothing, and fetched with every check.

A version is created after all its files are in the store, and found again by the digest of what it holds; a killed registration
therefore leaves either no version or a whole one, and running it again finishes what is missing.
"""

import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
import requests
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from quarry_contract.manifests import MODEL_MANIFEST, ManifestError, ModelManifest, read_manifest

from .formats import DESCRIPTION, artefact_digest, check_artefact, check_names

EXPERIMENT = "quarry"
CHAMPION = "champion"
CHALLENGER = "challenger"
MODEL_FOLDER = "model"  # in the run's artefacts
DIGEST_TAG = "artefact_digest"
# What the commands print is JSON, so MLflow's own lines stay off.
CLIENT_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
# At every request MLflow looks eleven times for what only Databricks has. Python does not remember that it found nothing, and looking
# again is half of a client's processor time.
for absent in ("dbruntime", "IPython"):
    if find_spec(absent) is None:
        sys.modules[absent] = None  # type: ignore[assignment]


class RegistryError(ManifestError):
    """The registry cannot be reached, or does not hold or may not do what was asked; the message says what to do."""


@contextmanager
def registry() -> Iterator[MlflowClient]:
    """A client of the server at MLFLOW_TRACKING_URI, whose failures are RegistryError.

    MLflow by itself retries for minutes; a server that is down is told within half a minute, unless the environment says otherwise.
    """
    for name, value in CLIENT_SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        yield MlflowClient()
    except (MlflowException, requests.RequestException) as error:
        reason = re.split(r"[\n]| with url", str(error))[0][:300]
        hint = "make sure that it runs and run the same again: what is already there is kept, and nothing is registered twice"
        raise RegistryError(f"MLflow at {mlflow.get_tracking_uri()} failed: {reason}; {hint}") from error


def resolve(client: MlflowClient, reference: str) -> ModelVersion:
    """The version that models:/name/N or models:/name@alias names.

    Raises:
        RegistryError: it is neither, or there is none.
    """
    form = re.fullmatch(r"models:/([\w.-]+)(?:/(\d+)|@([\w-]+))", reference)
    if form is None:
        raise RegistryError(f"{reference!r} names no model version: write models:/name/N or models:/name@alias")
    name, number, alias = form.groups()
    number = number or aliases(client, name).get(alias)
    found = [v for v in client.search_model_versions(f"name='{name}'") if str(v.version) == number]
    if not found:
        raise RegistryError(f"there is no {reference} in the registry at {mlflow.get_tracking_uri()}")
    return found[0]


def uri_of(version: ModelVersion) -> str:
    """models:/name/N."""
    return f"models:/{version.name}/{version.version}"


def aliases(client: MlflowClient, name: str) -> dict[str, str]:
    """Alias -> version number; empty for a model that is not registered."""
    found = client.search_registered_models(f"name='{name}'")
    return {alias: str(number) for alias, number in found[0].aliases.items()} if found else {}


def champion_of(reference: str) -> str | None:
    """The present champion of the model that models:/name/N belongs to, as models:/name/N; None before the first.

    Raises:
        RegistryError: no such version, or no server.
    """
    with registry() as client:
        name = resolve(client, reference).name
        number = aliases(client, name).get(CHAMPION)
    return f"models:/{name}/{number}" if number else None


def find(client: MlflowClient, name: str, digest: str) -> ModelVersion | None:
    """The lowest version of the model that holds this artefact."""
    versions = [v for v in client.search_model_versions(f"name='{name}'") if v.tags.get(DIGEST_TAG) == digest]
    return min(versions, key=lambda v: int(v.version), default=None)


def open_run(client: MlflowClient, manifest: ModelManifest, registration: str, params: Mapping[str, str], metrics: list[Metric]) -> str:
    """The id of the run that records this registration, new or as a killed attempt left it."""
    experiment = mlflow.set_experiment(EXPERIMENT).experiment_id
    found = client.search_runs([experiment], f"tags.registration = '{registration}'", order_by=["attributes.start_time ASC"], max_results=1)
    tags = tags_of(manifest) | {"registration": registration}
    run = found[0] if found else client.create_run(experiment, tags=tags, run_name=f"train-{manifest.name}")
    client.log_batch(run.info.run_id, metrics=metrics, params=[Param(k, v) for k, v in params.items()])
    return str(run.info.run_id)


def tags_of(manifest: ModelManifest) -> dict[str, str]:
    """What a run and a model version say about their model."""
    return {
        DIGEST_TAG: artefact_digest(manifest),
        "model_digest": manifest.digest,
        "data_digest": manifest.data_digest or "none",
        "code_commit": manifest.code_commit or "unknown",
    }


def upload(client: MlflowClient, run_id: str, folder: str, files: Mapping[str, Path]) -> None:
    """Put the files that are not there yet, or not whole, into a folder of the run's artefacts, in the order given.

    Raises:
        RegistryError: the store does not hold them whole afterwards.
    """
    if not files:
        return
    sizes = {name: path.stat().st_size for name, path in files.items()}
    there = _listing(client, run_id, folder)
    for name, path in files.items():
        if there.get(name) != sizes[name]:
            client.log_artifact(run_id, str(path), folder)
    there = _listing(client, run_id, folder)
    broken = [name for name in files if there.get(name) != sizes[name]]
    if broken:
        raise RegistryError(f"{broken[0]} did not arrive whole in the artefact store: run the same again")


def _listing(client: MlflowClient, run_id: str, folder: str) -> dict[str, int]:
    return {Path(f.path).name: f.file_size for f in client.list_artifacts(run_id, folder)}


def create_version(client: MlflowClient, manifest: ModelManifest, run_id: str) -> ModelVersion:
    """A version over the run's model folder; of two made at the same time the lower stays."""
    try:
        client.create_registered_model(manifest.name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    made = client.create_model_version(manifest.name, source=f"runs:/{run_id}/{MODEL_FOLDER}", run_id=run_id, tags=tags_of(manifest))
    first = find(client, manifest.name, artefact_digest(manifest))
    if first is None or int(first.version) >= int(made.version):
        return made
    client.delete_model_version(made.name, made.version)
    return first


def fetch(reference: str, home: Path) -> tuple[str, Path]:
    """Download a model version into `home/models/<name>/<version>`, once; returns (models:/name/N, folder).

    `reference` is models:/name/N or models:/name@alias. Nothing that the manifest does not list is downloaded.

    Raises:
        ManifestError: the artefact is not whole, holds something else, or is not the one that was registered.
        RegistryError: no such version, or no server.
    """
    with registry() as client:
        version = resolve(client, reference)
        folder = home / "models" / version.name / str(version.version)
        if not (folder / MODEL_MANIFEST).exists():
            partial = folder.with_name(f"{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            _download(client, version, partial)
            _check(version, partial)
            partial.rename(folder)
    _check(version, folder)
    return uri_of(version), folder


def _check(version: ModelVersion, folder: Path) -> None:
    manifest = check_artefact(folder)
    if version.tags.get(DIGEST_TAG) != artefact_digest(manifest):
        raise ManifestError(f"{uri_of(version)} holds another artefact than the one that was registered: register the model again")


def check_whole(client: MlflowClient, version: ModelVersion) -> None:
    """Whether the store holds every file of a version, and no other; sizes are compared, digests are checked by fetch.

    Raises:
        ManifestError: it does not.
    """
    with TemporaryDirectory() as scratch:
        manifest = _manifest(client, version, Path(scratch))
    sizes = _listing(client, version.run_id, MODEL_FOLDER)
    broken = [name for name, f in manifest.files.items() if sizes[name] != f.bytes]
    if broken:
        raise ManifestError(f"{broken[0]} of {uri_of(version)} is not whole: register the model again, which completes the version")


def _manifest(client: MlflowClient, version: ModelVersion, into: Path) -> ModelManifest:
    """Download model.json alone, and compare what it lists with what is there."""
    if not version.run_id or version.source != f"runs:/{version.run_id}/{MODEL_FOLDER}":
        raise ManifestError(f"{uri_of(version)} was not registered by quarry_training.register: register the model with it")
    names = [*_listing(client, version.run_id, MODEL_FOLDER)]
    if MODEL_MANIFEST not in names:
        raise ManifestError(f"{uri_of(version)} has no {MODEL_MANIFEST}: register the model again, which completes the version")
    manifest = read_manifest(_get(client, version, MODEL_MANIFEST, into), ModelManifest)
    check_names(manifest, names)
    return manifest


def _download(client: MlflowClient, version: ModelVersion, into: Path) -> None:
    with TemporaryDirectory(dir=into.parent) as scratch:
        manifest = _manifest(client, version, Path(scratch))
        for name in [*manifest.files, *_listing(client, version.run_id, MODEL_FOLDER).keys() & {*DESCRIPTION}, MODEL_MANIFEST]:
            _get(client, version, name, Path(scratch)).rename(into / name)


def _get(client: MlflowClient, version: ModelVersion, name: str, into: Path) -> Path:
    return Path(client.download_artifacts(version.run_id, f"{MODEL_FOLDER}/{name}", str(into)))
