"""A second retriever's generation beside the live one's: filled from the texts in the index, and kept up to date with it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from quarry_contract.manifests import INDEX_MANIFEST, MODEL_MANIFEST, IndexManifest, ModelManifest, read_manifest
from quarry_contract.messages import Job
from quarry_runtime import tiny

from quarry_ingestion import jobs
from quarry_ingestion.__main__ import digests
from quarry_ingestion.pipeline import reindex, sync
from quarry_ingestion.reconcile import reconcile
from quarry_ingestion.sources import Folder, SourceError
from quarry_ingestion.targets import read_targets
from quarry_ingestion.uploads import work

from .crash import KILLED, in_child, kill_in
from .test_ingest import command, report, rows


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    made = tmp_path_factory.mktemp("encoders")
    for seed in (1, 2):
        tiny.encoder(made / str(seed), ["crane", "wall"], seed=seed)
    return made / "1", made / "2"


@pytest.fixture
def home(tmp_path: Path, models: tuple[Path, Path]) -> Path:
    """With two folders ingested for the first model."""
    (tmp_path / "home").mkdir()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.txt").write_text(f"The crane of {name}.")
        sync(Folder(tmp_path / name), tmp_path / "home", models[0])
    return tmp_path / "home"


def held(home: Path, model: Path) -> list[str]:
    """The documents of a model's generation, checked to be encoded by it."""
    digest = read_manifest(model / MODEL_MANIFEST, ModelManifest).digest
    [generation] = [g for g, folder in read_targets(home) if read_manifest(folder / MODEL_MANIFEST, ModelManifest).digest == digest]
    assert read_manifest(home / "index" / generation / INDEX_MANIFEST, IndexManifest).encoder_digest == digest
    return [name for (name,) in rows(home, generation, "SELECT document_id FROM documents ORDER BY 1")]


def whole(home: Path, model: Path, tmp: Path) -> dict[str, Any]:
    """The digest of the same documents, ingested for this model alone."""
    tmp.mkdir()
    for name in ("one", "two"):
        sync(Folder(home.parent / name), tmp, model)
    return dict(digests(tmp)["digests"])


def test_reindex_needs_no_source_and_ingest_then_writes_to_both(home: Path, models: tuple[Path, Path], tmp_path: Path) -> None:
    (home.parent / "two").rename(home.parent / "away")
    found = reindex(home, models[1])
    assert [found[name] for name in ("documents", "passages", "encoded", "skipped")] == [2, 2, 2, []]
    (home.parent / "away").rename(home.parent / "two")
    assert held(home, models[0]) == held(home, models[1]) == [".two/two.txt", "one.txt"]
    assert reindex(home, models[1])["encoded"] == 0
    (home.parent / "one" / "new.txt").write_text("The wall.")
    (home.parent / "one" / "one.txt").unlink()
    assert sync(Folder(home.parent / "one"), home, models[0])["encoded"] == 2, "one passage in each generation"
    assert held(home, models[0]) == held(home, models[1]) == [".two/two.txt", "new.txt"]
    assert digests(home)["digests"] == whole(home, models[0], tmp_path / "x") | whole(home, models[1], tmp_path / "y")


def test_a_reindex_that_is_killed_is_finished_by_whoever_comes_next(home: Path, models: tuple[Path, Path], tmp_path: Path) -> None:
    assert in_child(lambda: reindex(home, models[1]), kill_in("_level", 2)) == KILLED
    assert held(home, models[1]) == [".two/two.txt"]
    assert sync(Folder(home.parent / "one"), home, models[0])["encoded"] == 1
    assert held(home, models[1]) == [".two/two.txt", "one.txt"]
    assert reconcile(home)["sound"]


