"""Models to ONNX artefact folders: a reader's or retriever's graphs, `tokenizer.json`, and `model.json` written last.

Every export is checked: ONNX Runtime must give PyTorch's numbers, or nothing is written.
"""

import argparse
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from quarry_contract.manifests import MODEL_MANIFEST, Calibration, ModelManifest, digest_file, write_manifest
from torch import nn
from transformers import AutoModelForQuestionAnswering

from .base import PACKAGED, BaseError
from .encoders import dimension, max_tokens
from .features import MAX_HEADING_TOKENS, MAX_QUESTION_TOKENS, MAX_TOKENS, STRIDE, positions
from .fit_retriever import record
from .predict import MAX_ANSWER_TOKENS, accepted
from .retrieval import trained

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
PARITY_TOLERANCE = 1e-3


class ExportError(Exception):
    """The exported graph does not compute what the model computes."""


class SpanReader(nn.Module):
    """(batch, length) int64 inputs -> start and end logits, (batch, length) float32."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        out = self.model(**accepted(self.model, given))
        return out.start_logits, out.end_logits


def export_reader(
    model: nn.Module, tokenizer_from: Path, out: Path, base: str, calibration: Calibration, metrics: Mapping[str, float], data_digest: str | None
) -> ModelManifest:
    """Write the reader's artefact folder.

    Raises:
        ExportError: ONNX Runtime and PyTorch disagree by more than PARITY_TOLERANCE on any logit.
    """
    max_tokens = min(MAX_TOKENS, positions(_config(model)))
    difference = _export(SpanReader(model), out / "model.onnx", ("start_logits", "end_logits"))
    return _finish(
        out,
        tokenizer_from,
        ("model.onnx", "tokenizer.json"),
        {
            "name": "reader",
            "kind": "reader",
            "base": base,
            "max_tokens": max_tokens,
            "stride": min(STRIDE, max_tokens // 3),
            "max_question_tokens": MAX_QUESTION_TOKENS,
            "max_heading_tokens": MAX_HEADING_TOKENS,
            "max_answer_tokens": MAX_ANSWER_TOKENS,
            "calibration": calibration,
            "data_digest": data_digest,
            "metrics": {**metrics, "export_max_difference": difference},
        },
    )


def export_retriever(model_dir: Path, out: Path, base: str) -> ModelManifest:
    """Write the artefact folder of a dual encoder, as retrieval.trained finds it or one sentence encoder for both sides.

    Tied weights give `encoder.onnx`, separate ones `question.onnx` and `passage.onnx`. Where fit_retriever trained it,
    its record names the base and the data.

    Raises:
        ExportError: as export_reader, for either encoder.
        BaseError: as retrieval.trained.
    """
    dual = trained(model_dir)
    fitted = record(model_dir)
    names = ("encoder.onnx", "encoder.onnx") if dual.tied else ("question.onnx", "passage.onnx")
    graphs = dict(zip(names, (dual.question, dual.passage), strict=True))
    difference = _export_all(graphs, out)
    return _finish(
        out,
        dual.tokenizer_from,
        (*graphs, "tokenizer.json"),
        {
            "name": "retriever",
            "kind": "retriever",
            "base": fitted.get("base", base),
            "max_tokens": max_tokens(_config(dual.question.model)),
            "dimension": dimension(dual.question),
            "question_encoder": names[0],
            "passage_encoder": names[1],
            "data_digest": fitted.get("data_digest"),
            "metrics": {**fitted.get("figures", {}), "export_max_difference": difference},
        },
    )


def _export_all(graphs: Mapping[str, nn.Module], out: Path) -> float:
    """Every graph or none; the largest difference of all."""
    try:
        return max([_export(module, out / name, ("sentence_embedding",)) for name, module in graphs.items()])
    except ExportError:
        for name in graphs:
            (out / name).unlink(missing_ok=True)
        raise


def _config(model: nn.Module) -> dict[str, Any]:
    config: Any = model.config
    return dict(config.to_dict())


def _export(module: nn.Module, path: Path, outputs: Sequence[str]) -> float:
    """Export and compare on batches of several shapes; returns the largest difference seen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    module.eval()
    config = _config(module.model)  # type: ignore[arg-type]
    vocabulary, longest = int(config["vocab_size"]), positions(config)
    batch, length = torch.export.Dim("batch", min=1, max=4096), torch.export.Dim("length", min=2, max=longest)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's notes about itself
        shapes = tuple({0: batch, 1: length} for _ in INPUTS)
        names = {"input_names": list(INPUTS), "output_names": list(outputs)}
        program = torch.onnx.export(module, _sample(2, 16, vocabulary, 0), dynamo=True, dynamic_shapes=shapes, verbose=False, **names)  # type: ignore[arg-type]
        assert program is not None
        program.save(str(path))
        worst = max(_difference(module, path, outputs, _sample(b, min(n, longest), vocabulary, n)) for b, n in ((1, 7), (3, 33), (2, 180)))
    if not worst <= PARITY_TOLERANCE:
        path.unlink()
        raise ExportError(f"ONNX and PyTorch differ by {worst:.2g} (at most {PARITY_TOLERANCE:g} is accepted); nothing was exported")
    return worst


