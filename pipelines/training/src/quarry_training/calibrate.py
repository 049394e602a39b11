"""Turn a span's signals (quarry_contract.confidence) into a probability, and find the threshold to abstain below.

Logistic regression, as Platt (1999) of the margin alone, on questions asked as they will be in service: over the most similar passages, not the gold one alone.
A few held-out questions bend what the base's calibration says (models/base-reader/calibration.json), many outweigh it.
The threshold answers at least a share of the answerable questions (--min-answered), or keeps a share wrong among the answered (--max-wrong).
With --check, an exported reader's calibration is measured on a file it never saw.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from quarry_contract.confidence import Signals, confidence
from quarry_contract.errors import QuarryError
from quarry_contract.manifests import MODEL_MANIFEST, Calibration, ManifestError, ModelManifest, read_manifest, verify_files

from . import scoring, squad
from .bootstrap import interval
from .features import load_tokenizer
from .formats import PRIOR
from .malloc import keep_freed
from .metrics import METRICS, clopper_pearson, measured
from .plots import reliability_diagram, risk_coverage_diagram
from .predict import Logits, Prediction, best_answer, onnx_logits, predict, signals_of, torch_logits
from .results import Array, Table
from .risk import threshold_for
from .squad import Example

MIN_ANSWERED = 0.87  # of the answerable questions, at least, where no share wrong decides the threshold
PASSAGES = 5  # as many as the gateway's extractive.yaml reads
PRIOR_STRENGTH = 20.0  # how many questions the base's calibration weighs, roughly; from 10 to 30 is alike
SEED, DRAWS = 17, 200
RIGHT_F1 = 0.5  # an answer that shares at least half its words with a gold one counts as right


@dataclass(frozen=True)
class Outcome:
    """The best answer of one question over its passages. `right` is False for every answer to an unanswerable question."""

    answerable: bool
    signals: Signals
    right: bool


def contexts_of(examples: Sequence[Example]) -> dict[str, str]:
    """Context -> the heading it stands under, sorted by context."""
    return dict(sorted((e.context, e.heading) for e in examples))


def open_book(examples: Sequence[Example], contexts: Mapping[str, str], passages: int = PASSAGES) -> list[list[Example]]:
    """Each question on its `passages` most similar contexts (TF-IDF), whether or not the gold one is among them; the most similar first.

    `contexts` maps each context to its heading.

    Raises:
        DatasetError: no context has a word to search by.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer  # here, for it is slow to import

    pool = list(contexts.items())
    vectorizer = TfidfVectorizer(sublinear_tf=True, stop_words="english")
    try:
        by_context = vectorizer.fit_transform([f"{heading} {text}" for text, heading in pool])
    except ValueError as error:
        raise squad.DatasetError("the paragraphs hold no words to search by, only stop words: give a set with real paragraphs") from error
    similarity = (vectorizer.transform([e.question for e in examples]) @ by_context.T).toarray()
    return [
        [replace(e, context=pool[i][0], heading=pool[i][1]) for i in row.argsort()[::-1][:passages]] for e, row in zip(examples, similarity, strict=True)
    ]


def outcomes(logits: Logits, tokenizer: Any, examples: Sequence[Example], contexts: Mapping[str, str]) -> list[Outcome]:
    """Ask every question open-book and keep the best answer of each."""
    return asked(logits, tokenizer, open_book(examples, contexts))


def asked(logits: Logits, tokenizer: Any, books: Sequence[Sequence[Example]]) -> list[Outcome]:
    """Ask each question of its passages, the most similar first, and keep the best answer."""
    flat = predict(logits, tokenizer, [e for book in books for e in book])
    found, at = [], 0
    for book in books:
        found.append(_outcome(flat[at : at + len(book)]))
        at += len(book)
    return found


def _outcome(predictions: Sequence[Prediction]) -> Outcome:
    best = best_answer(predictions)
    gold = [text for text, _ in best.example.answers]
    return Outcome(bool(gold), signals_of(best, predictions), bool(gold) and scoring.f1(best.text, gold) >= RIGHT_F1)


def calibrate(found: Sequence[Outcome], min_answered: float, max_wrong: float | None = None, prior: Calibration | None = None) -> Calibration:
    """Fit confidence, then take the threshold with the most right decisions that still answers `min_answered` of the answerable questions.

    `prior` is the calibration of the model that the reader was trained from; its threshold is not used.

    With `max_wrong`, take instead the lowest threshold at which at most that share of the answered is wrong. risk.py says with what certainty,
    for an order fixed before; three weights fitted on the same questions bend the order a little.

    Raises:
        ValueError: the questions cannot teach a confidence, or the share wrong cannot be promised.
    """
    table = np.array([o.signals for o in found])
    right = np.array([o.right for o in found])
    if right.all() or not right.any():
        raise ValueError("calibration needs right and wrong answers on the held-out questions: give it more of them, some unanswerable")
    if np.cov(table[:, 0], right)[0, 1] <= 0:
        raise ValueError("the reader's margin does not tell right from wrong answers on the held-out questions: it is not trained")
    fitted = _fitted(table, right, prior)
    sure = np.array([confidence(o.signals, fitted) for o in found])
    if max_wrong is not None:
        return replace(fitted, threshold=threshold_for(sure, right.astype(float), max_wrong))
    return replace(fitted, threshold=_best_threshold(sure, right, np.array([o.answerable for o in found]), min_answered))


