"""Passage encoding against sentence-transformers: the same weights, passages, truncation and number of threads, in interleaved rounds of one run.

python bench/encoder.py --peer PYTHON [--passages 160] [--rounds 5]

PYTHON is an environment with bench/encoder.lock (`make bench-encoder` makes it). The passages are whole documents of the sample corpus, as ingestion
cuts and writes them; ours are encoded document by document, the peer's all at once. Prints a JSON object per number of threads: median seconds of clock
and of processor, the median over the rounds of peer / ours, an A/A ratio of ours with itself (near 1, or the run says nothing), and how far embeddings
are apart. Needs a released retriever (make demo).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from corpus import EXAMPLES
from quarry_runtime.encode import Encoder
from quarry_runtime.session import Array

from quarry_ingestion.blocks import Document
from quarry_ingestion.extract import extract, preload
from quarry_ingestion.targets import cut, texts_of

HOME = Path(os.environ.get("QUARRY_HOME", Path(__file__).resolve().parents[3] / ".quarry"))
LEAST_COSINE = 1 - 1e-4
Times = tuple[float, float]  # seconds of clock, of processor


class Peer:
    """sentence-transformers in a process of its own environment (encoder_peer.py), asked over its standard input."""

    def __init__(self, python: str, threads: int, texts: Sequence[str], folder: Path) -> None:
        self._out = folder / f"{threads}.npy"
        (folder / "texts.json").write_text(json.dumps(texts))
        command = [python, str(Path(__file__).with_name("encoder_peer.py")), str(folder / "texts.json"), str(self._out), str(threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def encode(self) -> Times:
        """One pass over the texts."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        clock, processor = json.loads(self._process.stdout.readline())
        return clock, processor

    def close(self) -> Array:
        """End it; its vectors."""
        self._process.communicate()
        return np.asarray(np.load(self._out))


def timed(work: Callable[[], object]) -> Times:
    """Seconds of clock and of this process's processor time."""
    clock, processor = time.monotonic(), time.process_time()
    work()
    return time.monotonic() - clock, time.process_time() - processor


def corpus(encoder: Encoder, passages: int) -> list[list[str]]:
    """The texts to be encoded, by document, until there are as many passages."""
    preload()
    found: list[list[str]] = []
    for path in sorted(EXAMPLES.iterdir()):
        document = extract(path, EXAMPLES)
        if isinstance(document, Document) and sum(map(len, found)) < passages:
            found.append(texts_of(document, cut(document, encoder)))
    return found


def compare(encoder: Encoder, documents: Sequence[Sequence[str]], threads: int, peer: Peer, rounds: int) -> dict[str, Any]:
    """Medians over interleaved rounds."""

    def ours() -> Array:
        return np.concatenate([encoder.encode(texts, threads) for texts in documents])

    vectors = ours()
    peer.encode()
    times: list[tuple[Times, Times, Times]] = [(timed(ours), peer.encode(), timed(ours)) for _ in range(rounds)]
    theirs = peer.close()
    cosine = float(np.min(np.sum(vectors * theirs, axis=1)))
    assert cosine >= LEAST_COSINE, f"these are not the same embeddings: cosine {cosine}"
    told: dict[str, Any] = {"threads": threads, "passages": len(vectors), "rounds": rounds, "least_cosine": round(cosine, 7)}
    for kind, name in enumerate(("clock", "processor")):
        pairs = [((first[kind] + second[kind]) / 2, other[kind]) for first, other, second in times]
        told[f"{name}_s"] = [round(statistics.median(values), 2) for values in zip(*pairs, strict=True)]
        told[f"{name}_peer_over_ours"] = round(statistics.median(other / own for own, other in pairs), 2)
        told[f"{name}_a_over_a"] = round(statistics.median(first[kind] / second[kind] for first, _, second in times), 2)
    return told


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--passages", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    found = sorted((HOME / "models" / "retriever").glob("*/model.json"))
    if not found:
        sys.exit("nothing is released yet: run `make demo` first")
    encoder = Encoder.load(found[0].parent)  # the packaged weights: later ones may have been trained
    documents = corpus(encoder, args.passages)
    with tempfile.TemporaryDirectory() as folder:
        for threads in (1, 2):
            peer = Peer(args.peer, threads, [text for texts in documents for text in texts], Path(folder))
            print(json.dumps(compare(encoder, documents, threads, peer, args.rounds)), flush=True)


if __name__ == "__main__":
    main()
