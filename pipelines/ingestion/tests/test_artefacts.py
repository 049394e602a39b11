"""A release through S3 and back, against a real moto server: whole, or not at all."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from quarry_contract.manifests import MODEL_MANIFEST, ModelManifest, read_manifest, verify_files
from quarry_contract.releases import bind
from quarry_runtime import tiny

from quarry_ingestion.artefacts import Bucket, main, push
from quarry_ingestion.pipeline import sync
from quarry_ingestion.sources import Folder

from . import forked
from .test_s3 import BUCKET, s3, server  # noqa: F401 - fixtures

AT = f"s3://{BUCKET}/releases"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with one release."""
    home = tmp_path_factory.mktemp("home")
    tiny.reader(home / "models/reader/1", {"crane": 5.0})
    tiny.encoder(home / "models/retriever/1", ["crane", "pile"])
    documents = home / "documents"
    documents.mkdir()
    (documents / "a.txt").write_text("The crane lifts the pile.")
    sync(Folder(documents), home, home / "models/retriever/1")
    [generation] = [str(t["generation"]) for t in json.loads((home / "index/targets.json").read_text())]
    bind(home, "models:/reader/1", "models:/retriever/1", generation, "2026-01-01T00:00:00+00:00")
    return home


@pytest.fixture
def release(home: Path, s3: Any) -> str:  # noqa: F811
    """Its id; pushed."""
    [identity] = [path.name for path in (home / "releases").iterdir()]
    push(Bucket(AT), home, identity)  # as the command does, which is tried below
    return identity


def artefacts(*arguments: object) -> "subprocess.CompletedProcess[str]":
    done = forked.run("quarry_ingestion.artefacts", *arguments)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def fetch(release: str, part: str, into: Path) -> "subprocess.CompletedProcess[str]":
    for name in ("models", "index"):
        (into / name).mkdir(parents=True, exist_ok=True)
    return artefacts("fetch", release, part, "--from", AT, "--models", into / "models", "--index", into / "index")


def test_each_service_gets_what_it_needs_and_what_is_there_whole_stays(release: str, home: Path, tmp_path: Path) -> None:
    for part in ("gateway", "reader", "retriever"):
        done = fetch(release, part, tmp_path / part)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / part / "models/release.json").read_bytes() == (home / f"releases/{release}/release.json").read_bytes()
    assert [p.name for p in (tmp_path / "gateway/models").iterdir()] == ["release.json"]
    for part in ("reader", "retriever"):
        folder = tmp_path / part / "models"
        verify_files(folder, read_manifest(folder / MODEL_MANIFEST, ModelManifest).files)
    assert sorted(p.name for p in (tmp_path / "retriever/index").iterdir()) == ["index.db", "index.json", "snapshot.json"]
    kept = [(tmp_path / "retriever" / name).stat().st_ino for name in ("models/encoder.onnx", "index/index.db")]
    assert fetch(release, "retriever", tmp_path / "retriever").returncode == 0
    assert [(tmp_path / "retriever" / name).stat().st_ino for name in ("models/encoder.onnx", "index/index.db")] == kept


def test_the_index_is_readable_where_nothing_can_be_written_and_pushed_again_it_replaces_itself(release: str, home: Path, s3: Any, tmp_path: Path) -> None:  # noqa: F811
    assert fetch(release, "retriever", tmp_path).returncode == 0
    database = tmp_path / "index/index.db"
    assert database.read_bytes()[18:20] == b"\x01\x01", "SQLite's file format 1: no write-ahead log"
    documents = home / "documents"
    (documents / "b.txt").write_text("Another pile.")
    sync(Folder(documents), home, home / "models/retriever/1")
    done = artefacts("push", release, "--home", home, "--to", AT)
    assert (done.returncode, json.loads(done.stdout)["done"]) == (0, "push"), done.stderr
    keys = [x["Key"] for x in s3.list_objects_v2(Bucket=BUCKET, Prefix="releases/index/")["Contents"]]
    assert sum(key.endswith(".db") for key in keys) == 1
    before = database.read_bytes()
    assert fetch(release, "retriever", tmp_path).returncode == 0
    assert database.read_bytes() != before


@pytest.mark.parametrize(
    ("part", "key", "change", "said"),
    [
        ("reader", "models/reader/1/model.onnx", b"x", "model.onnx does not have the digest its manifest gives"),
        ("reader", "models/reader/1/model.json", "retriever's", "is not the model that the release was made with"),
        ("reader", "models/reader/1/tokenizer.json", None, "tokenizer.json cannot be fetched"),
        ("gateway", "{release}/release.json", b'{"threshold": 0.0', "release.json is not a valid manifest"),
        ("gateway", "{release}/release.json", "edited", "its content is another: it was changed"),
        ("retriever", "index/{generation}/{db}", b"", "index.db does not have the digest"),
        ("retriever", "index/{generation}/snapshot.json", None, "was this release pushed there?"),
    ],
)
def test_what_is_damaged_changed_or_missing_is_refused_by_name(
    release: str,
    home: Path,
    s3: Any,  # noqa: F811
    tmp_path: Path,
    part: str,
    key: str,
    change: bytes | str | None,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generation = json.loads((home / f"releases/{release}/release.json").read_text())["index_generation"]
    [db] = [x["Key"].rpartition("/")[2] for x in s3.list_objects_v2(Bucket=BUCKET, Prefix="releases/index/")["Contents"] if x["Key"].endswith(".db")]
    key = "releases/" + key.format(release=release, generation=generation, db=db)
    whole = s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    other = {"retriever's": (home / "models/retriever/1/model.json").read_bytes(), "edited": whole.replace(b'"threshold": 0.5', b'"threshold": 0.0')}
    if change is None:
        s3.delete_object(Bucket=BUCKET, Key=key)
    else:
        s3.put_object(Bucket=BUCKET, Key=key, Body=other[change] if isinstance(change, str) else change)
    for name in ("models", "index"):
        (tmp_path / name).mkdir()
    command = ["fetch", release, part, "--from", AT, "--models", tmp_path / "models", "--index", tmp_path / "index"]
    monkeypatch.setattr(sys, "argv", ["artefacts", *map(str, command)])
    with pytest.raises(SystemExit) as told:  # in this process: the next test has two refusals of one of its own
        main()
    assert said in str(told.value.code)
    assert str(told.value.code).startswith(f"release {release} was not fetched: ")
    assert not (tmp_path / "models/release.json").exists(), "written last"
    if part == "reader":
        assert not (tmp_path / "models" / MODEL_MANIFEST).exists(), "so that no service takes it for whole"


def test_a_wrong_address_and_an_incomplete_release_are_told(release: str, home: Path, tmp_path: Path) -> None:
    assert "is not s3://bucket/prefix" in artefacts("fetch", release, "reader", "--from", "/tmp", "--models", tmp_path).stderr
    assert "was this release pushed there?" in fetch("0123456789ab", "reader", tmp_path).stderr
    copy = tmp_path / "home"
    shutil.copytree(home, copy)
    (copy / "models/reader/1/model.onnx").write_bytes(b"")
    assert "model.onnx does not have the digest" in artefacts("push", release, "--home", copy, "--to", AT).stderr
