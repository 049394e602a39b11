"""Tiny real artefact folders for tests: ONNX graphs over looked-up token weights, so that right answers can be told by hand.

Needs the `onnx` package, which only test environments have.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from quarry_contract.manifests import MODEL_MANIFEST, Calibration, ModelManifest, digest_file, write_manifest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LETTERS = tuple("abcdefghijklmnopqrstuvwxyz0123456789")


def tokenizer(words: Sequence[str]) -> Tokenizer:
    """A BERT WordPiece tokenizer that knows these words, and all others by their letters."""
    vocabulary = dict.fromkeys([*SPECIAL, *words, *LETTERS, *(f"##{x}" for x in LETTERS), *".,?!-/'"])
    made = Tokenizer(models.WordPiece({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))  # noqa: S106
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.enable_truncation(128)  # as packaged tokenizers come: whoever loads it must undo this
    made.enable_padding(length=128)
    return made


def reader(folder: Path, weights: Mapping[str, float], words: Sequence[str] = ()) -> ModelManifest:
    """A reader whose start and end logit of a token is its weight, else 0; the null logit is 1 + 1."""
    made = tokenizer([*weights, *words])
    table = np.zeros((made.get_vocab_size(), 2), np.float32)
    for word, weight in {"[CLS]": 1.0, **weights}.items():
        table[made.token_to_id(word)] = weight
    from onnx import helper

    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["both"]),
        helper.make_node("Split", ["both"], ["s", "e"], axis=2, num_outputs=2),
        helper.make_node("Squeeze", ["s", "last"], ["start"]),
        helper.make_node("Squeeze", ["e", "last"], ["end"]),
        *_used(["start", "end"], ["start_logits", "end_logits"]),
    ]
    outputs = [("start_logits", ["batch", "length"]), ("end_logits", ["batch", "length"])]
    _save(folder / "model.onnx", nodes, {"table": table, "last": np.array([2], np.int64)}, outputs)
    return _finish(folder, made, "reader", "model.onnx", max_tokens=64, stride=16, max_question_tokens=16, calibration=Calibration(0.5, 0.0, 0.5))


def encoder(folder: Path, words: Sequence[str], dimension: int = 16, seed: int = 1) -> ModelManifest:
    """An encoder: the normalised mean of random word vectors."""
    made = tokenizer(words)
    table = np.random.default_rng(seed).normal(size=(made.get_vocab_size(), dimension)).astype(np.float32)
    table[: len(SPECIAL)] = 0.01
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["vectors"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["wide"]),
        helper.make_node("Mul", ["vectors", "wide"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "one"], ["sum"], keepdims=0),
        helper.make_node("LpNormalization", ["sum"], ["unit"], axis=1, p=2),
        *_used(["unit"], ["sentence_embedding"]),
    ]
    constants = {"table": table, "last": np.array([2], np.int64), "one": np.array([1], np.int64)}
    _save(folder / "encoder.onnx", nodes, constants, [("sentence_embedding", ["batch", dimension])])
    names = {"question_encoder": "encoder.onnx", "passage_encoder": "encoder.onnx"}
    return _finish(folder, made, "retriever", "encoder.onnx", max_tokens=128, dimension=dimension, **names)


def _used(inner: Sequence[str], outer: Sequence[str]) -> list[object]:
    """Add nothing to the outputs, by way of every input: an unused input would not be part of the graph's signature."""
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Cast", ["token_type_ids"], ["types"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["attention_mask"], ["attended"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["types", "attended"], ["all"]),
        helper.make_node("ReduceSum", ["all"], ["total"], keepdims=0),
        helper.make_node("Mul", ["total", "zero"], ["nothing"]),
    ]
    return nodes + [helper.make_node("Add", [a, "nothing"], [b]) for a, b in zip(inner, outer, strict=True)]


def _save(path: Path, nodes: Sequence[object], constants: Mapping[str, Any], outputs: Sequence[tuple[str, Sequence[str | int]]]) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "length"]) for n in ("input_ids", "attention_mask", "token_type_ids")]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name, shape in outputs]
    values = {**constants, "zero": np.array(0.0, np.float32)}
    graph = helper.make_graph(list(nodes), "tiny", inputs, results, [numpy_helper.from_array(v, n) for n, v in values.items()])
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))


def _finish(folder: Path, made: Tokenizer, kind: str, graph: str, **fields: object) -> ModelManifest:
    made.save(str(folder / "tokenizer.json"))
    digests = {name: digest_file(folder / name) for name in (graph, "tokenizer.json")}
    manifest = ModelManifest(name=kind, kind=kind, base="tiny", created="2026-01-01T00:00:00+00:00", files=digests, **fields)  # type: ignore[arg-type]
    write_manifest(folder / MODEL_MANIFEST, manifest)
    return manifest
