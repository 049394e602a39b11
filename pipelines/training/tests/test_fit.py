"""Training really learns, repeats itself, and survives being killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForQuestionAnswering

from quarry_training import squad
from quarry_training.features import load_tokenizer
from quarry_training.fit import FitSettings, fit
from quarry_training.predict import predict, torch_logits

from .conftest import facts

SETTINGS = FitSettings(learning_rate=3e-3, batch_size=8, epochs=60, threads=1)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(str(folder / "model.safetensors"))


def test_it_learns_what_the_questions_teach(tiny_reader: Path, tmp_path: Path) -> None:
    examples = facts(108)
    fit(tiny_reader, examples, tmp_path, SETTINGS)
    model = AutoModelForQuestionAnswering.from_pretrained(str(tmp_path))
    said = predict(torch_logits(model), load_tokenizer(tmp_path), [e for e in examples if e.answers])
    right = sum(p.text == p.example.answers[0][0] for p in said)
    assert right / len(said) > 0.9
    losses = json.loads((tmp_path / "losses.json").read_text())
    assert losses[-1] < 0.5 * losses[0]
    assert not (tmp_path / "checkpoint.safetensors").exists()


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


def test_a_killed_run_resumes_to_the_same_weights(tiny_reader: Path, tmp_path: Path) -> None:
    squad.dump(facts(108), tmp_path / "data.json")
    options = ["--base", str(tiny_reader), "--data", str(tmp_path / "data.json"), "--epochs", "60", "--learning-rate", "1e-3"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def command(out: str) -> list[str]:
        return [sys.executable, "-m", "quarry_training.fit", *options, "--out", str(tmp_path / out)]

    subprocess.run(command("whole"), check=True, env=environment, capture_output=True)
    process = subprocess.Popen(command("killed"), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / "killed" / "checkpoint.safetensors").exists():
        assert process.poll() is None, "the run ended before its first checkpoint"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    subprocess.run(command("killed"), check=True, env=environment, capture_output=True)
    resumed = weights(tmp_path / "killed")
    assert all(torch.equal(x, resumed[name]) for name, x in weights(tmp_path / "whole").items())