def _best_threshold(sure: Array, right: Array, answerable: Array, min_answered: float) -> float:
    """With the most right answers given and unanswerable questions held back; of equals the highest. All arrays are (questions,)."""
    highest = float(np.quantile(sure[answerable], 1 - min_answered))
    tried = np.append(sure[sure <= highest], highest)
    done = [int((right & (sure >= t)).sum() + (~answerable & (sure < t)).sum()) for t in tried]
    return float(tried[[d == max(done) for d in done]].max())


def _fitted(table: Array, right: Array, prior: Calibration | None) -> Calibration:
    """Logistic regression on the signals, `table` (questions, 3), drawn to the weights of `prior`, or weakly to none at all.

    Weights are compared in units of their signal's spread, so that the penalty (a Gaussian prior) weighs them alike.
    """
    from scipy.optimize import minimize  # here, for it is slow to import

    signals = np.column_stack([table, np.ones(len(table))])
    sign = np.where(right, 1.0, -1.0)
    centre = np.array([prior.slope, prior.score, prior.lead, prior.bias]) if prior else np.zeros(4)
    strength = np.full(4, PRIOR_STRENGTH) if prior else np.array([1.0, 1.0, 1.0, 0.0])
    scale = strength * np.append(table.var(axis=0), 1.0)

    def loss(weights: Array) -> float:
        return float(np.logaddexp(0, -sign * (signals @ weights)).sum() + (scale * (weights - centre) ** 2).sum() / 2)

    slope, score, lead, bias = map(float, minimize(loss, centre).x)
    return Calibration(slope, bias, 0.0, score, lead)


def table_of(found: Sequence[Outcome], calibration: Calibration) -> Table:
    """The outcomes as the columns that metrics.py reads."""
    sure = np.array([confidence(o.signals, calibration) for o in found])
    flags = {"right": [o.right for o in found], "answerable": [o.answerable for o in found], "answered": sure >= calibration.threshold}
    return {"confidence": sure} | {name: np.array(values, float) for name, values in flags.items()}


def figures(found: Sequence[Outcome], calibration: Calibration) -> dict[str, float]:
    """Answered and abstained shares at the threshold, wrong among the answered, and expected calibration error, with 95 % intervals.

    The interval of the calibration error is a bootstrap's, that of the share wrong exact (Clopper-Pearson). `ece_if_true` is the calibration error
    that so few questions would show on average if every confidence were the true probability.
    """
    values = table_of(found, calibration)
    result = {"questions": float(len(found)), **measured(values)}
    result["ece_low"], result["ece_high"] = interval(METRICS["ece"], values, np.arange(len(found)))
    sure = values["confidence"]
    drawn = np.random.default_rng(SEED).random((DRAWS, len(sure))) < sure
    result["ece_if_true"] = float(np.mean([METRICS["ece"].of({**values, "right": right.astype(float)}) for right in drawn]))
    answered = values["answered"] > 0
    result["wrong_among_answered_low"], result["wrong_among_answered_high"] = clopper_pearson(
        int((1 - values["right"])[answered].sum()), int(answered.sum())
    )
    if "abstention_recall" in result:
        result["abstained_of_unanswerable"] = result["abstention_recall"]
    return result


def plot(found: Sequence[Outcome], calibration: Calibration, out: Path) -> None:
    """reliability.png and risk-coverage.png."""
    values = table_of(found, calibration)
    said = {"held-out questions": (values["confidence"], values["right"])}
    reliability_diagram(said, out / "reliability.png")
    shares = measured(values)
    risk_coverage_diagram(said, out / "risk-coverage.png", [(shares["coverage"], shares.get("wrong_among_answered", 0.0))])


