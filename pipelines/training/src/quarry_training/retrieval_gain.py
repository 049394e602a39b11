"""What training a retriever gains on a SQuAD file: recall and reciprocal rank of the base, the trained encoder and BM25.

Documents are split; the encoder trains on one side, and each held-out question searches the passages of ALL documents.
Intervals are paired bootstraps (Efron and Tibshirani 1993), over questions and, since questions on one document are alike, over documents.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import dpr_data, squad
from .base import BaseError
from .dpr_data import DprExample
from .encoders import Array, encode
from .fit import FitError
from .fit_retriever import RetrieverSettings, fit
from .passages import Bm25, Ctx
from .retrieval import DualEncoder, load_dual, passage_text, trained
from .squad import DatasetError, Example

HELD_OUT_PERCENT = 30
MAX_WORDS = 100  # a passage, as in the paper
RESAMPLES = 10_000
SEED = 23
PLOT = "retrieval-gain.png"


@dataclass(frozen=True)
class Task:
    """What is searched: the passages of all documents, by the held-out questions; `train` is the other side's."""

    train: list[DprExample]
    test: list[DprExample]
    passages: list[Ctx]


def make_task(examples: Sequence[Example], max_words: int = MAX_WORDS) -> Task:
    """Split by document, cut and mine.

    Raises:
        DatasetError: too few documents to hold any out, or no question has its answer within one passage.
    """
    train, test = squad.split(examples, HELD_OUT_PERCENT)
    if not train or not test:
        raise DatasetError("too few documents to hold any out: give a file with more contexts")
    found = dpr_data.from_squad(train, max_words=max_words), dpr_data.from_squad(test, max_words=max_words)
    return Task(*found, dpr_data.passages(examples, max_words))


def first_ranks(task: Task, orders: Iterable[Array]) -> Array:
    """int64 (questions,): the rank, from 1, of the first passage that answers; `orders[i]` holds passage indices, best first."""
    index = {c: i for i, c in enumerate(task.passages)}
    return np.array([1 + np.isin(order, [index[c] for c in e.positives]).argmax() for e, order in zip(task.test, orders, strict=True)])


def dense_ranks(task: Task, dual: DualEncoder) -> Array:
    """first_ranks of exact search by inner product."""
    passages = encode(dual.passage, dual.tokenizer, [passage_text(c) for c in task.passages])
    scores = encode(dual.question, dual.tokenizer, [e.question for e in task.test]) @ passages.T
    return first_ranks(task, np.argsort(-scores, axis=1, kind="stable"))


def bm25_ranks(task: Task) -> Array:
    """first_ranks of BM25."""
    ranked = Bm25([passage_text(c) for c in task.passages]).best([e.question for e in task.test], len(task.passages))
    return first_ranks(task, ranked)


METRICS: Mapping[str, Callable[[Array], Array]] = {
    "recall_at_5": lambda ranks: (ranks <= 5).astype(float),
    "recall_at_20": lambda ranks: (ranks <= 20).astype(float),
    "mrr": lambda ranks: 1.0 / ranks,
}


def interval(differences: Array, groups: Sequence[str]) -> tuple[float, float]:
    """The 95 % bootstrap interval of the mean of `differences`, drawing whole groups with replacement."""
    names = sorted(set(groups))
    member = np.array([names.index(g) for g in groups])
    sums, sizes = np.bincount(member, differences), np.bincount(member)
    drawn = np.random.default_rng(SEED).integers(len(names), size=(RESAMPLES, len(names)))
    low, high = np.quantile(sums[drawn].sum(1) / sizes[drawn].sum(1), [0.025, 0.975])
    return float(low), float(high)


def compare(ranks: Mapping[str, Array], over: str, task: Task) -> dict[str, Any]:
    """By metric, how much better `trained` is than `over`, with both intervals."""
    documents, each = [e.document for e in task.test], [str(i) for i in range(len(task.test))]
    table = {}
    for name, metric in METRICS.items():
        gained = metric(ranks["trained"]) - metric(ranks[over])
        table[name] = {"gain": float(gained.mean()), "over_questions": interval(gained, each), "over_documents": interval(gained, documents)}
    return table


def measure(base: str, task: Task, out: Path, settings: RetrieverSettings) -> dict[str, Any]:
    """Train (unless `out`/model is this very run, complete), rank, compare; writes gain.json and a plot into `out`."""
    model = out / "model"
    figures = fit(base, task.train, model, settings)
    ranks = {"base": dense_ranks(task, load_dual(base, False, out / "base")), "trained": dense_ranks(task, trained(model)), "bm25": bm25_ranks(task)}
    result = {
        "train": {"questions": len(task.train), "documents": len({e.document for e in task.train}), "digest": dpr_data.digest(task.train)},
        "test": {"questions": len(task.test), "documents": len({e.document for e in task.test}), "digest": dpr_data.digest(task.test)},
        "passages_searched": len(task.passages),
        "scores": {name: {m: float(f(found).mean()) for m, f in METRICS.items()} for name, found in ranks.items()},
        "trained_over_base": compare(ranks, "base", task),
        "trained_over_bm25": compare(ranks, "bm25", task),
        "fit": figures,
    }
    plot(result, out / PLOT)
    (out / "gain.json").write_text(json.dumps(result, indent=1))
    return result


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Left the scores, right the gains over the base and BM25 with their intervals over documents."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    at = np.arange(len(METRICS))
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for i, (name, scores) in enumerate(result["scores"].items()):
        bars = left.bar(at + 0.27 * (i - 1), [scores[m] for m in METRICS], 0.25, label=name)
        left.bar_label(bars, fmt="%.2f", fontsize=8)
    left.set(xticks=at, xticklabels=list(METRICS), ylim=(0, 1), title=f"{result['test']['questions']} held-out questions")
    left.legend()
    for i, over in enumerate(("base", "bm25")):
        rows = [result[f"trained_over_{over}"][m] for m in METRICS]
        middle, bounds = np.array([r["gain"] for r in rows]), np.array([r["over_documents"] for r in rows])
        right.errorbar(at + 0.2 * (i - 0.5), middle, np.abs(bounds.T - middle), fmt="o", capsize=4, label=f"trained over {over}")
    right.axhline(0, color="grey", linewidth=0.8)
    right.set(xticks=at, xticklabels=list(METRICS), title="Gain, 95 % intervals over documents")
    right.legend()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    """`python -m quarry_training.retrieval_gain --data squad.json --out DIR`: prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a SQuAD file")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--base", default="minilm")
    parser.add_argument("--epochs", type=float, default=RetrieverSettings.epochs)
    parser.add_argument("--learning-rate", type=float, default=RetrieverSettings.learning_rate)
    parser.add_argument("--batch-size", type=int, default=RetrieverSettings.batch_size)
    args = parser.parse_args()
    began = time.monotonic()
    try:
        settings = RetrieverSettings(args.learning_rate, args.batch_size, args.epochs)
        examples, _ = squad.check(squad.load(args.data))
        task = make_task(examples)
        result = measure(args.base, task, args.out, settings)
    except (DatasetError, BaseError, FitError, ValueError, OSError) as error:
        sys.exit(f"gain not measured: {error}")
    print(json.dumps(result | {"seconds": round(time.monotonic() - began)}))


if __name__ == "__main__":
    main()
