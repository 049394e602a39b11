"""Registration that is killed, raced or left without a server; promotion; and artefacts that must never be loaded. On both kinds of store."""

import itertools
import json
import os
import pickle
import shutil
import signal
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from quarry_contract.manifests import MODEL_MANIFEST, ManifestError, ModelManifest, digest_file, read_manifest, write_manifest

from quarry_training.formats import artefact_digest, check_artefact
from quarry_training.promote import promote, record
from quarry_training.register import add, register
from quarry_training.registry import RegistryError, aliases, check_whole, fetch

from .proxy import Proxy, proxy, start


def artefact(source: Path, out: Path, name: str, **fields: Any) -> Path:
    """A copy of the tiny reader's artefact under another model name."""
    shutil.copytree(source / "reader", out)
    write_manifest(out / MODEL_MANIFEST, replace(read_manifest(out / MODEL_MANIFEST, ModelManifest), name=name, **fields))
    return out


def run(link: Proxy, folder: Path, log: Path, kill_after: int = 0) -> int:
    """Register `folder` as champion from a process of its own, killed once the server has done its request number `kill_after`."""
    link.reset()
    process = start(link.uri, log, "--artefact", str(folder), "--alias", "champion", "--evaluation", str(folder.parent / "evaluation.json"))
    if kill_after:
        link.after = lambda number, path: os.kill(process.pid or 0, signal.SIGKILL) if number == kill_after else None
    process.join(120)
    assert process.exitcode is not None
    return process.exitcode


def state(name: str, home: Path) -> dict[str, Any]:
    """All that the registry holds of a model, each version fetched and checked."""
    client = MlflowClient()
    versions = client.search_model_versions(f"name='{name}'")
    runs = client.search_runs([client.get_experiment_by_name("quarry").experiment_id], f"attributes.run_name = 'train-{name}'")
    return {
        "versions": [(int(v.version), sorted(p.name for p in fetch(f"models:/{name}/{v.version}", home)[1].iterdir())) for v in versions],
        "aliases": aliases(client, name),
        "runs": [(r.info.status, r.data.metrics, sorted(f.path for f in client.list_artifacts(r.info.run_id, "reports"))) for r in runs],
        "history": [len(client.get_metric_history(r.info.run_id, "eval_f1")) for r in runs],
    }


