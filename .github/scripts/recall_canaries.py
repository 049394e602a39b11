"""Are known questions still answered from the right document? `recall_canaries.py QUESTIONS --gateway URL`.

QUESTIONS is SQuAD JSON whose titles are document ids, as `make eval` takes it. Each answerable question is searched for; the
share whose document is among the first `--top-k` passages must not fall below `--floor`. Exit code 0 = it did not, 1 = it did,
2 = the gateway cannot be asked. The report is JSON on standard output. QUARRY_TOKEN and QUARRY_API_KEY go along where they are set.
Standard library only.
"""

import argparse
import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path


def questions(path: Path) -> list[tuple[str, str]]:
    """(document, question) of all answerable ones.

    Raises:
        OSError, ValueError, KeyError: the file is no SQuAD JSON.
    """
    data = json.loads(path.read_text(encoding="utf-8"))["data"]
    return [(a["title"], qa["question"]) for a in data for p in a["paragraphs"] for qa in p["qas"] if qa["answers"]]


def found(gateway: str, question: str, top_k: int) -> list[str]:
    """Documents of the first passages.

    Raises:
        OSError: no reply, or an error.
    """
    headers = {"Content-Type": "application/json"}
    if token := os.environ.get("QUARRY_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    if key := os.environ.get("QUARRY_API_KEY"):
        headers["x-api-key"] = key
    body = json.dumps({"question": question, "top_k": top_k, "retrieval": "hybrid"}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{gateway.rstrip('/')}/v1/search", body, headers), timeout=30) as reply:
        return [hit["passage"]["document_id"] for hit in json.load(reply)["passages"]]


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="recall_canaries.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--gateway", required=True)
    parser.add_argument("--top-k", type=int, default=5)
    parser.add_argument("--floor", type=float, default=0.95, help="lowest share that is well")
    args = parser.parse_args()
    try:
        asked = questions(args.questions)
        missing = [document for document, question in asked if document not in found(args.gateway, question, args.top_k)]
    except (OSError, ValueError, KeyError) as error:
        print(f"the canaries could not be asked: {error}", file=sys.stderr)
        sys.exit(2)
    recall = 1 - len(missing) / len(asked) if asked else 0.0
    print(json.dumps({"asked": len(asked), "recall": round(recall, 4), "floor": args.floor, "missing": sorted(set(missing))}))
    sys.exit(0 if recall >= args.floor else 1)


if __name__ == "__main__":
    main()
