"""What was trained is what is exported: tied, separate, DPR's own classes, and encoders without token types."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from quarry_contract.manifests import MODEL_MANIFEST, ModelManifest, read_manifest, verify_files
from transformers import DistilBertConfig, DistilBertModel, RobertaConfig, RobertaModel

from quarry_training import encoders, export, retrieval
from quarry_training.fit_retriever import RetrieverSettings, fit

from .coded import dpr_examples

TEXTS = ["anna built the wall in dover", "ben", "cara built the bridge in leeds on monday ."]


def onnx_vectors(artefact: Path, name: str, tokenizer: encoders.Tokenizer) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(artefact / name))
    assert {i.name for i in session.get_inputs()} == set(export.INPUTS)
    inputs = {name: x.numpy() for name, x in encoders.tensors(tokenizer, TEXTS).items()}
    [vectors] = session.run(["sentence_embedding"], inputs)
    return np.asarray(vectors)


def test_separate_dpr_encoders_are_exported_side_by_side(tiny_dpr: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUARRY_REVISION", "c0ffee")  # as in an image, where there is no git
    fit(",".join(map(str, tiny_dpr)), dpr_examples(), tmp_path / "model", RetrieverSettings(1e-3, 9, 1))
    manifest = export.export_retriever(tmp_path / "model", tmp_path / "artefact", "unused")
    dual = retrieval.trained(tmp_path / "model")
    for name, encoder in (("question.onnx", dual.question), ("passage.onnx", dual.passage)):
        assert onnx_vectors(tmp_path / "artefact", name, dual.tokenizer) == pytest.approx(encoders.encode(encoder, dual.tokenizer, TEXTS), abs=1e-4)
    assert (manifest.question_encoder, manifest.passage_encoder, manifest.dimension) == ("question.onnx", "passage.onnx", 32)
    assert set(manifest.files) == {"question.onnx", "passage.onnx", "tokenizer.json"}
    assert (manifest.base, manifest.code_commit) == (",".join(map(str, tiny_dpr)), "c0ffee")
    assert manifest.data_digest == json.loads((tmp_path / "model" / "fit.json").read_text())["data_digest"]
    assert read_manifest(tmp_path / "artefact" / MODEL_MANIFEST, ModelManifest) == manifest
    verify_files(tmp_path / "artefact", manifest.files)


@pytest.mark.parametrize("kind", ["roberta", "distilbert"])
def test_encoders_without_token_types_are_exported_too(tiny_encoder: Path, tmp_path: Path, kind: str) -> None:
    size = json.loads((tiny_encoder / "config.json").read_text())["vocab_size"]
    torch.manual_seed(5)
    if kind == "roberta":
        model: torch.nn.Module = RobertaModel(
            RobertaConfig(vocab_size=size, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, max_position_embeddings=66)
        )
    else:
        model = DistilBertModel(DistilBertConfig(vocab_size=size, dim=32, n_layers=1, n_heads=2, hidden_dim=64, max_position_embeddings=64))
    model.save_pretrained(str(tmp_path / "base"))
    (tmp_path / "base" / "tokenizer.json").write_bytes((tiny_encoder / "tokenizer.json").read_bytes())
    fit(str(tmp_path / "base"), dpr_examples(), tmp_path / "model", RetrieverSettings(1e-3, 9, 1))
    manifest = export.export_retriever(tmp_path / "model", tmp_path / "artefact", "unused")
    dual = retrieval.trained(tmp_path / "model")
    vectors = encoders.encode(dual.passage, dual.tokenizer, TEXTS)
    assert onnx_vectors(tmp_path / "artefact", "encoder.onnx", dual.tokenizer) == pytest.approx(vectors, abs=1e-4)
    assert (manifest.dimension, manifest.max_tokens) == (32, 64)


def test_one_wrong_graph_and_neither_is_left(tiny_dpr: tuple[Path, Path], tmp_path: Path) -> None:
    class Fickle(encoders.DprEncoder):
        """Computes something else while it is exported."""

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor) -> torch.Tensor:
            vectors = super().forward(input_ids, attention_mask, token_type_ids)
            return vectors + 1 if torch.compiler.is_exporting() else vectors

    good, other = (encoders.load_encoder(folder) for folder in tiny_dpr)
    with pytest.raises(export.ExportError, match="differ by"):
        export._export_all({"question.onnx": good, "passage.onnx": Fickle(other.model)}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_without_an_encoder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["export", "retriever", "--model", str(tmp_path / "nothing"), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=r"retriever not exported: .*not an encoder"):
        export.main()
    assert not (tmp_path / "out").exists()
