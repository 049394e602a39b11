"""Training as the pipeline starts it: killed, on two processes, and on what is not there."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from quarry_training import fit, squad

from . import processes
from .conftest import facts

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
# A shift of all logits, or of all keys, changes nothing: their gradients are rounding noise, which Adam scales up.
WITHOUT_EFFECT = ("qa_outputs.bias", "key.bias")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(str(folder / "model.safetensors"))


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str | None:
    """What the command ends with: None, or the message of its failure."""
    torch.set_num_threads(1)
    monkeypatch.setattr(sys, "argv", ["fit", *arguments])
    try:
        fit.main()
    except SystemExit as error:
        return str(error)
    return None


def test_a_killed_run_resumes_to_the_same_weights(tiny_reader: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data.json"
    squad.dump(facts(108), data)
    options = ["--base", str(tiny_reader), "--data", str(data), "--epochs", "18", "--learning-rate", "1e-3"]
    options += ["--held-out", str(data), "--patience", "99", "--evaluate-every", "90"]
    assert run(monkeypatch, *options, "--out", str(tmp_path / "whole")) is None
    killed = tmp_path / "killed"
    command = [*options, "--out", str(killed)]
    processes.kill_once_there(processes.start("fit", command, tmp_path / "log"), killed / "checkpoint.safetensors")
    assert not (killed / "model.safetensors").exists()
    assert processes.finish(processes.start("fit", command, tmp_path / "log")) == 0, (tmp_path / "log").read_text()
    assert "200/" in (tmp_path / "log").read_text(), "it goes on after the checkpoint's last step"
    assert (killed / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert (killed / "losses.json").read_text() == (tmp_path / "whole" / "losses.json").read_text()
    reports = [json.loads((tmp_path / name / "fit.json").read_text()) for name in ("killed", "whole")]
    assert reports[0]["held_out_f1"] == reports[1]["held_out_f1"]
    assert len(reports[0]["held_out_f1"]) > 3
    assert not [p.name for p in killed.iterdir() if p.name.startswith("checkpoint")]


@pytest.fixture(scope="module")
def side_by_side(tiny_reader_without_dropout: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """Options of a run whose batches have one window or more, and a folder."""
    folder = tmp_path_factory.mktemp("torchrun")
    squad.dump(facts(25), folder / "data.json")
    options = ["--base", str(tiny_reader_without_dropout), "--data", str(folder / "data.json"), "--negatives", "0", "--learning-rate", "1e-3"]
    return options, folder


def torchrun(options: list[str]) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "quarry_training.fit", *options]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=900)


def test_two_processes_do_what_one_does(side_by_side: tuple[list[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    options, folder = side_by_side
    options = [*options, "--epochs", "12", "--held-out", str(folder / "data.json"), "--patience", "99", "--evaluate-every", "10"]
    done = torchrun([*options, "--out", str(folder / "two")])
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1, "one process reports"
    assert run(monkeypatch, *options, "--out", str(folder / "one")) is None
    one, two = (json.loads((folder / name / "fit.json").read_text()) for name in ("one", "two"))
    assert (one["processes"], two["processes"]) == (1, 2)
    assert two["figures"]["steps"] == one["figures"]["steps"] == 38
    losses = [json.loads((folder / name / "losses.json").read_text()) for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], abs=2e-4)
    start = load_file(str(Path(options[1]) / "model.safetensors"))
    alone, together = weights(folder / "one"), weights(folder / "two")
    telling = [name for name in alone if not name.endswith(WITHOUT_EFFECT)]
    moved = max(float((alone[name] - start[name]).abs().max()) for name in telling)
    apart = max(float((alone[name] - together[name]).abs().max()) for name in telling)
    assert apart < 0.02 * moved


def test_two_processes_end_together_when_time_is_up(side_by_side: tuple[list[str], Path]) -> None:
    """Started with what torchrun tells its processes; torchrun itself is above."""
    options, folder = side_by_side
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1]), "WORLD_SIZE": "2"}
    options = [*options, "--epochs", "4000", "--max-seconds", "4", "--out", str(folder / "timed")]
    logs = [folder / f"log-{rank}" for rank in range(2)]
    started = [processes.start("fit", options, log, {**meeting, "RANK": str(rank)}) for rank, log in enumerate(logs)]
    assert [processes.finish(x) for x in started] == [0, 0], [log.read_text() for log in logs]
    assert (folder / "timed" / "model.safetensors").exists()
    assert json.loads((folder / "timed" / "fit.json").read_text())["figures"]["steps"] < 12_500


def test_an_unknown_hub_id_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    squad.dump(facts(8), tmp_path / "data.json")
    said = run(monkeypatch, "--base", "nobody/no-such-model", "--data", str(tmp_path / "data.json"), "--out", str(tmp_path / "out"))
    assert said is not None and said.startswith("not trained: nobody/no-such-model is no folder here")
    assert len(said.splitlines()) == 1


def test_bad_input_is_a_clear_error(tiny_reader: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, out, pickled = tmp_path / "data.json", tmp_path / "out", tmp_path / "pickled"
    squad.dump(facts(8), data)
    pickled.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (pickled / name).write_bytes((tiny_reader / name).read_bytes())
    torch.save({}, pickled / "pytorch_model.bin")
    base = ["--base", str(tiny_reader), "--out", str(out)]
    assert "No such file" in (run(monkeypatch, *base, "--data", str(tmp_path / "no.json")) or "")
    assert "may run code and is never loaded" in (run(monkeypatch, "--base", str(pickled), "--out", str(out), "--data", str(data)) or "")
    assert "neither a folder nor" in (run(monkeypatch, "--base", "a/b/c", "--out", str(out), "--data", str(data)) or "")
    for name, content, reason in (
        ("config.json", '{"model_type": "vit", "max_position_embeddings": 128}', "not an encoder"),
        ("config.json", '{"model_type": "bert"}', "config.json has no 'max_position_embeddings'"),
        ("model.safetensors", "truncated", "is not what its name says"),
        ("tokenizer.json", "{}", "its tokenizer.json cannot be read"),
    ):
        damaged = shutil.copytree(tiny_reader, tmp_path / "damaged", dirs_exist_ok=True)
        (damaged / name).write_text(content)
        said = run(monkeypatch, "--base", str(damaged), "--out", str(out), "--data", str(data))
        assert said is not None and reason in said and len(said.splitlines()) == 1
    assert "needs held-out questions" in (run(monkeypatch, *base, "--data", str(data), "--patience", "2") or "")
    squad.dump(facts(24)[3::4], data)
    assert "no question has an answer" in (run(monkeypatch, *base, "--data", str(data)) or "")
    assert not (out / "model.safetensors").exists()