def test_killed_after_any_request_and_run_again_it_ends_in_the_same_state(
    registry_server: str, artefacts: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    (tmp_path / "evaluation.json").write_text('{"f1": 80.5}')
    with proxy(registry_server) as link:
        assert run(link, artefact(artefacts, tmp_path / "whole", "whole"), tmp_path / "log") == 0
        expected = state("whole", tmp_path)
        assert (len(expected["versions"]), expected["aliases"], len(expected["runs"])) == (1, {"champion": "1"}, 1)
        # Every request once; the other store, where all is slower, at every fourth.
        for number in itertools.count(1, 1 if "sqlite" in request.node.name else 4):
            name = f"killed-{number}"
            folder = artefact(artefacts, tmp_path / name, name)
            code = run(link, folder, tmp_path / "log", number)
            if code == 0:
                break
            assert code == -signal.SIGKILL, (tmp_path / "log").read_text()
            for version in MlflowClient().search_model_versions(f"name='{name}'"):
                check_whole(MlflowClient(), version)
            assert run(link, folder, tmp_path / "log") == 0, (tmp_path / "log").read_text()
            assert state(name, tmp_path) == expected
    assert link.writes[-1].endswith("registered-models/alias")  # the last run was not killed: every request had its turn
    assert number > 12


def test_without_a_server_from_the_start_or_from_any_point_on(registry_server: str, artefacts: Path, tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text('{"f1": 80.5}')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    with proxy(registry_server) as link:
        for number, point in enumerate(("runs/create", "model.onnx", "model-versions/create", "registered-models/alias")):
            folder = artefact(artefacts, tmp_path / f"down-{number}", f"down-{number}")
            link.reset()

            def stop(_: int, path: str, at: str = point) -> None:
                link.down = link.down or at in path

            link.before = stop
            process = start(link.uri if number else nobody, tmp_path / "log", "--artefact", str(folder), "--alias", "champion")
            process.join(120)
            said = (tmp_path / "log").read_text()
            assert process.exitcode == 1
            assert "failed" in said and "run the same again" in said and "Traceback" not in said
            for version in MlflowClient().search_model_versions(f"name='down-{number}'"):
                check_whole(MlflowClient(), version)
            assert run(link, folder, tmp_path / "log") == 0
            assert [v for v, _ in state(f"down-{number}", tmp_path)["versions"]] == [1]


def test_of_two_registrations_at_the_same_time_one_version_stays(registry_server: str, artefacts: Path, tmp_path: Path) -> None:
    folder = artefact(artefacts, tmp_path / "raced", "raced")
    with proxy(registry_server) as link:
        link.before = lambda number, path: add(folder, {}, {}, [], []) and None if path.endswith("model-versions/create") else None
        process = start(link.uri, tmp_path / "log", "--artefact", str(folder))
        process.join(120)
        assert process.exitcode == 0
    assert [v for v, _ in state("raced", tmp_path)["versions"]] == [1]


def test_a_version_that_lost_a_file_is_refused_and_registering_again_completes_it(registry_server: str, artefacts: Path, tmp_path: Path) -> None:
    folder = artefact(artefacts, tmp_path / "lost", "lost")
    uri = add(folder, {}, {}, [], [])
    version = MlflowClient().get_model_version("lost", "1")
    repository = mlflow.store.artifact.artifact_repository_registry.get_artifact_repository(f"{MlflowClient().get_run(version.run_id).info.artifact_uri}/model")
    repository.delete_artifacts("model.onnx")
    with pytest.raises(ManifestError, match=r"model\.onnx is missing"):
        fetch(uri, tmp_path)
    with pytest.raises(ManifestError, match=r"model\.onnx is missing"):
        promote(uri, bootstrap=True)
    assert not (tmp_path / "models" / "lost" / "1").exists()
    assert add(folder, {}, {}, [], []) == uri
    assert fetch(uri, tmp_path)[0] == uri


def verdict(path: Path, candidate: Path, champion: Path | None, passed: bool = True) -> Path:
    digests = [artefact_digest(read_manifest(f / MODEL_MANIFEST, ModelManifest)) if f else None for f in (candidate, champion)]
    path.write_text(json.dumps({"verdict": "passed" if passed else "refused", "challenger": digests[0], "champion": digests[1], "reasons": []}))
    return path


def test_only_a_passed_gate_on_that_very_version_replaces_the_champion(registry_server: str, artefacts: Path, tmp_path: Path) -> None:
    old, new, other = (artefact(artefacts, tmp_path / x, "gated", max_answer_tokens=n) for n, x in enumerate(("old", "new", "other"), 40))
    first, second, third = register(old, "champion", {}, {}, [], []), add(new, {}, {}, [], []), add(other, {}, {}, [], [])
    with pytest.raises(RegistryError, match="no gate verdict"):
        promote(second, bootstrap=True)
    with pytest.raises(RegistryError, match="on another artefact"):
        record(second, verdict(tmp_path / "v.json", other, old))
    assert record(second, verdict(tmp_path / "v.json", new, old, passed=False)) is False
    with pytest.raises(RegistryError, match="the gate refused"):
        promote(second)
    MlflowClient().set_model_version_tag("gated", "2", "gate_verdict", "passed")
    with pytest.raises(RegistryError, match="the gate refused"):
        promote(second)
    MlflowClient().set_model_version_tag("gated", "2", "gate_verdict_digest", digest_file(verdict(tmp_path / "v.json", new, old)).sha256)
    with pytest.raises(RegistryError, match="not stored"):
        promote(second)
    assert aliases(MlflowClient(), "gated") == {"champion": "1", "challenger": "3"}
    assert record(second, tmp_path / "v.json") and record(third, verdict(tmp_path / "v3.json", other, old))
    assert promote(second) == promote(second) == second
    with pytest.raises(RegistryError, match="present champion"):
        promote(third)
    assert aliases(MlflowClient(), "gated") == {"champion": "2", "challenger": "3"}
    MlflowClient().delete_registered_model_alias("gated", "champion")
    with pytest.raises(RegistryError, match="no gate verdict"):
        promote(first, bootstrap=True)


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


POISONS = {
    "unlisted": ("python_model.pkl", False, "does not belong"),
    "listed": ("pytorch_model.bin", True, "never read"),
    "disguised": ("model.onnx", True, "not what its name says"),
    "weights": ("model.safetensors", True, "not what its name says"),
    "loader": ("MLmodel", False, "names a loader"),
}


@pytest.mark.parametrize("kind", POISONS)
def test_a_poisoned_version_is_refused_and_runs_nothing(kind: str, registry_server: str, artefacts: Path, tmp_path: Path) -> None:
    """Written to the store past register, by someone who may write there."""
    name, listed, message = POISONS[kind]
    folder = artefact(artefacts, tmp_path / "poisoned", f"poison-{kind}")
    content = b"flavors:\n  python_function:\n    loader_module: os\n" if name == "MLmodel" else pickle.dumps(Bomb(tmp_path / "exploded"))
    (folder / name).write_bytes(content)
    manifest = read_manifest(folder / MODEL_MANIFEST, ModelManifest)
    if listed:
        manifest = replace(manifest, files={**manifest.files, name: digest_file(folder / name)})
        write_manifest(folder / MODEL_MANIFEST, manifest)
    with pytest.raises(ManifestError, match=message):
        add(folder, {}, {}, [], [])
    client = MlflowClient()
    run_id = client.create_run(mlflow.set_experiment("quarry").experiment_id).info.run_id
    client.log_artifacts(run_id, str(folder), "model")
    client.create_registered_model(manifest.name)
    client.create_model_version(manifest.name, f"runs:/{run_id}/model", run_id, tags={"artefact_digest": artefact_digest(manifest)})
    with pytest.raises(ManifestError, match=message):
        fetch(f"models:/{manifest.name}/1", tmp_path)
    assert not (tmp_path / "models" / manifest.name / "1").exists()
    assert not (tmp_path / "exploded").exists()


def test_a_version_whose_files_were_exchanged_with_their_manifest_is_refused(registry_server: str, artefacts: Path, tmp_path: Path) -> None:
    uri = add(artefact(artefacts, tmp_path / "a", "exchanged"), {}, {}, [], [])
    other = artefact(artefacts, tmp_path / "b", "exchanged", max_answer_tokens=7)
    MlflowClient().log_artifacts(MlflowClient().get_model_version("exchanged", "1").run_id, str(other), "model")
    with pytest.raises(ManifestError, match="another artefact than the one that was registered"):
        fetch(uri, tmp_path)


def test_links_and_folders_in_a_fetched_artefact_are_refused(artefacts: Path, tmp_path: Path) -> None:
    folder = artefact(artefacts, tmp_path / "a", "links")
    (folder / "tokenizer.json").rename(tmp_path / "elsewhere.json")
    (folder / "tokenizer.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(ManifestError, match="not a plain file"):
        check_artefact(folder)
    folder = artefact(artefacts, tmp_path / "b", "folders")
    (folder / "README.md").mkdir()
    with pytest.raises(ManifestError, match="not a plain file"):
        check_artefact(folder)


@pytest.mark.parametrize("reference", ["reader", "models:/reader", "models:/../reader/1", "models:/nobody/1", "models:/nobody@champion"])
def test_a_reference_to_nothing_is_refused(reference: str, registry_server: str, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="models:/"):
        fetch(reference, tmp_path)