def _difference(module: nn.Module, path: Path, outputs: Sequence[str], sample: tuple[torch.Tensor, ...]) -> float:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    expected = module(*sample)
    got = session.run(list(outputs), {name: x.numpy() for name, x in zip(INPUTS, sample, strict=True)})
    return max(float(np.abs(a.numpy() - b).max()) for a, b in zip(expected if isinstance(expected, tuple) else (expected,), got, strict=True))


def _sample(batch: int, length: int, vocabulary: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, vocabulary, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[-1, length - length // 4 :] = 0  # one padded row, as in served batches
    types = (torch.arange(length) > length // 3).long().expand(batch, length).contiguous()
    return ids, mask, types


def _finish(out: Path, tokenizer_from: Path, files: Sequence[str], fields: dict[str, Any]) -> ModelManifest:
    (out / "tokenizer.json").write_bytes((tokenizer_from / "tokenizer.json").read_bytes())
    digests = {name: digest_file(out / name) for name in files}
    manifest = ModelManifest(created=datetime.now(UTC).isoformat(timespec="seconds"), files=digests, code_commit=_commit(), **fields)
    write_manifest(out / MODEL_MANIFEST, manifest)
    return manifest


def _commit() -> str | None:
    """In an image, what it was built from; there is no git."""
    if built_from := os.environ.get("QUARRY_REVISION"):
        return built_from
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def main() -> None:
    """`python -m quarry_training.export reader|retriever`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["reader", "retriever"])
    parser.add_argument("--model", type=Path, help="trained model folder; for the retriever also any encoder, default the packaged one")
    parser.add_argument("--base", default="quarry-base", help="what it was trained from, for the manifest")
    parser.add_argument("--calibration", type=Path, help="the folder calibrate wrote (reader)")
    parser.add_argument("--report", type=Path, help="the dataset check's report.json (reader)")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.kind == "retriever":
        try:
            manifest = export_retriever(args.model or PACKAGED, args.out, args.base)
        except (BaseError, ExportError) as error:
            sys.exit(f"retriever not exported: {error}")
    else:
        model = AutoModelForQuestionAnswering.from_pretrained(str(args.model), local_files_only=True)
        calibration = Calibration.from_dict(json.loads((args.calibration / "calibration.json").read_text()))
        figures = json.loads((args.calibration / "calibration-figures.json").read_text())
        data_digest = json.loads(args.report.read_text())["digest"]
        manifest = export_reader(model, args.model, args.out, args.base, calibration, figures, data_digest)
    print(json.dumps({"digest": manifest.digest, **manifest.metrics}))


if __name__ == "__main__":
    main()
