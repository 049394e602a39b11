"""`index/targets.json`: the generations that every change is written to, the first one first; and how each encodes a document."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from quarry_contract.index_store import SCHEMA_VERSION
from quarry_contract.manifests import INDEX_MANIFEST, MODEL_MANIFEST, Chunker, ManifestError, ModelManifest, generation_name, read_manifest, verify_files
from quarry_contract.releases import index_dir
from quarry_runtime.encode import Encoder
from quarry_runtime.session import Array, cpus

from .blocks import Document
from .chunk import CHUNKER, Chunk, chunk
from .store import IndexStore, create
from .stores import open_store

COUNT_AT_ONCE = 1024  # sentences: a tokenizer keeps some 200 bytes a token until they are counted
EMBED_AT_ONCE = 256  # passages, of one document: what bounds memory


def cut(document: Document, encoder: Encoder, chunker: Chunker = CHUNKER) -> list[Chunk]:
    """Its passages, tokens counted with the encoder's own tokenizer."""

    def count_tokens(texts: Sequence[str]) -> list[int]:
        batches = (list(texts[i : i + COUNT_AT_ONCE]) for i in range(0, len(texts), COUNT_AT_ONCE))
        return [len(e.ids) for batch in batches for e in encoder.tokenizer.encode_batch(batch, add_special_tokens=False)]

    return chunk(document, count_tokens, chunker)


def texts_of(document: Document, chunks: Sequence[Chunk]) -> list[str]:
    """What is encoded: the passage with its document's title and section before it, since both say what it is about."""
    return [". ".join(dict.fromkeys(x for x in (document.title, c.section) if x)) + ". " + c.text for c in chunks]


def embed(document: Document, chunks: Sequence[Chunk], encoder: Encoder, threads: int | None = None) -> Array:
    """float32 (len(chunks), dimension).

    Batches never hold passages of two documents, so that a vector does not depend on what else there is. `threads`: all processors unless told.
    """
    texts = texts_of(document, chunks)
    parts = [encoder.encode(texts[i : i + EMBED_AT_ONCE], threads or cpus()) for i in range(0, len(texts), EMBED_AT_ONCE)]
    return np.concatenate(parts) if parts else np.zeros((0, encoder.manifest.dimension or 0), np.float32)


@dataclass(frozen=True)
class Passages:
    """A document's passages, and their vectors: float32 (len(chunks), dimension)."""

    chunks: list[Chunk]
    vectors: Array


def encoded(document: Document, encoder: Encoder, chunker: Chunker, threads: int | None = None) -> Passages:
    """Cut and encode a document."""
    chunks = cut(document, encoder, chunker)
    return Passages(chunks, embed(document, chunks, encoder, threads))


@dataclass(frozen=True)
class Target:
    """One generation that is written to, and the retriever it is encoded by."""

    store: IndexStore
    model_dir: Path

    @property
    def generation(self) -> str:
        """Its name."""
        return self.store.manifest.generation

    @cached_property
    def encoder(self) -> Encoder:
        """Loaded when the first document must be encoded.

        Raises:
            ManifestError: the artefact is not whole, or is another.
        """
        try:
            encoder = Encoder.load(self.model_dir)
        except ManifestError as error:
            raise ManifestError(f"index {self.generation} is encoded by {self.model_dir}: {error}; take it out of index/targets.json to give it up") from error
        if encoder.manifest.digest != self.store.manifest.encoder_digest:
            raise ManifestError(f"{self.model_dir} is not the retriever that index {self.generation} was encoded by")
        return encoder


def read_targets(home: Path) -> list[tuple[str, Path]]:
    """(generation, model folder) of each target.

    Raises:
        ManifestError: targets.json is damaged.
    """
    path = _path(home)
    try:
        return [(str(t["generation"]), Path(t["model_dir"])) for t in json.loads(path.read_bytes())] if path.exists() else []
    except (ValueError, KeyError, TypeError):
        raise ManifestError(f"{path} is not a list of generation and model_dir") from None


def kept(home: Path, model_dir: Path) -> Path:
    """The artefact's folder under this home; a copy where it lies elsewhere: who writes a document later, in another pod, has only the home.

    Raises:
        ManifestError: the retriever artefact is not whole.
        OSError: it cannot be copied.
    """
    home, model_dir = home.resolve(), model_dir.resolve()
    if model_dir.is_relative_to(home):
        return model_dir
    manifest = read_manifest(model_dir / MODEL_MANIFEST, ModelManifest)
    folder = home / "encoders" / manifest.digest
    if not (folder / MODEL_MANIFEST).exists():
        verify_files(model_dir, manifest.files)
        folder.mkdir(parents=True, exist_ok=True)
        for name in (*manifest.files, MODEL_MANIFEST):  # the manifest last: with it the rest is whole
            partial = folder / f"{name}.tmp"
            shutil.copyfile(model_dir / name, partial)
            partial.replace(folder / name)
    return folder


def add_target(home: Path, model_dir: Path) -> str:
    """Make the retriever's generation, empty where it is new, and a target; its name. The caller holds `writing`.

    Raises:
        ManifestError: the retriever artefact is not whole.
    """
    digest = read_manifest(model_dir / MODEL_MANIFEST, ModelManifest).digest
    generation = generation_name(digest, CHUNKER, SCHEMA_VERSION)
    known = dict(read_targets(home))
    there = (index_dir(home, generation) / INDEX_MANIFEST).exists()
    if there and known.get(generation) == model_dir:
        return generation
    if not there:  # empty, so no longer the one that others are compared with
        known.pop(generation, None)
    create(home, Encoder.load(model_dir), CHUNKER)
    known[generation] = model_dir
    partial = _path(home).with_suffix(".tmp")
    partial.write_text(json.dumps([{"generation": name, "model_dir": str(folder)} for name, folder in known.items()], indent=1))
    partial.replace(_path(home))
    return generation


def _path(home: Path) -> Path:
    return home / "index" / "targets.json"


class Targets:
    """The targets as they are now, opened once; another process may add one at any time."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._open: dict[tuple[str, Path], Target] = {}

    def now(self) -> list[Target]:
        """All, the first one first.

        Raises:
            ManifestError: one is not whole.
        """
        wanted = read_targets(self._home)
        for gone in self._open.keys() - set(wanted):
            self._open.pop(gone).store.close()
        for generation, model_dir in wanted:
            if (generation, model_dir) not in self._open:
                self._open[generation, model_dir] = Target(open_store(index_dir(self._home, generation)), model_dir)
        return [self._open[key] for key in wanted]

    def close(self) -> None:
        """Let go of the files."""
        while self._open:
            self._open.popitem()[1].store.close()


@contextmanager
def targets_of(home: Path) -> Iterator[Targets]:
    """Closed at the end."""
    targets = Targets(home)
    try:
        yield targets
    finally:
        targets.close()
