"""Turn the reader's margin over its no-answer logit into a probability, and find the threshold to abstain below.

Platt scaling (Platt 1999) on questions asked as they will be in service: over the most similar passages, not the gold one alone.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from quarry_contract.manifests import Calibration
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from transformers import AutoModelForQuestionAnswering

from . import scoring, squad
from .features import load_tokenizer
from .predict import Logits, Prediction, predict, torch_logits
from .squad import Example

PASSAGES = 8
RIGHT_F1 = 0.5  # an answer that shares at least half its words with a gold one counts as right

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Outcome:
    """The best answer of one question over its passages. `right` is False for every answer to an unanswerable question."""

    answerable: bool
    margin: float
    right: bool


def open_book(examples: Sequence[Example], contexts: Sequence[tuple[str, str]], passages: int = PASSAGES) -> list[list[Example]]:
    """Each question on its `passages` most similar contexts (TF-IDF), whether or not the gold one is among them.

    `contexts` are (context, heading) pairs.
    """
    vectorizer = TfidfVectorizer(sublinear_tf=True, stop_words="english")
    by_context = vectorizer.fit_transform([f"{heading} {context}" for context, heading in contexts])
    similarity = (vectorizer.transform([e.question for e in examples]) @ by_context.T).toarray()
    return [[_on(e, *contexts[i]) for i in row.argsort()[::-1][:passages]] for e, row in zip(examples, similarity, strict=True)]


def _on(example: Example, context: str, heading: str) -> Example:
    return replace(example, context=context, heading=heading)


def outcomes(logits: Logits, tokenizer: Any, examples: Sequence[Example], contexts: Sequence[tuple[str, str]]) -> list[Outcome]:
    """Ask every question open-book and keep the best answer of each."""
    books = open_book(examples, contexts)
    flat = predict(logits, tokenizer, [e for book in books for e in book])
    found, at = [], 0
    for book in books:
        found.append(_outcome(flat[at : at + len(book)]))
        at += len(book)
    return found


def _outcome(predictions: Sequence[Prediction]) -> Outcome:
    best = max(predictions, key=lambda p: p.score)
    gold = [text for text, _ in best.example.answers]
    return Outcome(bool(gold), best.score - best.null_score, bool(gold) and scoring.f1(best.text, gold) >= RIGHT_F1)


def calibrate(found: Sequence[Outcome], min_answered: float) -> Calibration:
    """Fit confidence, then take the highest threshold that still answers `min_answered` of the answerable questions."""
    margins = np.array([[o.margin] for o in found])
    right = np.array([o.right for o in found])
    if right.all() or not right.any():
        raise ValueError("calibration needs right and wrong answers on the held-out questions: give it more of them, some unanswerable")
    fitted = LogisticRegression(C=1e3).fit(margins, right)
    slope, bias = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    if slope <= 0:
        raise ValueError("the reader's margin does not tell right from wrong answers on the held-out questions: it is not trained")
    answerable = [confidence(o.margin, slope, bias) for o in found if o.answerable]
    return Calibration(slope, bias, float(np.quantile(answerable, 1 - min_answered)))


def confidence(margin: float, slope: float, bias: float) -> float:
    """sigmoid(slope * margin + bias)."""
    return float(1 / (1 + np.exp(-(slope * margin + bias))))


def figures(found: Sequence[Outcome], calibration: Calibration, bins: int = 10) -> dict[str, float]:
    """Answered and abstained shares at the threshold, wrong among the answered, and expected calibration error."""
    sure = np.array([confidence(o.margin, calibration.slope, calibration.bias) for o in found])
    right = np.array([o.right for o in found], float)
    answerable = np.array([o.answerable for o in found])
    answered = sure >= calibration.threshold
    bucket = np.minimum((sure * bins).astype(int), bins - 1)
    ece = sum(abs(sure[bucket == b].mean() - right[bucket == b].mean()) * (bucket == b).mean() for b in range(bins) if (bucket == b).any())
    result = {"ece": float(ece), "wrong_among_answered": float(1 - right[answered].mean()) if answered.any() else 0.0}
    if answerable.any():
        result["answered_of_answerable"] = float(answered[answerable].mean())
    if not answerable.all():
        result["abstained_of_unanswerable"] = float(1 - answered[~answerable].mean())
    return result


def plot(found: Sequence[Outcome], calibration: Calibration, out: Path) -> None:
    """reliability.png and risk-coverage.png."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sure = np.array([confidence(o.margin, calibration.slope, calibration.bias) for o in found])
    right = np.array([o.right for o in found], float)
    bucket = np.minimum((sure * 10).astype(int), 9)
    used = [b for b in range(10) if (bucket == b).any()]
    figure, axes = pyplot.subplots(figsize=(5, 5))
    axes.plot([0, 1], [0, 1], "--", color="grey")
    axes.plot([sure[bucket == b].mean() for b in used], [right[bucket == b].mean() for b in used], "o-")
    axes.set(xlabel="confidence", ylabel="share right", title="Reliability, held-out questions")
    figure.savefig(out / "reliability.png", dpi=110)
    order = np.argsort(-sure)
    covered = np.arange(1, len(order) + 1)
    figure, axes = pyplot.subplots(figsize=(5, 5))
    axes.plot(covered / len(order), 1 - np.cumsum(right[order]) / covered)
    axes.set(xlabel="share answered", ylabel="share wrong among answered", title="Risk and coverage, held-out questions")
    figure.savefig(out / "risk-coverage.png", dpi=110)
    pyplot.close("all")


def main() -> None:
    """`python -m quarry_training.calibrate`: writes calibration.json, calibration-figures.json and two plots."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="held-out SQuAD file")
    parser.add_argument("--contexts", type=Path, nargs="*", default=[], help="further SQuAD files whose paragraphs stand among the passages")
    parser.add_argument("--min-answered", type=float, default=0.87)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    examples = squad.load(args.data)
    contexts = sorted({(e.context, e.heading) for path in [args.data, *args.contexts] for e in squad.load(path)})
    model = AutoModelForQuestionAnswering.from_pretrained(str(args.model), local_files_only=True)
    found = outcomes(torch_logits(model), load_tokenizer(args.model), examples, contexts)
    fitted = calibrate(found, args.min_answered)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "calibration.json").write_text(json.dumps(fitted.to_dict()))
    (args.out / "calibration-figures.json").write_text(json.dumps(figures(found, fitted)))
    plot(found, fitted, args.out)
    print(json.dumps(fitted.to_dict() | figures(found, fitted)))


if __name__ == "__main__":
    main()
