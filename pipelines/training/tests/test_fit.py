"""Training really learns, repeats itself, and stops when it should."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForQuestionAnswering

from quarry_training import checkpoint
from quarry_training.features import load_tokenizer
from quarry_training.fit import FitError, FitSettings, fit, load_model
from quarry_training.mining import mined
from quarry_training.predict import predict, torch_logits
from quarry_training.squad import DatasetError
from quarry_training.stopping import held_out_f1

from .conftest import facts


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(str(folder / "model.safetensors"))


def test_it_learns_what_the_questions_teach(trained_reader: Path) -> None:
    model = AutoModelForQuestionAnswering.from_pretrained(str(trained_reader))
    said = predict(torch_logits(model), load_tokenizer(trained_reader), [e for e in facts(108) if e.answers])
    right = sum(p.text == p.example.answers[0][0] for p in said)
    assert right / len(said) > 0.9
    losses = json.loads((trained_reader / "losses.json").read_text())
    assert losses[-1] < 0.5 * losses[0]
    assert not (trained_reader / "checkpoint.safetensors").exists()
    figures = json.loads((trained_reader / "fit.json").read_text())["figures"]
    assert 1.0 <= figures["padded_to_real_tokens"] < 1.1


def test_word_embeddings_stay_and_everything_else_moves(tiny_reader: Path, tmp_path: Path) -> None:
    fit(tiny_reader, facts(24), tmp_path, FitSettings(epochs=1, batch_size=8, threads=1))
    before, after = weights(tiny_reader), weights(tmp_path)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert not any("word_embeddings" in name for name in moved)
    assert any("layer.0" in name for name in moved)


def test_the_same_seed_gives_the_same_weights(tiny_reader: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        fit(tiny_reader, facts(24), tmp_path / name, FitSettings(epochs=2, batch_size=8, threads=1))
    assert all(torch.equal(x, weights(tmp_path / "b")[name]) for name, x in weights(tmp_path / "a").items())


def test_a_base_without_head_or_segments_is_trained_and_read(tiny_distilbert: Path, tmp_path: Path) -> None:
    examples = facts(54)
    fit(tiny_distilbert, examples, tmp_path, FitSettings(learning_rate=3e-3, batch_size=8, epochs=40, threads=1))
    losses = json.loads((tmp_path / "losses.json").read_text())
    assert sum(losses[-9:]) < 0.6 * sum(losses[:9])
    assert held_out_f1(load_model(tmp_path), load_tokenizer(tmp_path), examples) > 30


def test_adapters_change_layers_by_their_rank_and_the_result_is_an_ordinary_model(tiny_reader: Path, tmp_path: Path) -> None:
    examples = facts(54)
    fit(tiny_reader, examples, tmp_path, FitSettings(learning_rate=1e-2, batch_size=8, epochs=40, threads=1, lora_rank=4))
    before, after = weights(tiny_reader), weights(tmp_path)
    assert before.keys() == after.keys()
    change = {name: after[name] - before[name] for name in before}
    layers = [name for name in before if name.startswith("bert.encoder") and before[name].dim() == 2]
    assert len(layers) == 12
    assert all(1 <= torch.linalg.matrix_rank(change[name], rtol=1e-3) <= 4 for name in layers)
    assert change["qa_outputs.weight"].any()
    assert not any(change[name].any() for name in before if "embeddings" in name or "LayerNorm" in name)
    assert held_out_f1(load_model(tmp_path), load_tokenizer(tmp_path), examples) > 60


def test_early_stopping_keeps_the_best_weights(tiny_reader: Path, tmp_path: Path) -> None:
    settings = FitSettings(learning_rate=3e-3, batch_size=8, epochs=200, threads=1, patience=3, evaluate_every=30)
    figures = fit(tiny_reader, facts(54), tmp_path, settings, facts(108)[54:])
    history = json.loads((tmp_path / "fit.json").read_text())["held_out_f1"]
    scores = [f1 for _, f1 in history]
    assert figures["steps"] == 30 * len(scores) < 200 * 54 / 8
    assert len(scores) - 1 - scores.index(max(scores)) == 3
    assert held_out_f1(load_model(tmp_path), load_tokenizer(tmp_path), facts(108)[54:]) == max(scores) == figures["best_held_out_f1"]


def test_mined_questions_stand_on_others_contexts_under_their_headings() -> None:
    examples = [replace(e, heading=f"heading of {e.context}") for e in facts(54)]
    made = mined(examples, 0.5, seed=1)
    assert len(made) > 5
    for e in made:
        assert not e.answers and e.heading == f"heading of {e.context}"
        [source] = [x for x in examples if e.id == f"{x.id}-negative"]
        assert source.answers[0][0] not in e.context and e.context != source.context


def test_a_checkpoint_brings_back_weights_moments_and_state(tiny_reader: Path, tmp_path: Path) -> None:
    model = load_model(tiny_reader)
    optimizer = torch.optim.AdamW(checkpoint.trained(model).values(), fused=True)
    model(input_ids=torch.ones(2, 5, dtype=torch.long), start_positions=torch.tensor([1, 2]), end_positions=torch.tensor([1, 3])).loss.backward()
    optimizer.step()
    best = {"x": torch.arange(3.0)}
    checkpoint.write(tmp_path, model, optimizer, {"run": "a", "losses": [0.1 + 0.2]}, best)
    fresh = load_model(tiny_reader)
    again = torch.optim.AdamW(checkpoint.trained(fresh).values(), fused=True)
    assert checkpoint.read(tmp_path, "b", fresh, again) is None, "another run's checkpoint is left alone"
    found = checkpoint.read(tmp_path, "a", fresh, again)
    assert found is not None
    assert found[0] == {"run": "a", "losses": [0.1 + 0.2]}
    assert torch.equal(found[1]["x"], best["x"])
    assert all(torch.equal(x, fresh.state_dict()[name]) for name, x in model.state_dict().items())
    for a, b in zip(optimizer.state_dict()["state"].values(), again.state_dict()["state"].values(), strict=True):
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    (tmp_path / checkpoint.NAME).write_bytes((tmp_path / checkpoint.NAME).read_bytes()[:999])
    assert checkpoint.read(tmp_path, "a", fresh, again) is None, "a damaged one too"


def test_what_cannot_be_trained_is_refused(tiny_reader: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no question has an answer"):
        fit(tiny_reader, facts(24)[3::4], tmp_path, FitSettings())
    with pytest.raises(DatasetError, match="held-out"):
        fit(tiny_reader, facts(24), tmp_path, FitSettings(patience=1))
    with pytest.raises(FitError, match="--max-seconds"):
        fit(tiny_reader, facts(24), tmp_path, FitSettings(max_seconds=1e-9))
    with pytest.raises(FitError, match="lower --learning-rate"):
        fit(tiny_reader, facts(24), tmp_path, FitSettings(learning_rate=1e30, epochs=9, batch_size=4, threads=1))
    assert not (tmp_path / "model.safetensors").exists()
