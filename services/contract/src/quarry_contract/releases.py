"""Releases: what is served together, and the table that says which release serves where.

A release's id is a digest of all that changes an answer, so that a release that was edited afterwards no longer has its own id.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .codec import Message, decode, loads
from .errors import QuarryError, invalid
from .manifests import (
    INDEX_MANIFEST,
    MODEL_MANIFEST,
    RELEASE_MANIFEST,
    IndexManifest,
    ManifestError,
    ModelManifest,
    ReleaseManifest,
    digest_of,
    read_manifest,
    verify_files,
    write_manifest,
)

ROUTING_TABLE = "routes.json"
INDEX_TARGETS = "targets.json"


def release_id(manifest: ReleaseManifest) -> str:
    """12 hex digits over everything but the id itself and the time of creation."""
    content = manifest.to_dict()
    return digest_of({name: content[name] for name in content.keys() - {"release_id", "created"}})[:12]


def read_release(path: Path) -> ReleaseManifest:
    """Read a release manifest whose content gives its id.

    Raises:
        ManifestError: it cannot be read, or was changed after it was made.
    """
    manifest = read_manifest(path, ReleaseManifest)
    if release_id(manifest) != manifest.release_id:
        raise ManifestError(f"{path.name} says it is release {manifest.release_id}, but its content is another: it was changed; make the release anew")
    return manifest


def release_path(home: Path, identity: str) -> Path:
    """Where a release's manifest stands under QUARRY_HOME."""
    return home / "releases" / identity / RELEASE_MANIFEST


def model_dir(home: Path, reference: str) -> Path:
    """Where models:/name/N is kept under QUARRY_HOME."""
    return home / "models" / reference.removeprefix("models:/")


def index_dir(home: Path, generation: str) -> Path:
    """Where an index generation stands under QUARRY_HOME."""
    return home / "index" / generation


def index_of(home: Path, encoder_digest: str) -> str | None:
    """The newest generation that is kept up to date for an encoder, if there is one: `home/index/targets.json` lists those written to."""
    targets = home / "index" / INDEX_TARGETS
    generations = [str(t["generation"]) for t in loads(targets.read_bytes())] if targets.exists() else []
    ours = (g for g in reversed(generations) if read_manifest(index_dir(home, g) / INDEX_MANIFEST, IndexManifest).encoder_digest == encoder_digest)
    return next(ours, None)


def known_releases(home: Path) -> list[ReleaseManifest]:
    """All whole releases under QUARRY_HOME, the oldest first."""
    found = [read_manifest(path, ReleaseManifest) for path in (home / "releases").glob(f"*/{RELEASE_MANIFEST}")]
    return sorted(found, key=lambda m: (m.created, m.release_id))


