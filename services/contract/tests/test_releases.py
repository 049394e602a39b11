"""A release is bound once, is what its id says, and fits what is on disk."""

from collections.abc import Callable
from pathlib import Path

import pytest

from quarry_contract.manifests import (
    INDEX_MANIFEST,
    MODEL_MANIFEST,
    Calibration,
    Chunker,
    IndexManifest,
    ManifestError,
    ModelManifest,
    digest_file,
    write_manifest,
)
from quarry_contract.releases import bind, check_release, known_releases, read_table, release_path

PARTS = ("models:/reader/1", "models:/retriever/1", "g1")


def model(home: Path, kind: str, version: int = 1, content: bytes = b"weights") -> str:
    folder = home / "models" / kind / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(content)
    files = {"model.onnx": digest_file(folder / "model.onnx")}
    manifest = ModelManifest(kind, kind, "b", "now", files, 384, calibration=Calibration(1.0, 0.0, 0.25), metrics={"f1": 80.0})  # type: ignore[arg-type]
    write_manifest(folder / MODEL_MANIFEST, manifest)
    return manifest.digest


def index(home: Path, generation: str, encoder_digest: str) -> None:
    folder = home / "index" / generation
    folder.mkdir(parents=True)
    write_manifest(folder / INDEX_MANIFEST, IndexManifest(generation, "now", encoder_digest, 2, Chunker("s", 1, 9, 1), 1, "c", (0.0, 1.0)))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    model(tmp_path, "reader")
    index(tmp_path, "g1", model(tmp_path, "retriever"))
    index(tmp_path, "g2", "0" * 64)
    return tmp_path


def test_the_same_parts_are_the_same_release_and_nothing_is_written_again(home: Path) -> None:
    made = bind(home, *PARTS, "today")
    assert made.threshold == 0.25
    assert bind(home, *PARTS, "tomorrow") == made == check_release(home, made.release_id)
    model(home, "reader", 2, b"others")
    other = bind(home, "models:/reader/2", *PARTS[1:], "tomorrow")
    assert [m.release_id for m in known_releases(home)] == [made.release_id, other.release_id]


DAMAGE: dict[str, Callable[[Path], object]] = {
    "it was changed": lambda path: path.write_text(path.read_text().replace("0.25", "0.1")),
    "is not the reader of release": lambda path: model(path.parents[2], "reader", 1, b"others"),
    "model.onnx does not have the digest": lambda path: (path.parents[2] / "models/retriever/1/model.onnx").write_bytes(b"damaged"),
    "encoded by another retriever": lambda path: (path.parents[2] / "index/g1/index.json").write_bytes((path.parents[2] / "index/g2/index.json").read_bytes()),
    "models:/reader/1 in .* cannot be read": lambda path: (path.parents[2] / "models/reader/1/model.json").unlink(),
}


@pytest.mark.parametrize("says", DAMAGE)
def test_what_no_longer_fits_is_refused(home: Path, says: str) -> None:
    made = bind(home, *PARTS, "today")
    DAMAGE[says](release_path(home, made.release_id))
    with pytest.raises(ManifestError, match=says):
        check_release(home, made.release_id)


def test_parts_that_do_not_belong_together_are_not_bound(home: Path) -> None:
    for parts, says in (
        (("models:/reader/1", "models:/retriever/1", "g2"), "encoded by another retriever"),
        (("models:/retriever/1", "models:/retriever/1", "g1"), "is a retriever, not a reader"),
        (("models:/reader/1", "models:/retriever/1", "g3"), "index.json cannot be read"),
    ):
        with pytest.raises(ManifestError, match=says):
            bind(home, *parts, "today")
    assert known_releases(home) == []
    with pytest.raises(ManifestError, match="there is no release nope; there are: none yet"):
        check_release(home, "nope")


@pytest.mark.parametrize("content", [None, b"", b"[]", b'{"live": "a", "releases": {}}', b'{"live": "a", "releases": {"a": {"release": "r"}}}'])
def test_a_broken_routing_table_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "routes.json").write_bytes(content)
    with pytest.raises(ManifestError, match=r"routes\.json"):
        read_table(tmp_path / "routes.json")
