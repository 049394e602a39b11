"""Evaluate an exported reader on gold paragraphs: exact match and F1 as SQuAD v2 scores them, by slice."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from quarry_contract.manifests import MODEL_MANIFEST, Calibration, ModelManifest, read_manifest, verify_files

from . import scoring, squad
from .calibrate import confidence
from .features import load_tokenizer
from .predict import Prediction, onnx_logits, predict


def score(predictions: Sequence[Prediction], calibration: Calibration) -> dict[str, float]:
    """Exact match and F1 in percent: of the best span alone on answerable questions, and of answer-or-abstention on all."""
    rows = []
    for p in predictions:
        gold = [text for text, _ in p.example.answers]
        sure = confidence(p.score - p.null_score, calibration.slope, calibration.bias) >= calibration.threshold
        said = p.text if sure else ""
        rows.append((bool(gold), scoring.exact_match(said, gold), scoring.f1(said, gold), scoring.exact_match(p.text, gold), scoring.f1(p.text, gold)))
    table = np.array(rows, float)
    result = {"questions": float(len(rows)), "exact_match": 100 * table[:, 1].mean(), "f1": 100 * table[:, 2].mean()}
    answerable = table[:, 0] == 1
    if answerable.any():
        result |= {"answerable_exact_match": 100 * table[answerable, 3].mean(), "answerable_f1": 100 * table[answerable, 4].mean()}
    return {name: float(value) for name, value in result.items()}


def main() -> None:
    """`python -m quarry_training.evaluate`: prints and writes one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artefact", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    manifest = read_manifest(args.artefact / MODEL_MANIFEST, ModelManifest)
    verify_files(args.artefact, manifest.files)
    if manifest.calibration is None:
        raise SystemExit("the artefact has no calibration: run calibrate before export")
    examples, report = squad.check(squad.load(args.data))
    predictions = predict(onnx_logits(args.artefact / "model.onnx"), load_tokenizer(args.artefact, manifest.max_tokens), examples)
    result = score(predictions, manifest.calibration)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result | {"data_digest": report.digest}, indent=1))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