def bind(home: Path, reader: str, retriever: str, generation: str, created: str) -> ReleaseManifest:
    """Write `home/releases/<id>/release.json` for models:/reader/N, models:/retriever/N and an index generation; the same parts again change nothing.

    Raises:
        ManifestError: a part is missing or damaged, or they do not belong together.
    """
    reader_model = _model(home, reader, "reader")
    retriever_model = _model(home, retriever, "retriever")
    index = read_manifest(index_dir(home, generation) / INDEX_MANIFEST, IndexManifest)
    if reader_model.calibration is None:
        raise ManifestError(f"{reader} has no calibration")
    digests = (reader, reader_model.digest, retriever, retriever_model.digest)
    unnamed = ReleaseManifest("", created, *digests, generation, index.chunker, reader_model.calibration.threshold, reader_model.metrics)
    manifest = replace(unnamed, release_id=release_id(unnamed))
    path = release_path(home, manifest.release_id)
    _check_parts(home, manifest)
    if path.exists():
        return check_release(home, manifest.release_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_manifest(path, manifest)
    return manifest


def check_release(home: Path, identity: str) -> ReleaseManifest:
    """Read a release and compare it with the models on disk, every file of them, and with what its index was made by.

    Raises:
        ManifestError: there is no such release (the message lists those there are), it was changed, or a part is not what it was.
    """
    path = release_path(home, identity)
    if Path(identity).name != identity or not path.exists():
        there = ", ".join(m.release_id for m in known_releases(home)) or "none yet: `make release` makes one"
        raise ManifestError(f"there is no release {identity}; there are: {there}")
    manifest = read_release(path)
    if manifest.release_id != identity:
        raise ManifestError(f"the folder {identity} holds release {manifest.release_id}")
    _check_parts(home, manifest)
    return manifest


def _check_parts(home: Path, manifest: ReleaseManifest) -> None:
    for kind, reference, digest in (("reader", manifest.reader, manifest.reader_digest), ("retriever", manifest.retriever, manifest.retriever_digest)):
        model = _model(home, reference, kind)
        if model.digest != digest:
            raise ManifestError(f"{reference} on disk is not the {kind} of release {manifest.release_id}: remove {model_dir(home, reference)}, fetch it anew")
        verify_files(model_dir(home, reference), model.files)
    index = read_manifest(index_dir(home, manifest.index_generation) / INDEX_MANIFEST, IndexManifest)
    if index.encoder_digest != manifest.retriever_digest:
        raise ManifestError(f"index {manifest.index_generation} was encoded by another retriever than {manifest.retriever}: `make reindex` for this one")
    if index.generation != manifest.index_generation:
        raise ManifestError(f"the folder {manifest.index_generation} holds index {index.generation}")


def _model(home: Path, reference: str, kind: str) -> ModelManifest:
    try:
        model = read_manifest(model_dir(home, reference) / MODEL_MANIFEST, ModelManifest)
    except ManifestError as error:
        raise ManifestError(f"{reference} in {model_dir(home, reference)}: {error}") from error
    if model.kind != kind:
        raise ManifestError(f"{reference} is a {model.kind}, not a {kind}")
    return model


@dataclass(frozen=True)
class Route(Message):
    """Where one release is served. `release` is its manifest's path, absolute or from the table's folder."""

    release: str
    retriever_url: str
    reader_url: str


@dataclass(frozen=True)
class RoutingTable(Message):
    """`routes.json`: the live release by id, the routes of the releases that run, and what part another of them has as a candidate."""

    live: str
    releases: dict[str, Route]
    candidate: str | None = None
    share: float = 0.0  # of the callers, whom the candidate answers
    mirror: float = 0.0  # of the live release's questions, put to the candidate too, to compare

    @classmethod
    def from_dict(cls, data: Any) -> "RoutingTable":
        """Decode and check.

        Raises:
            QuarryError: `invalid_request`; the live release or the candidate has no route, a URL is not one, or a share is not one.
        """
        table = decode(cls, data)
        if table.live not in table.releases:
            raise invalid("releases has no route for the live release")
        if table.candidate is not None and (table.candidate == table.live or table.candidate not in table.releases):
            raise invalid("candidate must be a release that has a route and is not the live one")
        if not (0 <= table.share <= 1 and 0 <= table.mirror <= 1):
            raise invalid("share and mirror must be from 0 to 1")
        for name, route in table.releases.items():
            if not all(url.startswith(("http://", "https://")) for url in (route.retriever_url, route.reader_url)):
                raise invalid(f"the URLs of {name} must begin with http:// or https://")
        return table

    @property
    def digest(self) -> str:
        """Tells one table from another."""
        return digest_of(self.to_dict())[:12]


def read_table(path: Path) -> RoutingTable:
    """Read and check a routing table.

    Raises:
        ManifestError: it is missing, is not JSON, or is not as a table must be.
    """
    try:
        return RoutingTable.from_dict(loads(path.read_bytes()))
    except OSError as error:
        raise ManifestError(f"{path.name} cannot be read: {error.strerror}") from error
    except QuarryError as error:
        raise ManifestError(f"{path.name} is not a routing table: {error.detail}") from error
