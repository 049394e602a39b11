"""One index of scale.py, served by the retriever's core in this process: what opening takes, how fast searches are, how much the graph finds.

python scale_search.py DIR COMMAND...     run by scale.py, in the retriever's environment; COMMAND rewrites the document whose number is added
"""

import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from quarry_contract.manifests import INDEX_MANIFEST, IndexManifest, read_manifest
from quarry_contract.messages import SearchRequest
from quarry_retriever.index import Index
from quarry_retriever.search import Searcher
from quarry_runtime.session import Array

QUESTIONS, TOP_K, CHANGED = 200, 10, 3
QUESTION_WORDS, ASIDE = 9, 0.6
MODES = ("dense", "bm25", "tfidf", "hybrid")


@dataclass(frozen=True)
class Question:
    """Words of a passage, and a vector near the passage's."""

    text: str
    vector: Array


def questions(index: Index, choose: random.Random, count: int) -> list[Question]:
    """About passages from all over the index."""
    made: list[Question] = []
    last = index.store.connection().execute("SELECT max(row) FROM passages").fetchone()[0]
    query = "SELECT p.text, v.vector FROM passages p JOIN vectors v USING (row) WHERE row = ?"
    for row in choose.sample(range(1, last + 1), count):
        text, raw = index.store.connection().execute(query, (row,)).fetchone()
        words, vector = text.split(), np.frombuffer(raw, "<f4")
        kept = sorted(choose.sample(range(len(words)), min(QUESTION_WORDS, len(words))))
        beside = np.frombuffer(index.store.connection().execute(query, (choose.randint(1, last),)).fetchone()[1], "<f4")
        mixed = (1 - ASIDE) * vector + ASIDE * beside
        made.append(Question(" ".join(words[at] for at in kept), mixed / np.linalg.norm(mixed)))
    return made


def main() -> None:
    """Print what was measured as one JSON object."""
    home, rewrite = Path(sys.argv[1]), sys.argv[2:]
    [folder] = [path for path in (home / "index").iterdir() if path.is_dir()]
    manifest = read_manifest(folder / INDEX_MANIFEST, IndexManifest)
    began, cpu = time.perf_counter(), time.process_time()
    index = Index.open(folder, manifest.encoder_digest, lambda texts: np.array([manifest.canary_vector] * len(texts), np.float32))
    opened = {"open_seconds": since(began), "open_cpu_seconds": round(time.process_time() - cpu, 1), "open_max_rss_mb": peak()}
    index.tend_graphs()
    memory = {"rss_mb": resident(), "rss_bytes_per_passage": resident() * 2**20 // index.snapshot.passages}
    asked = questions(index, random.Random(5), QUESTIONS)  # noqa: S311 - the same each time
    vectors = {question.text: question.vector for question in asked}
    searcher = Searcher(index, lambda texts: np.array([vectors[text] for text in texts]), "made")
    found = {mode: latency(searcher, asked, mode) for mode in MODES}
    graphs = [graph.size for graph in index.snapshot.graphs]
    recall = {"recall_at_10": recall_at(searcher, index, asked), "searched_by": f"graphs of {graphs}" if graphs else "exact"}
    print(json.dumps(opened | memory | {"search_ms": found} | recall | followed(index, searcher, asked[0], rewrite) | {"max_rss_mb": peak()}))


def since(began: float) -> float:
    """Seconds."""
    return round(time.perf_counter() - began, 3)


def peak() -> int:
    """Largest memory so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def resident() -> int:
    """Memory now, MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 2**20


def milliseconds(of: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    of()
    return 1000 * (time.perf_counter() - began)


def latency(searcher: Searcher, asked: Sequence[Question], mode: Any) -> dict[str, float]:
    """Of single searches, one after the other, the words of the passages fetched; the first few are to warm up."""
    times = [milliseconds(lambda q=q: searcher.search(SearchRequest(q.text, TOP_K, mode))) for q in (*asked[:10], *asked)][10:]  # type: ignore[misc]
    return {"p50": round(float(np.percentile(times, 50)), 2), "p95": round(float(np.percentile(times, 95)), 2)}


def recall_at(searcher: Searcher, index: Index, asked: Sequence[Question]) -> float:
    """Share of the truly nearest, by comparing every vector in the database, that dense search finds."""
    every = np.stack([question.vector for question in asked])
    nearest = [(np.zeros((len(asked), 0)), np.zeros((len(asked), 0), object))]
    cursor = index.store.connection().execute("SELECT p.passage_id, v.vector FROM passages p JOIN vectors v USING (row)")
    while block := cursor.fetchmany(20_000):
        scores = every @ np.frombuffer(b"".join(vector for _, vector in block), "<f4").reshape(len(block), -1).T
        best = np.argsort(-scores, axis=1)[:, :TOP_K]
        nearest.append((np.take_along_axis(scores, best, 1), np.array([passage_id for passage_id, _ in block], object)[best]))
    scores, ids = (np.concatenate(parts, axis=1) for parts in zip(*nearest, strict=True))
    truth = np.take_along_axis(ids, np.argsort(-scores, axis=1)[:, :TOP_K], 1)
    found = [{s.passage.passage_id for s in searcher.search(SearchRequest(q.text, TOP_K, "dense")).passages} for q in asked]
    return round(sum(len(f & set(t)) for f, t in zip(found, truth.tolist(), strict=True)) / truth.size, 4)


def followed(index: Index, searcher: Searcher, question: Question, rewrite: Sequence[str]) -> dict[str, Any]:
    """How long it takes to take up a changed document, and the first search after that."""
    applied, first = [], []
    for number in range(CHANGED):
        subprocess.run([*rewrite, "--rewrite", str(number)], check=True)
        revision = index.snapshot.revision
        applied.append(milliseconds(index.refresh))
        assert index.snapshot.revision == revision + 1
        first.append(milliseconds(lambda: searcher.search(SearchRequest(question.text, TOP_K, "hybrid"))))
    return {"take_up_change_ms": round(max(applied), 1), "first_search_after_ms": round(max(first), 1)}


if __name__ == "__main__":
    main()
