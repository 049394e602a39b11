"""A second retriever's index beside the live one's: built from all folders, and kept up to date with it."""

import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from quarry_contract.manifests import INDEX_MANIFEST, MODEL_MANIFEST, IndexManifest, ModelManifest, read_manifest
from quarry_contract.releases import index_pointer
from quarry_runtime import tiny

from quarry_ingestion.sources import only_one

from .test_ingest import report, run


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    made = tmp_path_factory.mktemp("encoders")
    for seed in (1, 2):
        tiny.encoder(made / str(seed), ["crane", "wall"], seed=seed)
    return made / "1", made / "2"


@pytest.fixture
def home(tmp_path: Path, models: tuple[Path, Path]) -> Path:
    """With two folders ingested for the first model."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.txt").write_text(f"The crane of {name}.")
        report(run(tmp_path / name, tmp_path / "home", models[0]))
    return tmp_path / "home"


def start(home: Path, model: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "quarry_ingestion", "--reindex", "--home", str(home), "--model-dir", str(model)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)


def newest(home: Path, model: Path) -> tuple[str, list[str]]:
    """A model's current generation, checked to be encoded by it, and its documents."""
    digest = read_manifest(model / MODEL_MANIFEST, ModelManifest).digest
    generation = index_pointer(home, digest).read_text()
    assert read_manifest(home / "index" / generation / INDEX_MANIFEST, IndexManifest).encoder_digest == digest
    with sqlite3.connect(home / "index" / generation / "passages.db") as database:
        return generation, [row[0] for row in database.execute("SELECT document_id FROM documents ORDER BY 1")]


def test_reindex_builds_beside_the_live_index_and_ingest_then_writes_to_both(home: Path, models: tuple[Path, Path]) -> None:
    live = newest(home, models[0])
    output, errors = start(home, models[1]).communicate(timeout=120)
    assert '"documents": 2' in output, errors
    assert newest(home, models[0]) == live
    assert newest(home, models[1])[1] == ["one.txt", "two.txt"]
    (home.parent / "one" / "new.txt").write_text("The wall.")
    found = report(run(home.parent / "one", home, models[0]))
    assert (found["generation"], found["shadow"]) == (newest(home, models[0])[0], newest(home, models[1])[0])
    assert newest(home, models[0])[1] == newest(home, models[1])[1] == ["new.txt", "one.txt", "two.txt"]
    report(run(home.parent / "one", home, models[1]))  # once the second is live it is not built twice
    assert not list((home / "index").glob("*.building"))


def test_documents_ingested_while_it_embeds_are_not_lost(home: Path, models: tuple[Path, Path]) -> None:
    """Held back before its last step, it finds that an ingest was there meanwhile."""
    process = start(home, models[1])
    while not (home / "index" / "shadow").exists():
        assert process.poll() is None
        time.sleep(0.01)
    with only_one(home, wait=True):
        while len(list((home / "index").glob(f"*/{INDEX_MANIFEST}"))) < 3:  # two of the first model, one of the second
            assert process.poll() is None
            time.sleep(0.01)
        (home.parent / "two" / "late.txt").write_text("The late crane.")
        inside = [sys.executable, "-c", INGEST_WITHOUT_LOCK, str(home.parent / "two"), str(home), str(models[0])]
        subprocess.run(inside, check=True, capture_output=True)
        assert process.poll() is None
    output, errors = process.communicate(timeout=120)
    generation, documents = newest(home, models[1])
    assert documents == ["late.txt", "one.txt", "two.txt"]
    assert generation in output, errors


INGEST_WITHOUT_LOCK = """
import sys
from pathlib import Path
from quarry_ingestion.__main__ import ingest
ingest(*map(Path, sys.argv[1:]))
"""


def test_reindex_of_nothing_or_with_no_model_is_told(tmp_path: Path, models: tuple[Path, Path]) -> None:
    for model, says in ((models[1], "nothing was ingested yet"), (tmp_path, "model.json cannot be read")):
        process = start(tmp_path / "home", model)
        errors = process.communicate(timeout=60)[1]
        assert (process.returncode, says in errors, "Traceback" in errors) == (2, True, False)
