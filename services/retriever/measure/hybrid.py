"""Hybrid search with Pinecone, its two ways, against BM25 and dense search: recall and first places over questions with known answers.

python measure/hybrid.py --documents DIR --model-dir DIR --questions squad.json ... [--shares 0.2 0.5 0.8]

The documents are ingested by the real command, their vectors go to the stand-in of ingestion's tests, which compares every record: what is
measured is the ranking, not Pinecone. A passage counts when it is of the right document and holds the answer's words.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from quarry_contract.index_store import INDEX_DATABASE
from quarry_contract.messages import SearchRequest
from quarry_runtime.encode import Encoder

from quarry_retriever import pinecone_index
from quarry_retriever.index import Index
from quarry_retriever.pinecone_index import PineconeIndex
from quarry_retriever.search import Searcher

ROOT = Path(__file__).resolve().parents[3]
INGESTION = ROOT / "pipelines/ingestion"
Question = tuple[str, str, list[str]]  # words, document's name, answers


def standin() -> Any:
    """Module pinecone_process of ingestion's tests."""
    spec = importlib.util.spec_from_file_location("pinecone_process", INGESTION / "tests/pinecone_process.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answerable(path: Path) -> list[Question]:
    """Of a SQuAD file."""
    found = [(document["title"], qa) for document in json.loads(path.read_text())["data"] for part in document["paragraphs"] for qa in part["qas"]]
    return [(qa["question"], title, [answer["text"] for answer in qa["answers"]]) for title, qa in found if qa["answers"]]


def measured(searcher: Searcher, retrieval: str, questions: list[Question]) -> dict[str, float]:
    """Shares of the questions whose answer stands in the first passage, and in one of the first five."""
    ranks = []
    for words, title, answers in questions:
        passages = [found.passage for found in searcher.search(SearchRequest(words, 5, retrieval)).passages]  # type: ignore[arg-type]
        right = [p.document_id.rpartition("/")[2] == title and any(answer in p.text for answer in answers) for p in passages]
        ranks.append(right.index(True) if any(right) else 5)
    return {"first": round(sum(rank == 0 for rank in ranks) / len(ranks), 3), "first five": round(sum(rank < 5 for rank in ranks) / len(ranks), 3)}


def main() -> None:
    """One JSON object per line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=Path, required=True)
    parser.add_argument("--model-dir", type=Path, required=True)
    parser.add_argument("--questions", type=Path, nargs="+", required=True)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.2, 0.5, 0.8])
    options = parser.parse_args()
    process, encoder = standin(), Encoder.load(options.model_dir, "question")
    with tempfile.TemporaryDirectory() as home, process.standin(encoder.manifest.dimension) as pinecone:
        pinecone.set(rate=1e9)
        os.environ |= {"PINECONE_API_KEY": process.API_KEY, "QUARRY_PINECONE_HOST": pinecone.url}
        command = [INGESTION / ".venv/bin/python", "-m", "quarry_ingestion", options.documents, "--home", home, "--model-dir", options.model_dir]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        [database] = Path(home).glob(f"index/*/{INDEX_DATABASE}")
        index = Index.open(database.parent, encoder.manifest.digest, encoder.encode, vectors=False)
        ways = {way: PineconeIndex(pinecone.url, database.parent.name, index.store, 60, together=way == "sparse-dense") for way in ("fused", "sparse-dense")}
        searchers = {way: Searcher(index, encoder.encode, "measured", found) for way, found in ways.items()}
        for path in options.questions:
            questions = answerable(path)
            for retrieval in ("bm25", "dense", "hybrid"):
                name = "fused" if retrieval == "hybrid" else retrieval
                print(json.dumps({"questions": path.name, "count": len(questions), "search": name} | measured(searchers["fused"], retrieval, questions)))
            for pinecone_index.DENSE_SHARE in options.shares:
                told = {"questions": path.name, "count": len(questions), "search": "sparse-dense", "dense share": pinecone_index.DENSE_SHARE}
                print(json.dumps(told | measured(searchers["sparse-dense"], "hybrid", questions)), flush=True)
        for found in ways.values():
            found.close()
        index.close()


if __name__ == "__main__":
    main()
