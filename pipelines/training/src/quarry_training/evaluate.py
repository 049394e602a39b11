"""Evaluate an exported reader or retriever on a SQuAD file: every question's result, and the figures over all of them and by slice.

A reader is scored as SQuAD v2 scores it, on gold paragraphs, or with --passages open-book over the most similar paragraphs of the set.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from quarry_contract.confidence import confidence
from quarry_contract.manifests import MODEL_MANIFEST, Calibration, ManifestError, ModelManifest, read_manifest, verify_files
from tqdm import tqdm

from . import scoring, squad
from .calibrate import RIGHT_F1, contexts_of, open_book
from .evaluate_retriever import retriever_rows
from .features import load_tokenizer
from .formats import artefact_digest
from .predict import Array, Logits, Prediction, best_answer, onnx_logits, predict, signals_of
from .results import Evaluation, Row, document_of, key_of, write_rows
from .slices import dates, slices_of
from .squad import Example
from .summary import by_slice, summary


@dataclass(frozen=True)
class QuestionSet:
    """The usable questions of a file, the slices of each, and the digest that names the set."""

    examples: tuple[Example, ...]
    slices: tuple[dict[str, str], ...]
    digest: str


def load_set(path: Path) -> QuestionSet:
    """Read, check and slice a SQuAD file.

    Raises:
        DatasetError: it is not usable as a dataset.
    """
    examples, report = squad.check(squad.load(path))
    stamps = dates(path)
    newest = max((stamps[e.id] for e in examples if e.id in stamps), default=None)
    return QuestionSet(tuple(examples), tuple(slices_of(e, stamps.get(e.id), newest) for e in examples), report.digest)


def evaluate(artefact: Path, questions: QuestionSet, passages: int = 1) -> Evaluation:
    """Ask an exported model every question.

    Raises:
        ManifestError: the artefact is not whole, or is a reader without calibration.
    """
    manifest = read_manifest(artefact / MODEL_MANIFEST, ModelManifest)
    verify_files(artefact, manifest.files)
    if manifest.kind == "retriever":
        rows, passages = retriever_rows(artefact, manifest, questions.examples, questions.slices), 0
    else:
        rows = _reader_rows(artefact, manifest, questions, passages)
    return Evaluation(manifest.kind, artefact_digest(manifest), questions.digest, passages, summary(rows), tuple(rows))


def _reader_rows(artefact: Path, manifest: ModelManifest, questions: QuestionSet, passages: int) -> list[Row]:
    if manifest.calibration is None:
        raise ManifestError("the artefact has no calibration: run calibrate before export")
    tokenizer = load_tokenizer(artefact, manifest.max_tokens)
    reading = _Counted(onnx_logits(artefact / "model.onnx"))
    examples = questions.examples
    books = [[e] for e in examples] if passages == 1 else open_book(examples, contexts_of(examples), passages)
    rows = []
    for example, book, slices in zip(tqdm(examples, desc="questions", mininterval=2), books, questions.slices, strict=True):
        reading.tokens, began = 0, time.perf_counter()
        predictions = predict(reading, tokenizer, book)
        milliseconds = 1000 * (time.perf_counter() - began)
        values = _values(example, predictions, manifest.calibration)
        if passages > 1 and example.answers:
            values["reciprocal_rank"] = next((1 / (i + 1) for i, e in enumerate(book) if e.context == example.context), 0.0)
        rows.append(Row(key_of(example), example.id, document_of(example), bool(example.answers), values, reading.tokens, milliseconds, slices))
    return rows


class _Counted:
    """Logits that count the tokens they read."""

    def __init__(self, logits: Logits) -> None:
        self._logits = logits
        self.tokens = 0

    def __call__(self, ids: Array, mask: Array, types: Array) -> tuple[Array, Array]:
        self.tokens += int(mask.sum())
        return self._logits(ids, mask, types)


def _values(example: Example, predictions: Sequence[Prediction], calibration: Calibration) -> dict[str, float]:
    """Of the answer or abstention: exact_match, f1. Of the best span, stood by or not: span_exact_match, span_f1, right."""
    gold = [text for text, _ in example.answers]
    best = best_answer(predictions)
    sure = confidence(signals_of(best, predictions), calibration)
    answered = sure >= calibration.threshold
    said = best.text if answered else ""
    span_f1 = scoring.f1(best.text, gold)
    return {
        "exact_match": scoring.exact_match(said, gold),
        "f1": scoring.f1(said, gold),
        "span_exact_match": scoring.exact_match(best.text, gold),
        "span_f1": span_f1,
        "confidence": sure,
        "answered": float(answered),
        "right": float(bool(gold) and span_f1 >= RIGHT_F1),
    }


def write(evaluation: Evaluation, out: Path, questions: Path) -> None:
    """The summary to `out`, the rows to `questions`."""
    head = {"kind": evaluation.kind, "artefact_digest": evaluation.artefact_digest, "data_digest": evaluation.data_digest, "passages": evaluation.passages}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(evaluation.summary | head | {"slices": by_slice(evaluation.rows)}, indent=1))
    write_rows(evaluation.rows, questions)


def at_least(lowest: int) -> Callable[[str], int]:
    """An argparse type: an integer from `lowest` on."""

    def number(text: str) -> int:
        if int(text) < lowest:
            raise ValueError(text)
        return int(text)

    return number


def main() -> None:
    """`python -m quarry_training.evaluate`: prints and writes one JSON object, and one JSON line a question beside it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artefact", type=Path, required=True, help="the folder export wrote, of a reader or a retriever")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--passages", type=at_least(1), default=1, help="ask the reader over this many contexts; 1 = the gold one alone")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--questions", type=Path, help="per-question results, JSON lines; default: OUT's name with -questions.jsonl")
    args = parser.parse_args()
    try:
        found = evaluate(args.artefact, load_set(args.data), args.passages)
    except (squad.DatasetError, ManifestError, OSError) as error:
        sys.exit(f"cannot evaluate: {error}")
    write(found, args.out, args.questions or args.out.with_name(f"{args.out.stem}-questions.jsonl"))
    print(json.dumps(found.summary))


if __name__ == "__main__":
    main()
