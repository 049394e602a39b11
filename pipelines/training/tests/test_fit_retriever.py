"""The dual encoder learns by the paper's loss, repeats itself, survives being killed, and refuses what it cannot train on."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from quarry_training import checkpoint, dpr_data, encoders, fit_retriever, retrieval
from quarry_training.base import BaseError
from quarry_training.fit import FitError
from quarry_training.fit_retriever import RetrieverSettings, fit
from quarry_training.passages import passage
from quarry_training.retrieval import Batch, make_batch, nll
from quarry_training.squad import DatasetError

from . import processes
from .coded import dpr_examples

torch.set_num_threads(1)
SETTINGS = RetrieverSettings(learning_rate=3e-3, batch_size=9, epochs=40)


def found_first(dual: retrieval.DualEncoder) -> float:
    """The share of questions whose own passage scores highest."""
    examples = dpr_examples()
    passages = encoders.encode(dual.passage, dual.tokenizer, [e.positives[0].text for e in examples])
    scores = encoders.encode(dual.question, dual.tokenizer, [e.question for e in examples]) @ passages.T
    return float((scores.argmax(1) == np.arange(len(examples))).mean())


def run(monkeypatch: pytest.MonkeyPatch, *options: object) -> None:
    monkeypatch.setattr(sys, "argv", ["fit_retriever", *map(str, options)])
    fit_retriever.main()


def test_the_loss_is_the_negative_log_likelihood_of_the_positive() -> None:
    scores = torch.tensor([[2.0, 1.0, 0.0], [0.5, 3.0, 1.5]])
    batch = Batch(["p", "q"], ["x", "y", "z"], [0, 2], [[], []])
    expected = -(np.log(np.exp(2) / np.exp([2, 1, 0]).sum()) + np.log(np.exp(1.5) / np.exp([0.5, 3, 1.5]).sum())) / 2
    assert nll(scores, batch).item() == pytest.approx(expected, abs=1e-6)
    without_y = -(np.log(np.exp(2) / np.exp([2, 1, 0]).sum()) + np.log(np.exp(1.5) / np.exp([0.5, 1.5]).sum())) / 2
    assert nll(scores, replace(batch, excluded=[[], [1]])).item() == pytest.approx(without_y, abs=1e-6)


def test_passages_of_a_batch_count_once_and_a_positive_is_never_a_negative() -> None:
    one, two, three = (passage("", text) for text in ("anna", "ben", "cara"))
    copy = replace(one, passage_id="another name, the same text")
    base = dpr_examples()[0]
    examples = [
        replace(base, question="first", positives=(one,), hard_negatives=(two,)),
        replace(base, question="same positive", positives=(copy,), hard_negatives=()),
        replace(base, question="two positives", positives=(two, two), hard_negatives=(three,)),
        replace(base, question="also answered by ben", positives=(three,), hard_negatives=()),
        replace(base, question="either", positives=(one, two, three), hard_negatives=()),
    ]
    batch = make_batch(examples, np.random.default_rng(0))
    assert batch.passages == ["anna", "ben", "cara"]
    assert batch.targets[:4] == [0, 0, 1, 2]
    assert batch.excluded[:4] == [[], [], [], []]
    assert sorted([batch.targets[4], *batch.excluded[4]]) == [0, 1, 2]


def test_a_title_stands_before_the_text_as_in_ingestion() -> None:
    assert retrieval.passage_text(passage("Crane", "It stops.")) == "Crane. It stops."
    assert retrieval.passage_text(passage("", "It stops.")) == "It stops."


@pytest.mark.parametrize("separate", [False, True])
def test_it_learns_what_the_pairs_teach(tiny_encoder: Path, tmp_path: Path, separate: bool) -> None:
    assert found_first(retrieval.load_dual(str(tiny_encoder), separate, tmp_path)) < 0.3
    figures = fit(str(tiny_encoder), dpr_examples(), tmp_path / "out", replace(SETTINGS, separate=separate))
    dual = retrieval.trained(tmp_path / "out")
    assert found_first(dual) > 0.9
    assert dual.tied is not separate
    record = json.loads((tmp_path / "out" / "fit.json").read_text())
    assert record["data_digest"] == dpr_data.digest(dpr_examples())
    assert len(record["losses"]) == figures["steps"] == 120
    assert not (tmp_path / "out" / checkpoint.NAME).exists()


def test_word_embeddings_stay_and_the_rest_moves_apart(tiny_encoder: Path, tmp_path: Path) -> None:
    fit(str(tiny_encoder), dpr_examples(), tmp_path, RetrieverSettings(1e-3, 9, 1, separate=True))
    before, question, answer = (load_file(str(f / "model.safetensors")) for f in (tiny_encoder, tmp_path / "question", tmp_path / "passage"))
    layers = [n for n in question if "layer.0" in n and "query.weight" in n]
    assert layers
    for name in question:
        if "word_embeddings" in name:
            assert torch.equal(before[name], question[name])
    for name in layers:
        assert not torch.equal(before[name], question[name])
        assert not torch.equal(question[name], answer[name])


def test_dpr_classes_are_read_by_their_configuration(tiny_dpr: tuple[Path, Path], tmp_path: Path) -> None:
    dual = retrieval.load_dual(",".join(map(str, tiny_dpr)), False, tmp_path)
    assert [type(x.model).__name__ for x in (dual.question, dual.passage)] == ["DPRQuestionEncoder", "DPRContextEncoder"]
    for encoder, folder in zip((dual.question, dual.passage), tiny_dpr, strict=True):
        stored = load_file(str(folder / "model.safetensors"))
        assert all(torch.equal(stored[name], weight) for name, weight in encoder.model.state_dict().items() if name in stored)
        inputs = encoders.tensors(dual.tokenizer, ["anna built the wall", "ben"])
        hidden = encoder.model.base_model.bert_model(**inputs).last_hidden_state
        assert torch.allclose(encoder(**inputs), hidden[:, 0], atol=1e-6)  # the first token's, not normalised
    fit(",".join(map(str, tiny_dpr)), dpr_examples(), tmp_path / "out", RetrieverSettings(1e-3, 9, 1))
    after = retrieval.trained(tmp_path / "out")
    assert [type(x.model).__name__ for x in (after.question, after.passage)] == ["DPRQuestionEncoder", "DPRContextEncoder"]


def test_bases_that_do_not_fit_are_refused(tiny_encoder: Path, tiny_dpr: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(BaseError, match="different dimension or pooling"):
        retrieval.load_dual(f"{tiny_dpr[0]},{tiny_encoder}", False, tmp_path)
    with pytest.raises(BaseError, match="different tokenizers"):
        retrieval.load_dual(f"{tiny_encoder},minilm", False, tmp_path)
    with pytest.raises(BaseError, match="one base, or two"):
        retrieval.load_dual("a,b,c", False, tmp_path)
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (pickled / name).write_bytes((tiny_encoder / name).read_bytes())
    (pickled / "pytorch_model.bin").write_bytes(b"anything")
    with pytest.raises(BaseError, match="may run code and is never loaded"):
        retrieval.load_dual(str(pickled), False, tmp_path)


def test_a_killed_run_resumes_to_the_same_weights(tiny_encoder: Path, tmp_path: Path) -> None:
    dpr_data.dump(dpr_examples(), tmp_path / "dpr.json")
    settings = RetrieverSettings(1e-3, 9, 24, separate=True, seed=3)
    fit(str(tiny_encoder), dpr_data.load(tmp_path / "dpr.json"), tmp_path / "whole", settings)
    log = tmp_path / "log"
    options = ["--base", tiny_encoder, "--data", tmp_path / "dpr.json", "--out", tmp_path / "killed"]
    options += ["--separate", "--epochs", 24, "--learning-rate", "1e-3", "--batch-size", 9, "--seed", 3]
    processes.kill_once_there(processes.start("fit_retriever", options, log), tmp_path / "killed" / checkpoint.NAME)
    assert not (tmp_path / "killed" / "fit.json").exists()
    assert processes.finish(processes.start("fit_retriever", options, log)) == 0, log.read_text()
    assert re.search(r" [246]0/72 \[00:00<\?", log.read_text()), "it goes on after a checkpoint's last step"
    assert json.loads(processes.printed(log))["steps"] == 72
    for side in retrieval.SIDES:
        whole, resumed = (load_file(str(tmp_path / name / side / "model.safetensors")) for name in ("whole", "killed"))
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_checkpoint_of_another_run_is_not_gone_on_from(tiny_encoder: Path, tmp_path: Path) -> None:
    settings = RetrieverSettings(1e-3, 9, 1)
    other = retrieval.load_dual(str(tiny_encoder), False, tmp_path)
    optimizer = torch.optim.AdamW([p for p in other.parameters() if p.requires_grad])
    checkpoint.write(tmp_path / "b", other, optimizer, {"run": "another", "losses": [9.0], "seconds": 1.0}, {})
    for name in ("a", "b"):
        fit(str(tiny_encoder), dpr_examples(), tmp_path / name, settings)
    fresh, after = (load_file(str(tmp_path / name / "model.safetensors")) for name in ("a", "b"))
    assert all(torch.equal(fresh[name], after[name]) for name in fresh)


def test_a_complete_run_is_not_run_again_and_another_replaces_it(tiny_encoder: Path, tmp_path: Path) -> None:
    settings = RetrieverSettings(1e-3, 9, 1, separate=True)
    first = fit(str(tiny_encoder), dpr_examples(), tmp_path, settings)
    assert fit(str(tiny_encoder), dpr_examples(), tmp_path, settings) == first  # its seconds too
    assert not retrieval.trained(tmp_path).tied
    fit(str(tiny_encoder), dpr_examples(), tmp_path, replace(settings, separate=False))
    assert retrieval.trained(tmp_path).tied


def test_a_time_limit_stretches_the_schedule_over_what_fits(tiny_encoder: Path, tmp_path: Path) -> None:
    figures = fit(str(tiny_encoder), dpr_examples(), tmp_path, RetrieverSettings(1e-3, 9, 10_000, max_seconds=0.5))
    assert 0 < figures["steps"] < 30_000
    assert (tmp_path / "fit.json").exists()
    with pytest.raises(FitError, match="no time for a single step"):
        fit(str(tiny_encoder), dpr_examples(), tmp_path / "none", RetrieverSettings(1e-3, 9, 1, max_seconds=1e-9))


def test_a_loss_that_explodes_is_named(tiny_dpr: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(FitError, match="lower --learning-rate"):
        fit(",".join(map(str, tiny_dpr)), dpr_examples(), tmp_path, RetrieverSettings(1e38, 9, 40))
    assert not (tmp_path / "fit.json").exists()


def test_what_cannot_be_trained_on_is_refused_before_anything_is_written(tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = dpr_examples()[0]
    sets = {
        "none": ([replace(e, positives=()) for e in dpr_examples()], "none of 27 questions has a positive passage"),
        "one": ([one], "the same one positive passage"),
        "same": ([one, replace(one, question="again")], "the same one positive passage"),
    }
    for name, (examples, says) in sets.items():
        dpr_data.dump(examples, tmp_path / f"{name}.json")
        with pytest.raises(SystemExit, match=says):
            run(monkeypatch, "--base", tiny_encoder, "--data", tmp_path / f"{name}.json", "--out", tmp_path / "out")
    dpr_data.dump(dpr_examples(), tmp_path / "good.json")
    (tmp_path / "broken.json").write_text("{")
    wrong = {
        ("--data", tmp_path / "broken.json"): "not a DPR file",
        ("--data", tmp_path / "missing.json"): "missing.json",
        ("--batch-size", 1): "batch size must be 2 or more",
        ("--base", "not a model id"): "neither a folder nor a Hugging Face id",
    }
    for option, says in wrong.items():
        with pytest.raises(SystemExit, match=says):
            run(monkeypatch, "--base", tiny_encoder, "--data", tmp_path / "good.json", "--out", tmp_path / "out", *option)
    assert not (tmp_path / "out").exists()
    with pytest.raises(DatasetError):
        fit_retriever.trainable([])
