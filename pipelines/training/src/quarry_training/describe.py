"""What a registered artefact says about itself: README.md for people, MLmodel with the signature and input_example.json for MLflow.

MLmodel names no flavor, so that MLflow shows the signature and can load nothing.
"""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec
from quarry_contract.manifests import ModelManifest
from tokenizers import Tokenizer

from .formats import DESCRIPTION, artefact_digest

QUESTION = "At what wind speed does lifting stop?"
PASSAGE = "Lifting stops at a mean wind speed of 14 m/s."
EXAMPLE = DESCRIPTION[2]
TASKS = {
    "reader": "Span reader: for a question and a passage, the logits of the answer's first and last token; position 0 stands for no answer.",
    "retriever": "Dual encoder: texts to unit vectors, whose dot product is their similarity.",
    "generator": "LoRA adapter of a language model that answers a question from passages, or says that they hold no answer.",
}
MEANINGS = {
    "model.onnx": "the network, for ONNX Runtime",
    "encoder.onnx": "the network, for questions and passages alike",
    "question.onnx": "the network for questions",
    "passage.onnx": "the network for passages",
    "tokenizer.json": "text to token ids, for the `tokenizers` package",
    "adapter_model.safetensors": "the adapter's weights",
    "adapter_config.json": "the adapter's shape, for the `peft` package",
    "generator.json": "the base model's digest, the prompt and the settings of the training",
}


def describe(artefact: Path, manifest: ModelManifest, out: Path) -> list[Path]:
    """Write the three files to `out`; they depend on nothing but the artefact."""
    signature, example = _interface(artefact, manifest)
    saved = {"artifact_path": EXAMPLE, "type": "json_object"}
    created = datetime.fromisoformat(manifest.created).replace(tzinfo=None).isoformat(sep=" ")
    model = Model(utc_time_created=created, signature=signature, saved_input_example_info=saved, model_uuid=artefact_digest(manifest)[:32], flavors={})
    contents = {DESCRIPTION[0]: readme(manifest), DESCRIPTION[1]: model.to_yaml(), EXAMPLE: json.dumps(example)}
    for name, text in contents.items():
        (out / name).write_text(text, encoding="utf-8")
    return [out / name for name in contents]


def readme(manifest: ModelManifest) -> str:
    """The artefact in words."""
    files = "\n".join(f"- `{name}`: {MEANINGS.get(name, 'read by the network or its tokenizer')}; {f.bytes} bytes" for name, f in manifest.files.items())
    metrics = "\n".join(f"- {name}: {value:.4g}" for name, value in sorted(manifest.metrics.items())) or "- none recorded"
    confidence = ""
    if c := manifest.calibration:
        weighed = f"{c.slope:.4g} x margin + {c.score:.4g} x score + {c.lead:.4g} x lead + {c.bias:.4g}"
        confidence = f"- confidence = sigmoid({weighed}); under {c.threshold:.4g} the reader abstains\n"
    return (
        f"# {manifest.name}\n\n{TASKS[manifest.kind]}\n\n## Files\n\n{files}\n"
        "- `model.json`: the manifest: digests of the files above, limits, calibration; written last, so that its presence means a whole artefact\n"
        f"- `MLmodel`, `{EXAMPLE}`: signature and example of the network's input\n\n## Origin\n\n"
        f"- trained from: {manifest.base}\n- made: {manifest.created}\n- data digest: {manifest.data_digest or 'none'}\n"
        f"- code commit: {manifest.code_commit or 'unknown'}\n- window: {manifest.max_tokens} tokens\n"
        f"{confidence}\n## Measured when it was made\n\n{metrics}\n"
    )


def _interface(artefact: Path, manifest: ModelManifest) -> tuple[ModelSignature, dict[str, Any]]:
    if manifest.kind == "generator":
        inputs = Schema([ColSpec(DataType.string, "question"), ColSpec(DataType.string, "passage")])
        return ModelSignature(inputs, Schema([ColSpec(DataType.string, "answer")])), {"question": [QUESTION], "passage": [PASSAGE]}
    graph = onnx.load_model(str(artefact / (manifest.passage_encoder or "model.onnx")), load_external_data=False).graph
    signature = ModelSignature(Schema([_tensor(x) for x in graph.input]), Schema([_tensor(x) for x in graph.output]))
    tokenizer = Tokenizer.from_file(str(artefact / "tokenizer.json"))
    tokenizer.no_padding()
    encoded = tokenizer.encode(QUESTION, PASSAGE) if manifest.kind == "reader" else tokenizer.encode(PASSAGE)
    rows = {"input_ids": encoded.ids, "attention_mask": encoded.attention_mask, "token_type_ids": encoded.type_ids}
    return signature, {x.name: [rows[x.name]] for x in graph.input}


def _tensor(value: onnx.ValueInfoProto) -> TensorSpec:
    shape = [d.dim_value or -1 for d in value.type.tensor_type.shape.dim]
    return TensorSpec(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)), shape, value.name)
