"""Adapters for a tiny Llama and a tiny T5 made on the spot: they learn, come back the same, and are registered like any model."""

import json
import os
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from mlflow import MlflowClient
from quarry_contract.manifests import MODEL_MANIFEST, ModelManifest, read_manifest
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from quarry_training import checkpoint, fit_generator, squad
from quarry_training.fit_generator import GeneratorSettings, fit
from quarry_training.generator import IGNORED, INSTRUCTION, NOT_FOUND, GeneratorError, answers, item, load, load_adapted, mean_loss, prompt, tensors, token_f1
from quarry_training.register import main as register_main
from quarry_training.registry import fetch
from quarry_training.squad import Example

from . import processes
from .conftest import facts

EXAMPLES = facts(72)
SETTINGS = GeneratorSettings(learning_rate=1e-2, epochs=12, lora_dropout=0.0)
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]


def _tokenizer(folder: Path, template: str) -> None:
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    texts = [INSTRUCTION, NOT_FOUND, "Passage: Question: Answer: a", *[f"{e.question} {e.context}" for e in EXAMPLES]]
    tokenizer.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=SPECIAL, show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("<s>", 1), ("</s>", 2)])
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.fixture(scope="session", params=["llama", "t5"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(3)
    if request.param == "llama":
        sizes = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128}
        LlamaForCausalLM(LlamaConfig(vocab_size=80, bos_token_id=1, eos_token_id=2, initializer_range=0.2, **sizes)).save_pretrained(str(folder))
    else:
        sizes = {"d_model": 48, "d_ff": 96, "d_kv": 12, "num_layers": 2, "num_heads": 4}
        T5ForConditionalGeneration(T5Config(vocab_size=80, pad_token_id=0, eos_token_id=2, decoder_start_token_id=0, **sizes)).save_pretrained(str(folder))
    _tokenizer(folder, "<s> $A" if request.param == "llama" else "$A </s>")
    return folder


@pytest.fixture(scope="session")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    fit(base, "tiny", EXAMPLES[:60], EXAMPLES[60:], out, SETTINGS)
    return out


def test_the_loss_falls_and_the_base_stays(base: Path, trained: Path) -> None:
    figures = json.loads((trained / "fit.json").read_text())["figures"]
    assert figures["loss"] < 0.5 * figures["loss_before"]
    assert figures["f1"] > 20  # of a random model: 0
    losses = json.loads((trained / "losses.json").read_text())
    assert len(losses) == figures["steps"] == 90
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    assert sorted(p.name for p in (trained / "artefact").iterdir()) == sorted([*fit_generator.FILES, MODEL_MANIFEST])


def test_the_adapter_comes_back_and_says_the_same(base: Path, trained: Path) -> None:
    manifest = read_manifest(trained / "artefact" / MODEL_MANIFEST, ModelManifest)
    generator = load_adapted(trained / "artefact", base)
    items = [x for e in EXAMPLES[60:] if (x := item(generator, e))]
    assert mean_loss(generator, items) == pytest.approx(manifest.metrics["loss"], rel=1e-5)
    assert token_f1(EXAMPLES[60:], answers(generator, EXAMPLES[60:])) == manifest.metrics["f1"]
    assert answers(generator, EXAMPLES[60:], batch_size=1) == answers(generator, EXAMPLES[60:], batch_size=5)


def test_an_adapter_is_not_put_on_other_weights(base: Path, trained: Path, tmp_path: Path) -> None:
    other = shutil.copytree(base, tmp_path / "other")
    model = load(other).model
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    model.save_pretrained(str(other))
    with pytest.raises(GeneratorError, match="trained on other weights"):
        load_adapted(trained / "artefact", other)


def test_the_same_seed_gives_the_same_artefact(base: Path, tmp_path: Path) -> None:
    short = GeneratorSettings(epochs=0.5)
    first, again = (fit(base, "tiny", EXAMPLES[:32], EXAMPLES[70:], tmp_path / x, short) for x in "ab")
    other = fit(base, "tiny", EXAMPLES[:32], EXAMPLES[70:], tmp_path / "b", GeneratorSettings(epochs=0.5, seed=4))
    assert first.digest == again.digest != other.digest


def test_a_killed_run_resumes_to_the_same_adapter(base: Path, tmp_path: Path) -> None:
    squad.dump(EXAMPLES, tmp_path / "data.json")
    logs = {name: tmp_path / f"{name}.log" for name in ("whole", "killed")}

    def started(name: str) -> processes.BaseProcess:
        options = ["--base", base, "--data", tmp_path / "data.json", "--epochs", 16, "--out", tmp_path / name]
        return processes.start("fit_generator", options, logs[name])

    processes.kill_once_there(started("killed"), tmp_path / "killed" / checkpoint.NAME)
    assert not (tmp_path / "killed" / "artefact").exists()
    for name, log in logs.items():
        assert processes.finish(started(name)) == 0, log.read_text()
    assert " 50/" in logs["killed"].read_text(), "it goes on after the checkpoint's last step"
    digests = {name: json.loads(processes.printed(log).splitlines()[-1])["digest"] for name, log in logs.items()}
    assert digests["killed"] == digests["whole"]
    assert (tmp_path / "killed" / "losses.json").read_bytes() == (tmp_path / "whole" / "losses.json").read_bytes()
    assert not (tmp_path / "killed" / checkpoint.NAME).exists()


def test_the_loss_is_on_the_target_alone(base: Path) -> None:
    generator = load(base)
    answered, unanswerable = item(generator, EXAMPLES[0]), item(generator, EXAMPLES[3])
    assert answered and unanswerable and not EXAMPLES[3].answers
    decode = generator.tokenizer.decode
    assert [decode(x.target) for x in (answered, unanswerable)] == [EXAMPLES[0].answers[0][0], NOT_FOUND]
    assert EXAMPLES[0].context in decode(answered.prompt).replace("<s> ", "")
    batch = tensors(generator, [answered, unanswerable])
    assert [row[row != IGNORED].tolist() for row in batch["labels"]] == [answered.target, unanswerable.target]
    assert batch["input_ids"].shape == batch["attention_mask"].shape


def test_a_long_passage_is_cut_and_its_lost_answer_not_taught(base: Path) -> None:
    generator = load(base)
    context = "then . " * 600 + "anna built the wall"
    ids, read = prompt(generator, "who built the wall", [context])
    assert len(ids) <= generator.max_tokens
    assert generator.tokenizer.decode(ids).rstrip("</s> ").endswith("Question : who built the wall Answer :")
    assert read and "anna" not in read
    assert item(generator, Example("x", "d", "who built the wall", context, (("anna", context.index("anna")),))) is None


def command(monkeypatch: pytest.MonkeyPatch, main: Any, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
    main()


def test_it_is_registered_and_fetched_like_any_model(base: Path, trained: Path, mlflow_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    mlflow.set_tracking_uri(mlflow_server)
    given = ["--artefact", trained / "artefact", "--model", trained, "--evaluation", trained / "evaluation.json", "--alias", "challenger"]
    command(monkeypatch, register_main, *given, "--out", tmp_path / "uri")
    uri, folder = fetch("models:/generator@challenger", tmp_path)
    assert uri == (tmp_path / "uri").read_text()
    run = MlflowClient().get_run(MlflowClient().get_model_version_by_alias("generator", "challenger").run_id)
    assert run.data.params["lora_rank"] == "8"
    assert run.data.metrics["eval_f1"] == read_manifest(folder / MODEL_MANIFEST, ModelManifest).metrics["f1"]
    assert [x.name for x in mlflow.models.get_model_info(uri).signature.inputs] == ["question", "passage"]
    assert answers(load_adapted(folder, base), EXAMPLES[60:]) == answers(load_adapted(trained / "artefact", base), EXAMPLES[60:])


def test_the_command_trains_and_refuses(base: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    squad.dump(facts(54), tmp_path / "data.json")
    given = ["--data", tmp_path / "data.json", "--out", tmp_path / "out", "--epochs", "0.2"]
    command(monkeypatch, fit_generator.main, "--base", base, *given)
    assert read_manifest(tmp_path / "out" / "artefact" / MODEL_MANIFEST, ModelManifest).base == base.name
    pickled = shutil.copytree(base, tmp_path / "pickled")
    (pickled / "model.safetensors").unlink()

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "exploded"),)

    (pickled / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(SystemExit, match=r"not trained: .*has no safetensors weights"):
        command(monkeypatch, fit_generator.main, "--base", pickled, *given)
    assert not (tmp_path / "exploded").exists()


def test_a_reader_is_no_generator(tiny_reader: Path) -> None:
    config = json.loads((tiny_reader / "config.json").read_text())
    assert config["model_type"] == "bert"
    with pytest.raises(GeneratorError):
        load(tiny_reader)
