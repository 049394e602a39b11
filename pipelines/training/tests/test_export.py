import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from quarry_contract.manifests import MODEL_MANIFEST, Calibration, ManifestError, ModelManifest, read_manifest, verify_files
from transformers import AutoModelForQuestionAnswering, BertConfig
from transformers.modeling_outputs import QuestionAnsweringModelOutput

from quarry_training import base, export
from quarry_training.features import load_tokenizer
from quarry_training.predict import onnx_logits, predict, torch_logits

from .conftest import facts


def reader(folder: Path) -> torch.nn.Module:
    model: torch.nn.Module = AutoModelForQuestionAnswering.from_pretrained(str(folder))
    return model


def test_the_exported_reader_says_what_the_trained_one_says(trained_reader: Path, artefacts: Path) -> None:
    manifest = read_manifest(artefacts / "reader" / MODEL_MANIFEST, ModelManifest)
    tokenizer = load_tokenizer(trained_reader)
    examples = facts(30)
    ours = predict(onnx_logits(artefacts / "reader" / "model.onnx"), tokenizer, examples)
    theirs = predict(torch_logits(reader(trained_reader)), tokenizer, examples)
    assert [p.text for p in ours] == [p.text for p in theirs]
    assert [p.null_score for p in ours] == pytest.approx([p.null_score for p in theirs], abs=1e-3)
    assert manifest.metrics["export_max_difference"] <= export.PARITY_TOLERANCE
    assert (manifest.metrics["ece"], manifest.calibration, manifest.data_digest) == (0.1, Calibration(0.5, 0.0, 0.4), "a" * 64)
    assert manifest.max_tokens == 128
    verify_files(artefacts / "reader", manifest.files)


def test_the_encoder_pools_over_real_tokens_and_normalises(artefacts: Path) -> None:
    manifest = read_manifest(artefacts / "retriever" / MODEL_MANIFEST, ModelManifest)
    session = onnxruntime.InferenceSession(str(artefacts / "retriever" / "encoder.onnx"))
    ids = np.array([[2, 7, 8, 3]])

    def encode(padding: int) -> np.ndarray:
        mask = np.pad(np.ones_like(ids), ((0, 0), (0, padding)))
        padded = np.pad(ids, ((0, 0), (0, padding)))
        [vector] = session.run(None, {"input_ids": padded, "attention_mask": mask, "token_type_ids": np.zeros_like(padded)})
        return np.asarray(vector[0])

    assert np.linalg.norm(encode(0)) == pytest.approx(1, abs=1e-5)
    assert np.abs(encode(0) - encode(9)).max() < 1e-5
    assert (manifest.dimension, manifest.question_encoder, manifest.passage_encoder) == (32, "encoder.onnx", "encoder.onnx")


class Shallow(torch.nn.Module):
    """A reader without layers between embedding and head."""

    config = BertConfig(vocab_size=99, max_position_embeddings=128)

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = torch.nn.Embedding(99, 8), torch.nn.Linear(8, 2)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> QuestionAnsweringModelOutput:
        start, end = self.head(self.embedding(input_ids) * attention_mask.unsqueeze(-1)).unbind(-1)
        return QuestionAnsweringModelOutput(start_logits=start, end_logits=end)


def test_an_export_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    class Fickle(export.SpanReader):
        """Computes something else while it is exported."""

        def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            start, end = super().forward(ids, mask, types)
            return (start + 1 if torch.compiler.is_exporting() else start), end

    with pytest.raises(export.ExportError, match="differ by"):
        export._export(Fickle(Shallow()), tmp_path / "model.onnx", ("start_logits", "end_logits"))
    assert not (tmp_path / "model.onnx").exists()


def test_a_changed_file_no_longer_fits_its_manifest(artefacts: Path, tmp_path: Path) -> None:
    shutil.copytree(artefacts / "retriever", tmp_path, dirs_exist_ok=True)
    manifest = read_manifest(tmp_path / MODEL_MANIFEST, ModelManifest)
    verify_files(tmp_path, manifest.files)
    content = bytearray((tmp_path / "encoder.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "encoder.onnx").write_bytes(content)
    with pytest.raises(ManifestError, match=r"encoder\.onnx does not have the digest"):
        verify_files(tmp_path, manifest.files)


def test_the_base_reader_survives_packing(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = reader(base.PACKAGED)
    base.pack_base_reader(model, tmp_path / "packed")
    assert (tmp_path / "packed" / base.WEIGHTS).stat().st_size < 25_000_000
    unpacked = reader(base.unpack_base_reader(tmp_path / "full", tmp_path / "packed"))
    for name, weight in model.state_dict().items():
        assert torch.allclose(unpacked.state_dict()[name], weight, rtol=1e-3, atol=1e-6), name


def test_pickled_weights_are_never_loaded(tiny_reader: Path, tmp_path: Path) -> None:
    """A model folder whose weights are a pickle with a payload: refused, and the payload does not run."""
    canary = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (canary,))  # type: ignore[return-value]

    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_bytes((tiny_reader / name).read_bytes())
    torch.save({"payload": Payload()}, folder / "pytorch_model.bin")
    from quarry_training.fit import load_model

    with pytest.raises(Exception, match=r"(?i)safetensors|weights"):
        load_model(base.resolve_base(str(folder), tmp_path))
    assert not canary.exists()


def test_manifest_explains_itself(artefacts: Path) -> None:
    written = json.loads((artefacts / "retriever" / MODEL_MANIFEST).read_text())
    assert written["base"] == "tiny"
    assert set(written["files"]) == {"encoder.onnx", "tokenizer.json"}
