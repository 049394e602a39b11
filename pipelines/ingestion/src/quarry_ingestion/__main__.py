"""`python -m quarry_ingestion FOLDER --home DIR --model-dir DIR`: a folder into the index, beside what is there already."""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
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
from .publish import exists, generation_name, publish, set_current
from .sources import SourceError, files, folders, only_one, readable, remember

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


def ingest(folder: Path, home: Path, model_dir: Path) -> dict[str, Any]:
    """Bring a folder into the index and make the new generation the current one.

    Raises:
        SourceError: no such folder, or not one readable document in it.
        ManifestError: the retriever artefact is not whole.
    """
    began = time.monotonic()
    roots = folders(home, folder.resolve())
    if not any(True for _ in files(folder)):
        raise SourceError(f"{folder} holds no files")
    documents, skipped = collect(roots)
    if not documents:
        raise SourceError(f"no readable document in {folder}: {dict(Counter(s.code for s in skipped))}")
    encoder = Encoder.load(model_dir)
    generation = generation_name(documents, encoder.manifest.digest, CHUNKER)
    counts = {"documents": len(documents), "words": sum(len(d.text.split()) for d in documents)}
    if not exists(home, generation):
        chunks = passages(documents, encoder)
        publish(home, generation, documents, chunks, embed(documents, chunks, encoder), encoder, CHUNKER)
        counts["passages"] = len(chunks)
    set_current(home, generation)
    remember(home, roots)
    reasons = [{"source": s.source, "code": s.code, "detail": s.detail} for s in skipped]
    return {"generation": generation, **counts, "skipped": reasons, "seconds": round(time.monotonic() - began, 1)}


def main() -> None:
    """Entry point; the last line of standard output is a JSON report."""
    parser = argparse.ArgumentParser(prog="quarry_ingestion", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--home", type=Path, required=True, help="QUARRY_HOME: the index is written under it")
    parser.add_argument("--model-dir", type=Path, required=True, help="the retriever's artefact folder")
    args = parser.parse_args()
    try:
        args.home.mkdir(parents=True, exist_ok=True)
        with only_one(args.home):
            print(json.dumps(ingest(args.folder, args.home.resolve(), args.model_dir), ensure_ascii=False))
    except (SourceError, ManifestError) as error:
        print(f"not ingested: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"not ingested: {error.strerror or 'the disk cannot be written'}: {error.filename or args.home}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
