"""Are known questions found in an index? `python -m quarry_retriever.recall QUESTIONS --index DIR --model-dir DIR [--floor 0.95]`.

QUESTIONS is SQuAD JSON whose titles are document ids. Each answerable question is searched for in one generation, as the server
would, without one; its document must be among the first `--top-k` passages. The last line of standard output is a JSON report.
Exit code 0 = the share found is at least `--floor`, 1 = it is not, 2 = it could not be measured.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from quarry_contract.errors import QuarryError
from quarry_contract.manifests import ManifestError
from quarry_contract.messages import SearchRequest

from .core import Retriever, RetrieverSettings

SEARCH_SEC = 60.0
MISSING_SHOWN = 20


class RecallError(Exception):
    """It cannot be measured; the message says why."""


def questions(path: Path) -> list[tuple[str, str]]:
    """(document, question) of all answerable ones.

    Raises:
        RecallError: the file is no SQuAD JSON, or holds none.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))["data"]
        found = [(a["title"], qa["question"]) for a in data for p in a["paragraphs"] for qa in p["qas"] if qa["answers"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecallError(f"{path} cannot be read as SQuAD JSON: {type(error).__name__}: {error}") from error
    if not found:
        raise RecallError(f"{path} holds no question with an answer")
    return found


async def missing(retriever: Retriever, asked: Sequence[tuple[str, str]], top_k: int, principals: tuple[str, ...]) -> list[str]:
    """Of each question that was not found, the document.

    Raises:
        QuarryError: a search failed.
        RecallError: a search was answered by a part of what should have.
    """
    lost = []
    for document, question in asked:
        reply = await retriever.search(SearchRequest(question, top_k, principals=principals), time.monotonic() + SEARCH_SEC)
        if reply.degraded:
            raise RecallError(f"the search did without {', '.join(reply.degraded)}: its recall is not that of the index")
        if all(hit.passage.document_id != document for hit in reply.passages):
            lost.append(document)
    return lost


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Open the index and ask all questions.

    Raises:
        RecallError, QuarryError, ManifestError: it cannot be measured.
    """
    asked = questions(args.questions)
    with contextlib.closing(Retriever.load(RetrieverSettings(args.model_dir, args.index), CollectorRegistry())) as retriever:
        lost = asyncio.run(missing(retriever, asked, args.top_k, tuple(args.principals)))
        generation = retriever.index.manifest.generation
    recall = round(1 - len(lost) / len(asked), 4)
    return {"generation": generation, "asked": len(asked), "recall": recall, "floor": args.floor, "missing": sorted(set(lost))[:MISSING_SHOWN]}


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="quarry_retriever.recall", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--index", type=Path, required=True, help="the generation's folder")
    parser.add_argument("--model-dir", type=Path, required=True, help="the retriever's artefact folder")
    parser.add_argument("--top-k", type=int, default=5)
    parser.add_argument("--floor", type=float, default=0.95, help="lowest share that is well")
    parser.add_argument("--principals", nargs="*", default=[], metavar="group:NAME", help="who asks, besides *: documents hidden from them count as not found")
    args = parser.parse_args()
    try:
        report = measure(args)
    except (RecallError, QuarryError, ManifestError) as error:
        print(f"recall not measured: {error}", file=sys.stderr)
        sys.exit(2)
    print(json.dumps(report, ensure_ascii=False))
    sys.exit(0 if report["recall"] >= args.floor else 1)


if __name__ == "__main__":
    main()