def check(artefact: Path, data: Path, max_wrong: float) -> dict[str, Any]:
    """The calibration of an exported reader on a file it was not trained on, asked as in service.

    `holds`: the file does not contradict that at most `max_wrong` of the answered are wrong, its exact 95 % interval reaching down to it.

    Raises:
        ManifestError: the artefact is not a whole, calibrated reader.
        DatasetError: the file is not usable, or is what the reader was trained on.
    """
    manifest = read_manifest(artefact / MODEL_MANIFEST, ModelManifest)
    verify_files(artefact, manifest.files)
    if manifest.calibration is None:
        raise ManifestError("the artefact has no calibration: it is no reader, or was exported without")
    examples, report = squad.check(squad.load(data))
    if report.digest == manifest.data_digest:
        raise squad.DatasetError(f"{data.name} is what the reader was trained on: check it on questions it never saw")
    found = outcomes(onnx_logits(artefact / "model.onnx"), load_tokenizer(artefact, manifest.max_tokens), examples, contexts_of(examples))
    measure = figures(found, manifest.calibration)
    low, high = measure["wrong_among_answered_low"], measure["wrong_among_answered_high"]
    return {
        "ece": measure["ece"],
        "ece_interval": [measure["ece_low"], measure["ece_high"]],
        "coverage": measure["coverage"],
        "answered_of_answerable": measure.get("answered_of_answerable"),
        "wrong_among_answered": measure.get("wrong_among_answered"),
        "interval": [low, high],
        "max_wrong": max_wrong,
        "holds": low <= max_wrong,
        "questions": len(found),
        "threshold": manifest.calibration.threshold,
        "data_digest": report.digest,
    }


def run(model: Path, data: Path, contexts: Sequence[Path], out: Path, min_answered: float, max_wrong: float | None) -> dict[str, float]:
    """Calibrate a trained model folder and write calibration.json, calibration-figures.json and two plots.

    Where the folder holds the calibration of what it was trained from (formats.PRIOR), that is the prior.

    Raises:
        ValueError: as `calibrate`.
        DatasetError: a file is not in SQuAD layout.
    """
    from transformers import AutoModelForQuestionAnswering  # here, for whoever measures exported models needs no PyTorch

    examples = squad.load(data)
    pool = contexts_of([e for path in [data, *contexts] for e in squad.load(path)])
    reader = AutoModelForQuestionAnswering.from_pretrained(str(model), local_files_only=True)
    found = outcomes(torch_logits(reader), load_tokenizer(model), examples, pool)
    fitted = calibrate(found, min_answered, max_wrong, read_prior(model))
    measure = figures(found, fitted) | ({"max_wrong": max_wrong} if max_wrong is not None else {})
    out.mkdir(parents=True, exist_ok=True)
    (out / "calibration.json").write_text(json.dumps(fitted.to_dict()))
    (out / "calibration-figures.json").write_text(json.dumps(measure))
    plot(found, fitted, out)
    return fitted.to_dict() | measure


def read_prior(model: Path) -> Calibration | None:
    """The calibration of what the model in this folder was trained from, if it had one.

    Raises:
        ValueError: the file is none.
    """
    path = model / PRIOR
    try:
        return Calibration.from_dict(json.loads(path.read_text())) if path.exists() else None
    except (QuarryError, ValueError) as error:
        raise ValueError(f"{path} is not a calibration ({error}): remove it, and only the held-out questions decide") from error


def share(text: str) -> float:
    """An argparse type: a number strictly between 0 and 1."""
    if not 0 < float(text) < 1:
        raise ValueError(text)
    return float(text)


def arguments() -> argparse.Namespace:
    """The command line, complete for what it asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="measure --artefact on --data instead of fitting")
    parser.add_argument("--artefact", type=Path, help="an exported reader's folder, with --check")
    parser.add_argument("--model", type=Path, help="a trained model's folder")
    parser.add_argument("--data", type=Path, required=True, help="held-out SQuAD file")
    parser.add_argument("--contexts", type=Path, nargs="*", default=[], help="further SQuAD files whose paragraphs stand among the passages")
    parser.add_argument("--min-answered", type=share, default=MIN_ANSWERED, help="share of the answerable questions to answer")
    parser.add_argument("--max-wrong", type=share, help="largest share wrong among the answered; decides the threshold instead of --min-answered")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    needed = ("artefact", "max_wrong") if args.check else ("model", "out")
    if missing := [f"--{name.replace('_', '-')}" for name in needed if getattr(args, name) is None]:
        parser.error(f"{'with' if args.check else 'without'} --check, {' and '.join(missing)} must be given")
    return args


def main() -> None:
    """`python -m quarry_training.calibrate`: prints one JSON object; --check exits 1 when the promise does not hold."""
    args = arguments()
    keep_freed()
    result: dict[str, Any]
    try:
        if args.check:
            result = check(args.artefact, args.data, args.max_wrong)
        else:
            result = run(args.model, args.data, args.contexts, args.out, args.min_answered, args.max_wrong)
    except (ValueError, squad.DatasetError, ManifestError, OSError) as error:
        sys.exit(f"not {'checked' if args.check else 'calibrated'}: {error}")
    print(json.dumps(result))
    if not result.get("holds", True):
        sys.exit(1)


if __name__ == "__main__":
    main()
