"""Indexes of made-up documents (corpus.py), served by the retriever's core: what they take, what they find, and how that grows.

python bench/scale.py [PASSAGES ...] [--folder DIR]     10,000, 100,000 and 1,000,000 unless told otherwise; one JSON object per line

Text is cut by the real chunker and written by the real store; vectors are made, not encoded, so `build` has no time for encoding and a
search none for the question's. The folder, which is needed for 4 kB a passage, is emptied afterwards.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from corpus import DIMENSION, Corpus, Vectors
from quarry_contract.index_store import EXACT_UP_TO
from quarry_contract.releases import index_dir
from quarry_runtime import tiny
from quarry_runtime.encode import Encoder

from quarry_ingestion.chunk import CHUNKER
from quarry_ingestion.graphs import tend
from quarry_ingestion.store import IndexStore, create
from quarry_ingestion.targets import cut

SIZES = (10_000, 100_000, 1_000_000)
RETRIEVER_PYTHON = Path(__file__).parents[3] / "services" / "retriever" / ".venv" / "bin" / "python"


def main() -> None:
    """One size after the other, each in processes of its own, so that each has its own peak of memory."""
    args = parse()
    if args.rewrite is not None:
        rewrite(args.folder, args.rewrite)
    elif args.build:
        print(json.dumps(build(args.folder, args.passages[0])))
    else:
        before = None
        for passages in args.passages:
            with tempfile.TemporaryDirectory(dir=args.folder) as folder:
                own = [sys.executable, __file__, "--folder", folder]
                built = run([*own, "--build", str(passages)])
                served = run([str(RETRIEVER_PYTHON), str(Path(__file__).with_name("scale_search.py")), folder, *own])
            found = {"passages": built["passages"], "vectors": f"made, not encoded: {DIMENSION} numbers", "build": built, "serve": served}
            print(json.dumps(found | ({"growth": growth(before, found)} if before else {})), flush=True)
            before = found


def parse() -> argparse.Namespace:
    """The command line; the options left out of the help are for the processes it starts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("passages", type=int, nargs="*", default=list(SIZES))
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--build", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--rewrite", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def run(command: Sequence[str]) -> dict[str, Any]:
    """What a process says on its last line."""
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
    return found


def growth(before: Any, after: Any) -> Any:
    """How many times each number is what it was."""
    if isinstance(after, dict):
        return {name: growth(before[name], value) for name, value in after.items() if name in before and not isinstance(value, str)}
    return round(after / before, 2) if before else None


def build(home: Path, passages: int) -> dict[str, Any]:
    """A generation of at least so many passages, and what it took."""
    corpus, vectors = Corpus.read(), Vectors()
    tiny.encoder(home / "model", sorted({word.lower() for word in corpus.words}), DIMENSION)
    encoder = Encoder.load(home / "model")
    store = IndexStore(index_dir(home, create(home, encoder, CHUNKER)))
    seconds = {"make": 0.0, "cut": 0.0, "write": 0.0}
    count = documents = 0
    while count < passages:
        began = time.perf_counter()
        document = corpus.document(documents)
        made = time.perf_counter()
        chunks = cut(document, encoder)
        were_cut = time.perf_counter()
        given = vectors.of(documents, len(chunks))
        have = time.perf_counter()
        store.put(document, chunks, given)
        spent = (made - began + have - were_cut, were_cut - made, time.perf_counter() - have)
        seconds = {name: seconds[name] + more for name, more in zip(seconds, spent, strict=True)}
        count, documents = count + len(chunks), documents + 1
    began = time.perf_counter()
    tend(home, store, EXACT_UP_TO)
    seconds["graph"] = time.perf_counter() - began
    return {"documents": documents, "passages": count, "seconds": {name: round(value, 1) for name, value in seconds.items()}} | costs(store)


def costs(store: IndexStore) -> dict[str, Any]:
    """Memory and disk."""
    store.database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    disk = {path.suffix.removeprefix("."): path.stat().st_size // 10**6 for path in store.folder.iterdir() if path.suffix in (".db", ".faiss")}
    return {"max_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, "disk_mb": disk}


def rewrite(home: Path, number: int) -> None:
    """Another version of a document."""
    encoder = Encoder.load(home / "model")
    [folder] = [path for path in (home / "index").iterdir() if path.is_dir()]
    store = IndexStore(folder)
    document = Corpus.read().document(number, version=2)
    chunks = cut(document, encoder)
    store.put(document, chunks, Vectors().of(number, len(chunks)))
    store.close()


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