def test_reconciliation_alone_makes_the_targets_the_same(home: Path, models: tuple[Path, Path]) -> None:
    """Killed between two targets: one has a document still, or not yet, and nothing but `--reconcile` is run after it."""
    reindex(home, models[1])
    (home.parent / "one" / "one.txt").unlink()
    (home.parent / "two" / "more.txt").write_text("The wall.")
    for folder, step in (("two", "IndexStore.put"), ("one", "IndexStore.delete")):
        assert in_child(lambda: sync(Folder(home.parent / folder), home, models[0]), kill_in(step, 2)) == KILLED  # noqa: B023 - called at once
    assert held(home, models[0]) != held(home, models[1])
    other = read_targets(home)[1][0]
    found = reconcile(home)
    assert found["documents_of_no_item"] == [".two/more.txt"]
    assert found["items_without_document"] == ["one.txt"]
    assert {"generation": other, "document": "one.txt"} in found["differing_targets"]
    assert held(home, models[0]) == held(home, models[1]) == [".two/two.txt"]


def test_a_change_while_it_runs_reaches_both(home: Path, models: tuple[Path, Path]) -> None:
    """A run over a source that began before the second target was there writes to it all the same."""
    (home.parent / "one" / "late.txt").write_text("The late crane.")
    source = Folder(home.parent / "one")
    listing = source.items

    def items() -> Any:
        for number, item in enumerate(listing()):
            if number == 0:
                report(command("--reindex", "--home", home, "--model-dir", models[1]))
            yield item

    source.items = items  # type: ignore[method-assign]
    sync(source, home, models[0])
    assert held(home, models[0]) == held(home, models[1]) == [".two/two.txt", "late.txt", "one.txt"]


def test_a_home_that_was_prepared_takes_uploads_where_the_retriever_is_not(tmp_path: Path, models: tuple[Path, Path]) -> None:
    """As on a cluster: an init container has the retriever, the pod that takes uploads has the volume alone."""
    home, elsewhere = tmp_path / "volume", tmp_path / "models"
    for model in models:
        shutil.copytree(model, elsewhere)
        told = [report(command("--prepare", "--home", home, "--model-dir", elsewhere)) for _ in range(2)]
        assert told[0]["generation"] == told[1]["generation"]
        assert (told[0]["documents"], told[1]["encoded"]) == (held(home, model) != [], 0)
        shutil.rmtree(elsewhere)
        jobs.enqueue(home, Job(model.name, "up.txt", "put", "queued", "2023-11-14T00:00:00+00:00"), b"The crane.", media_type="text/plain")
        done = work(home)
        assert done is not None and (done.state, done.code) == ("done", None)
    assert held(home, models[0]) == held(home, models[1]) == ["up.txt"]
    (elsewhere / "x").mkdir(parents=True)
    shutil.copytree(models[0], elsewhere, dirs_exist_ok=True)
    (elsewhere / "encoder.onnx").write_bytes(b"cut off")
    refused = command("--reindex", "--home", tmp_path / "another", "--model-dir", elsewhere)
    assert (refused.returncode, (tmp_path / "another/encoders").exists()) == (2, False)
    assert "encoder.onnx" in refused.stderr


def test_a_generation_that_was_lost_is_made_anew_from_the_other(home: Path, models: tuple[Path, Path]) -> None:
    reindex(home, models[1])
    before = digests(home)
    shutil.rmtree(home / "index" / read_targets(home)[0][0])
    sync(Folder(home.parent / "one"), home, models[0])
    assert digests(home) == before
    assert [folder for _, folder in read_targets(home)] == [models[1], models[0]]


def test_reindex_of_nothing_or_with_no_model_is_told(tmp_path: Path, home: Path, models: tuple[Path, Path]) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="nothing was ingested yet"):
        reindex(tmp_path / "empty", models[1])
    done = command("--reindex", "--home", home, "--model-dir", tmp_path)
    assert (done.returncode, "model.json cannot be read" in done.stderr, "Traceback" in done.stderr) == (2, True, False)
    (home / "index" / "targets.json").write_text(json.dumps([{"model_dir": "x"}]))
    done = command("--reindex", "--home", home, "--model-dir", models[1])
    assert (done.returncode, "targets.json is not" in done.stderr, "Traceback" in done.stderr) == (2, True, False)
