"""A retriever whose question and passage encoders have weights of their own (docs/adr/0003): each side uses its own."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from quarry_contract.manifests import ManifestError, ModelManifest, digest_file, read_manifest, write_manifest
from quarry_contract.messages import SearchRequest
from quarry_runtime.encode import Encoder

from quarry_retriever.core import Retriever, RetrieverSettings

from .making import DOCUMENTS, make_index, make_model


def make_separate(folder: Path) -> Path:
    """question.onnx and passage.onnx of two seeds."""
    make_model(folder, seed=1)
    (folder / "encoder.onnx").rename(folder / "passage.onnx")
    make_model(folder, seed=2)
    (folder / "encoder.onnx").rename(folder / "question.onnx")
    files = {name: digest_file(folder / name) for name in ("question.onnx", "passage.onnx", "tokenizer.json")}
    made = read_manifest(folder / "model.json", ModelManifest)
    write_manifest(folder / "model.json", replace(made, files=files, question_encoder="question.onnx", passage_encoder="passage.onnx"))
    return folder


def test_questions_and_passages_go_through_their_own_encoder(tmp_path: Path) -> None:
    model, index = make_separate(tmp_path / "model"), tmp_path / "index"
    make_index(index, model, DOCUMENTS)
    retriever = Retriever.load(RetrieverSettings(model, index), CollectorRegistry())
    try:
        found = asyncio.run(retriever.search(SearchRequest("wind speed of the crane", top_k=3, retrieval="dense"), time.monotonic() + 60))
    finally:
        retriever.close()
    question = Encoder.load(model, "question").encode(["wind speed of the crane"])[0]
    passages = Encoder.load(model, "passage").encode([p.passage.text for p in found.passages])
    assert [p.score for p in found.passages] == pytest.approx((passages @ question).tolist(), abs=1e-5)
    assert np.abs(Encoder.load(model, "passage").encode(["wind speed of the crane"])[0] - question).max() > 0.1


def test_an_index_made_by_the_question_encoder_is_refused(tmp_path: Path) -> None:
    model, index = make_separate(tmp_path / "model"), tmp_path / "index"
    swapped = read_manifest(model / "model.json", ModelManifest)
    write_manifest(model / "model.json", replace(swapped, passage_encoder="question.onnx"))
    make_index(index, model, DOCUMENTS)
    write_manifest(model / "model.json", swapped)
    with pytest.raises(ManifestError, match="canary"):
        Retriever.load(RetrieverSettings(model, index), CollectorRegistry())
