"""`python -m quarry_ingestion FOLDER|--reindex --home DIR --model-dir DIR`: a folder into the index, beside what is there already; or all of it anew."""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
from quarry_contract.manifests import ManifestError
from quarry_runtime.encode import Encoder
from quarry_runtime.session import Array
from tqdm import tqdm

from .blocks import Document
from .chunk import CHUNKER, Chunk, chunk
from .extract import Skipped, extract, preload
from .publish import current, exists, generation_name, publish, set_current, set_shadow, shadow
from .sources import SourceError, files, folders, known_folders, only_one, readable, remember

EMBED_AT_ONCE = 256


def collect(roots: Sequence[Path]) -> tuple[list[Document], list[Skipped]]:
    """Extract every file of every folder. Two folders' files of one name are told apart by their folder's name.

    Raises:
        SourceError: a root is not a folder.
    """
    documents: list[Document] = []
    skipped: list[Skipped] = []
    taken: set[str] = set()
    preload()
    for root in roots:
        for path in tqdm(list(files(root)), desc=f"extract {root.name}", mininterval=2):
            found = extract(path, root)
            if isinstance(found, Skipped):
                skipped.append(found)
                continue
            name = _free(found.document_id, readable(root.name), taken)
            taken.add(name)
            documents.append(replace(found, document_id=name))
    return documents, skipped


def _free(name: str, folder: str, taken: set[str]) -> str:
    """`name`, or with its folder's name before it, or with a number after that: the first that is not taken."""
    tries = chain([name, f"{folder}/{name}"], (f"{folder}-{n}/{name}" for n in count(2)))
    return next(found for found in tries if found not in taken)


def passages(documents: Sequence[Document], encoder: Encoder) -> list[Chunk]:
    """Cut all documents, counting tokens with the encoder's own tokenizer."""

    def count_tokens(texts: Sequence[str]) -> list[int]:
        return [len(e.ids) for e in encoder.tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    return [c for d in documents for c in chunk(d, count_tokens)]


def embed(documents: Sequence[Document], chunks: Sequence[Chunk], encoder: Encoder) -> Array:
    """float32 (len(chunks), dimension): the passage with its document's title and section before it, since both say what it is about."""
    titles = {d.document_id: d.title for d in documents}
    texts = [". ".join(dict.fromkeys(x for x in (titles[c.document_id], c.section) if x)) + ". " + c.text for c in chunks]
    parts = [encoder.encode(texts[i : i + EMBED_AT_ONCE]) for i in tqdm(range(0, len(texts), EMBED_AT_ONCE), desc="embed", mininterval=2)]
    return np.concatenate(parts)


@dataclass(frozen=True)
class Built:
    """One encoder's generation of the documents; `passages` is None when it was there already."""

    generation: str
    encoder_digest: str
    passages: int | None


def build(documents: Sequence[Document], home: Path, model_dir: Path) -> Built:
    """Cut, embed and write the generation, unless it is there already.

    Raises:
        ManifestError: the retriever artefact is not whole.
    """
    encoder = Encoder.load(model_dir)
    generation = generation_name(documents, encoder.manifest.digest, CHUNKER)
    if exists(home, generation):
        return Built(generation, encoder.manifest.digest, None)
    chunks = passages(documents, encoder)
    publish(home, generation, documents, chunks, embed(documents, chunks, encoder), encoder, CHUNKER)
    return Built(generation, encoder.manifest.digest, len(chunks))


def ingest(folder: Path, home: Path, model_dir: Path) -> dict[str, Any]:
    """Bring a folder into the index of this retriever, and of the shadow retriever where there is one.

    Raises:
        SourceError: no such folder, or not one readable document in it.
        ManifestError: a retriever artefact is not whole.
    """
    began = time.monotonic()
    roots = folders(home, folder.resolve())
    if not any(True for _ in files(folder)):
        raise SourceError(f"{folder} holds no files")
    documents, skipped = collect(roots)
    if not documents:
        raise SourceError(f"no readable document in {folder}: {dict(Counter(s.code for s in skipped))}")
    live = build(documents, home, model_dir)
    second = shadow(home)
    other = build(documents, home, second) if second not in (None, model_dir.resolve()) else None
    for built in (live, other):  # after the work for both, so that neither is ahead of the other for long
        if built is not None:
            set_current(home, built.generation, built.encoder_digest)
    remember(home, roots)
    return report(live, documents, skipped, began) | ({"shadow": other.generation} if other else {})


def reindex(home: Path, model_dir: Path) -> dict[str, Any]:
    """Build the index of another retriever from all folders ingested so far; `ingest` goes on beside it and writes for both from now on.

    Raises:
        SourceError: nothing was ingested yet.
        ManifestError: the retriever artefact is not whole.
    """
    began = time.monotonic()
    digest = Encoder.load(model_dir).manifest.digest
    with only_one(home, wait=True):  # an ingest that began before this knows of one retriever only
        set_shadow(home, model_dir.resolve())
        before = current(home, digest)
    documents, skipped = collect(known_folders(home))
    if not documents:
        raise SourceError("nothing was ingested yet: `make ingest DIR=...` first")
    built = build(documents, home, model_dir)
    with only_one(home, wait=True):
        if current(home, digest) == before:  # else an ingest since then brought newer documents for this retriever too
            set_current(home, built.generation, digest)
        built = replace(built, generation=current(home, digest) or built.generation)
    return report(built, documents, skipped, began)


def report(built: Built, documents: Sequence[Document], skipped: Sequence[Skipped], began: float) -> dict[str, Any]:
    """What was done, for people and scripts."""
    counts = {"documents": len(documents), "words": sum(len(d.text.split()) for d in documents)}
    made = {} if built.passages is None else {"passages": built.passages}
    reasons = [{"source": s.source, "code": s.code, "detail": s.detail} for s in skipped]
    return {"generation": built.generation, **counts, **made, "skipped": reasons, "seconds": round(time.monotonic() - began, 1)}


def run(folder: Path | None, home: Path, model_dir: Path) -> dict[str, Any]:
    """`ingest` a folder, or `reindex` when there is none."""
    home.mkdir(parents=True, exist_ok=True)
    if folder is None:
        return reindex(home.resolve(), model_dir)
    with only_one(home):
        return ingest(folder, home.resolve(), model_dir)


def main() -> None:
    """Entry point; the last line of standard output is a JSON report."""
    parser = argparse.ArgumentParser(prog="quarry_ingestion", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("folder", type=Path, nargs="?")
    what.add_argument("--reindex", action="store_true", help="all folders ingested so far, for this retriever as a second one beside the live one")
    parser.add_argument("--home", type=Path, required=True, help="QUARRY_HOME: the index is written under it")
    parser.add_argument("--model-dir", type=Path, required=True, help="the retriever's artefact folder")
    args = parser.parse_args()
    try:
        print(json.dumps(run(args.folder, args.home, args.model_dir), ensure_ascii=False))
    except (SourceError, ManifestError) as error:
        print(f"not ingested: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"not ingested: {error.strerror or 'the disk cannot be written'}: {error.filename or args.home}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
