"""The manifests that bind artefacts together. Each is written last: its existence means its files are complete."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from .codec import Message, decode, loads
from .errors import QuarryError

M = TypeVar("M", bound=Message)

MODEL_MANIFEST = "model.json"
INDEX_MANIFEST = "index.json"
RELEASE_MANIFEST = "release.json"


class ManifestError(Exception):
    """An artefact is missing, damaged or does not belong to the others; the message says which and why."""


@dataclass(frozen=True)
class FileDigest(Message):
    """SHA-256 (hex) and size of one file."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Calibration(Message):
    """Weights of a span's signals (confidence.py), fitted on held-out questions: confidence = sigmoid(weights . signals + bias).

    A best answer with a confidence under `threshold` is an abstention. With `slope` alone this is Platt scaling of the margin (Platt 1999).
    """

    slope: float  # of the margin over the null score
    bias: float
    threshold: float
    score: float = 0.0
    lead: float = 0.0


@dataclass(frozen=True)
class ModelManifest(Message):
    """`model.json` of a reader, retriever or generator. `files` lists everything the model needs, beside this file."""

    name: str
    kind: Literal["reader", "retriever", "generator"]
    base: str  # what it was trained from
    created: str  # ISO 8601, UTC
    files: dict[str, FileDigest]
    max_tokens: int  # window length in tokens, question and special tokens included
    stride: int = 128  # tokens shared by neighbouring windows
    max_question_tokens: int = 64
    max_heading_tokens: int = 0  # of a passage's heading, read after the question; 0 = trained without headings
    max_answer_tokens: int = 48
    dimension: int | None = None  # retriever: embedding width
    question_encoder: str | None = None  # retriever: ONNX file names, the same when the weights are tied
    passage_encoder: str | None = None
    calibration: Calibration | None = None  # reader
    data_digest: str | None = None
    code_commit: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Identifies the model's content: SHA-256 over the files' digests."""
        return digest_of({name: f.sha256 for name, f in self.files.items()})


@dataclass(frozen=True)
class Chunker(Message):
    """How documents were cut; part of the index generation."""

    name: str
    version: int
    max_tokens: int
    overlap_sentences: int


@dataclass(frozen=True)
class IndexManifest(Message):
    """`index.json` of one index generation: what its contents are made with, never what they are (`index.db` changes in place).

    `generation` is derived from encoder, chunker and schema; `encoder_digest` must be the serving retriever's model digest.
    """

    generation: str
    created: str
    encoder_digest: str
    dimension: int
    chunker: Chunker
    schema: int  # of index.db
    canary_text: str  # encoding this anew must give canary_vector
    canary_vector: tuple[float, ...]


def generation_name(encoder_digest: str, chunker: Chunker, schema: int) -> str:
    """16 hex digits: what is encoded alike and cut alike belongs in one generation."""
    return digest_of([encoder_digest, chunker.to_dict(), schema])[:16]


@dataclass(frozen=True)
class ReleaseManifest(Message):
    """`release.json`: what is served together. `release_id` is derived from the rest."""

    release_id: str
    created: str
    reader: str  # models:/reader/N
    reader_digest: str
    retriever: str
    retriever_digest: str
    index_generation: str
    chunker: Chunker
    threshold: float
    evaluation: dict[str, float] = field(default_factory=dict)


def read_manifest(path: Path, cls: type[M]) -> M:
    """Read and check a manifest.

    Raises:
        ManifestError: it is missing, is not JSON, or has wrong fields.
    """
    try:
        return decode(cls, loads(path.read_bytes()))
    except OSError as error:
        raise ManifestError(f"{path.name} cannot be read: {error.strerror}") from error
    except QuarryError as error:
        raise ManifestError(f"{path.name} is not a valid manifest: {error.detail}") from error


def digest_of(content: Any) -> str:
    """SHA-256 of the canonical JSON of `content`."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def digest_file(path: Path) -> FileDigest:
    """Digest and size of a file, read in blocks."""
    with path.open("rb") as file:
        return FileDigest(hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size)


def write_manifest(path: Path, manifest: Message) -> None:
    """Write it whole or not at all."""
    partial = path.with_suffix(".tmp")
    partial.write_text(json.dumps(manifest.to_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


def verify_files(folder: Path, files: dict[str, FileDigest]) -> None:
    """Check that every listed file is there, whole and unchanged.

    Raises:
        ManifestError: naming the first file that is not.
    """
    for name, expected in files.items():
        path = folder / name
        if Path(name).name != name or path.is_symlink() or not path.is_file():
            raise ManifestError(f"{name} is missing or is not a plain file in its folder")
        if digest_file(path) != expected:
            raise ManifestError(f"{name} does not have the digest its manifest gives: it is damaged or was changed")
