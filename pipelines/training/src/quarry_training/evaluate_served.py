"""Ask every question of a SQuAD file over HTTP, through the running gateway or the reader alone, and score the answers.

Prints one JSON object. A file without unanswerable questions is scored as SQuAD v1 is: the best answer counts, however sure it is.
QUARRY_TOKEN is the bearer token to ask with, where the gateway wants one.
"""

import argparse
import json
import os
import statistics
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from . import scoring, squad
from .squad import Example

K = 5
TOKEN = {"Authorization": f"Bearer {os.environ['QUARRY_TOKEN']}"} if os.environ.get("QUARRY_TOKEN") else {}


@dataclass(frozen=True)
class Reply:
    """The best answer whatever its confidence, whether the service stood by it, and whether the gold passage was among the first K."""

    text: str
    answered: bool
    found: bool
    milliseconds: float


def post(url: str, body: dict[str, Any], patience_sec: float = 60.0) -> dict[str, Any]:
    """POST JSON; waits and asks again when the service says it is full (429).

    Raises:
        SystemExit: it cannot be reached or refuses the request.
    """
    until = time.monotonic() + patience_sec
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json", "X-Request-Deadline-Ms": "25000", **TOKEN})
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return dict(json.load(reply))
        except urllib.error.HTTPError as error:
            if error.code != 429 or time.monotonic() > until:
                sys.exit(f"{url} answered {error.code}: {error.read()[:300].decode(errors='replace')}")
            time.sleep(float(error.headers.get("Retry-After", "1")))
        except OSError as error:
            sys.exit(f"{url} cannot be reached ({error}): start the stack with `make up`")


def ask_gateway(base: str, example: Example, threshold: float) -> Reply:
    """The whole way: search for recall, then the answer."""
    found = post(f"{base}/v1/search", {"question": example.question, "top_k": K})["passages"]
    hit = any(holds_answer(p["passage"]["text"], example) for p in found)
    began = time.perf_counter()
    answers = post(f"{base}/v1/answers", {"question": example.question, "top_k": 1, "min_confidence": 0.0})["answers"]
    milliseconds = 1000 * (time.perf_counter() - began)
    return Reply(answers[0]["text"] if answers else "", bool(answers) and answers[0]["confidence"] >= threshold, hit, milliseconds)


def ask_reader(base: str, example: Example) -> Reply:
    """The reader alone, on the gold paragraph."""
    began = time.perf_counter()
    message = {"question": example.question, "passages": [{"passage_id": "gold", "text": example.context}], "top_k": 1}
    reply = post(f"{base}/api/v1.0/predictions", {"jsonData": message})["jsonData"]
    text = reply["spans"][0]["text"] if reply["spans"] else ""
    return Reply(text, not reply["abstained"], True, 1000 * (time.perf_counter() - began))


def holds_answer(passage: str, example: Example) -> bool:
    """Whether the passage comes from the gold paragraph (or holds it) and contains a gold answer."""
    text, context = set(scoring.normalise(passage).split()), set(scoring.normalise(example.context).split())
    same_place = len(text & context) >= 0.6 * min(len(text), len(context))
    return same_place and any(scoring.normalise(a) in scoring.normalise(passage) for a, _ in example.answers)


def summary(examples: Sequence[Example], replies: Sequence[Reply]) -> dict[str, float | int]:
    """Percentages for exact_match and f1, shares for the rest, milliseconds."""
    abstaining = any(not e.answers for e in examples)
    gold = [[text for text, _ in e.answers] for e in examples]
    said = [r.text if r.answered or not abstaining else "" for r in replies]
    answerable = [(e, r, s) for e, r, s in zip(examples, replies, said, strict=True) if e.answers]
    unanswerable = [r for e, r in zip(examples, replies, strict=True) if not e.answers]
    times = sorted(r.milliseconds for r in replies)
    result: dict[str, float | int] = {
        "questions": len(examples),
        "exact_match": 100 * statistics.fmean(scoring.exact_match(s, g) for s, g in zip(said, gold, strict=True)),
        "f1": 100 * statistics.fmean(scoring.f1(s, g) for s, g in zip(said, gold, strict=True)),
        "recall_at_k": statistics.fmean(r.found for _, r, _ in answerable) if answerable else 0.0,
        "k": K,
        "answered": statistics.fmean(r.answered for r in replies),
        "p50_ms": statistics.median(times),
        "p95_ms": times[min(len(times) - 1, int(0.95 * len(times)))],
    }
    if answerable and unanswerable:
        result["answerable_f1"] = 100 * statistics.fmean(scoring.f1(s, [t for t, _ in e.answers]) for e, _, s in answerable)
        result["answered_of_answerable"] = statistics.fmean(r.answered for _, r, _ in answerable)
        result["abstained_of_unanswerable"] = statistics.fmean(not r.answered for r in unanswerable)
    return {name: round(value, 4) for name, value in result.items()}


def main() -> None:
    """`python -m quarry_training.evaluate_served --data squad.json (--gateway URL | --reader URL)`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--gateway")
    target.add_argument("--reader")
    parser.add_argument("--concurrency", type=int, default=2)
    args = parser.parse_args()
    try:
        examples = squad.load(args.data)
    except (squad.DatasetError, OSError) as error:
        sys.exit(f"cannot evaluate: {error}")
    if not examples:
        sys.exit(f"cannot evaluate: {args.data.name} holds no questions")
    ask: Callable[[Example], Reply] = lambda e: ask_reader(args.reader, e)  # noqa: E731
    if args.gateway:
        with urllib.request.urlopen(urllib.request.Request(f"{args.gateway}/v1/releases/current", headers=TOKEN), timeout=10) as reply:
            threshold = float(json.load(reply)["threshold"])
        ask = lambda e: ask_gateway(args.gateway, e, threshold)  # noqa: E731
    with ThreadPoolExecutor(args.concurrency) as pool:
        replies = list(tqdm(pool.map(ask, examples), total=len(examples), desc="questions", mininterval=2))
    result = summary(examples, replies)
    if args.reader:
        del result["recall_at_k"], result["k"]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
