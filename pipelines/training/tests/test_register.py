"""Register, fetch and release against real MLflow servers: SQLite and a folder, PostgreSQL and S3."""

import shutil
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import onnxruntime
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from quarry_contract.manifests import (
    INDEX_MANIFEST,
    MODEL_MANIFEST,
    Calibration,
    Chunker,
    IndexManifest,
    ManifestError,
    ModelManifest,
    read_manifest,
    write_manifest,
)
from quarry_contract.releases import INDEX_TARGETS, release_path

from quarry_training.register import register
from quarry_training.release import fetch, release


@pytest.fixture(autouse=True)
def tracking(registry_server: str) -> None:
    """Every test here runs on both."""


def index(home: Path, generation: str, encoder_digest: str) -> None:
    (home / "index" / generation).mkdir(parents=True)
    chunker = Chunker("sentences", 1, 200, 1)
    manifest = IndexManifest(generation, "2026-01-01T00:00:00+00:00", encoder_digest, 32, chunker, 1, "canary", (0.0,) * 32)
    write_manifest(home / "index" / generation / INDEX_MANIFEST, manifest)


def test_a_registered_model_comes_back_whole_by_version_and_alias(artefacts: Path, tmp_path: Path) -> None:
    (tmp_path / "plot.png").write_bytes(b"png")
    uri = register(artefacts / "reader", "champion", {"seed": 1}, {"eval_f1": 80.5}, [tmp_path / "plot.png"], [2.0, 1.0])
    fetched, folder = fetch("models:/reader@champion", tmp_path)
    assert fetched == uri
    manifest = read_manifest(folder / MODEL_MANIFEST, ModelManifest)
    assert manifest.digest == read_manifest(artefacts / "reader" / MODEL_MANIFEST, ModelManifest).digest
    version = MlflowClient().get_model_version_by_alias("reader", "champion")
    run = MlflowClient().get_run(version.run_id)
    assert version.tags["model_digest"] == manifest.digest
    assert run.data.params["seed"] == "1"
    assert run.data.metrics["eval_f1"] == 80.5
    assert [f.path for f in MlflowClient().list_artifacts(version.run_id, "reports")] == ["reports/plot.png"]


def test_a_version_explains_itself(artefacts: Path, tmp_path: Path) -> None:
    uri = register(artefacts / "reader", "challenger", {}, {}, [], [])
    _, folder = fetch(uri, tmp_path)
    info = mlflow.models.get_model_info(uri)
    assert [x.name for x in info.signature.inputs] == ["input_ids", "attention_mask", "token_type_ids"]
    assert [x.name for x in info.signature.outputs] == ["start_logits", "end_logits"]
    example = Model.load(str(folder)).load_input_example(str(folder))
    start, end = onnxruntime.InferenceSession(str(folder / "model.onnx")).run(None, {k: np.asarray(v, np.int64) for k, v in example.items()})
    assert start.shape == end.shape == np.asarray(example["input_ids"]).shape
    assert "written last" in (folder / "README.md").read_text()
    with pytest.raises(MlflowException):
        mlflow.pyfunc.load_model(uri)


def test_the_same_artefact_is_the_same_version_and_another_calibration_another(artefacts: Path, tmp_path: Path) -> None:
    first = register(artefacts / "reader", "challenger", {}, {}, [], [])
    shutil.copytree(artefacts / "reader", tmp_path / "again")
    manifest = read_manifest(tmp_path / "again" / MODEL_MANIFEST, ModelManifest)
    write_manifest(tmp_path / "again" / MODEL_MANIFEST, replace(manifest, created="2026-01-02T03:04:05+00:00"))
    assert register(tmp_path / "again", "challenger", {"seed": 2}, {}, [], []) == first
    write_manifest(tmp_path / "again" / MODEL_MANIFEST, replace(manifest, calibration=Calibration(0.5, 0.0, 0.9)))
    second = register(tmp_path / "again", "challenger", {}, {}, [], [])
    assert second != first
    assert fetch("models:/reader@challenger", tmp_path)[0] == second
    assert fetch(first, tmp_path)[0] == first


def test_a_damaged_artefact_is_not_registered(artefacts: Path, tmp_path: Path) -> None:
    shutil.copytree(artefacts / "reader", tmp_path / "bad")
    (tmp_path / "bad" / "tokenizer.json").write_text("{}")
    before = len(MlflowClient().search_model_versions("name='reader'"))
    with pytest.raises(ManifestError):
        register(tmp_path / "bad", "champion", {}, {}, [], [])
    assert len(MlflowClient().search_model_versions("name='reader'")) == before


def test_a_release_binds_what_belongs_together(artefacts: Path, tmp_path: Path) -> None:
    reader, retriever = (register(artefacts / name, "champion", {}, {}, [], []) for name in ("reader", "retriever"))
    index(tmp_path, "g1", read_manifest(artefacts / "retriever" / MODEL_MANIFEST, ModelManifest).digest)
    made = release(tmp_path, "models:/reader@champion", "models:/retriever@champion", "g1")
    assert (made.reader, made.retriever, made.threshold) == (reader, retriever, 0.4)
    path = release_path(tmp_path, made.release_id)
    written = path.stat().st_mtime_ns
    with pytest.raises(ManifestError, match="no index was encoded by models:/retriever/"):
        release(tmp_path, reader, retriever)
    (tmp_path / "index" / INDEX_TARGETS).write_text('[{"generation": "g1", "model_dir": "m"}]')
    assert release(tmp_path, reader, retriever) == made
    assert path.stat().st_mtime_ns == written
    path.write_text(path.read_text().replace('"threshold": 0.4', '"threshold": 0.1'))
    with pytest.raises(ManifestError, match="it was changed"):
        release(tmp_path, reader, retriever)


def test_an_index_of_another_encoder_is_not_released(artefacts: Path, tmp_path: Path) -> None:
    for name in ("reader", "retriever"):
        register(artefacts / name, "champion", {}, {}, [], [])
    index(tmp_path, "g2", "f" * 64)
    with pytest.raises(ManifestError, match="encoded by another retriever"):
        release(tmp_path, "models:/reader@champion", "models:/retriever@champion", "g2")
    assert not (tmp_path / "releases").exists()
