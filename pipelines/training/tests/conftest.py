"""Tiny but real models: a BERT of two layers with random weights and a WordPiece tokenizer over the test's own words."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import BertWordPieceTokenizer
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    DPRConfig,
    DPRContextEncoder,
    DPRQuestionEncoder,
)

from quarry_training.squad import Example

WORDS = "who what where when laid built the bridge wall in on at by anna ben cara dover leeds york monday tuesday friday stone was then . ,".split()

SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings")


def vocabulary() -> list[str]:
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *letters, *[f"##{x}" for x in letters]]


def _write(folder: Path, model: torch.nn.Module) -> Path:
    model.save_pretrained(str(folder))
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(vocabulary())))
    BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=True).save(str(folder / "tokenizer.json"))
    return folder


def _config() -> BertConfig:
    size = len(dict.fromkeys(vocabulary()))
    return BertConfig(vocab_size=size, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_position_embeddings=128)


@pytest.fixture(scope="session")
def tiny_reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    return _write(tmp_path_factory.mktemp("tiny-reader"), BertForQuestionAnswering(_config()))


@pytest.fixture(scope="session")
def tiny_reader_without_dropout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    config = _config()
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    return _write(tmp_path_factory.mktemp("tiny-reader-without-dropout"), BertForQuestionAnswering(config))


@pytest.fixture(scope="session")
def tiny_distilbert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    size = len(dict.fromkeys(vocabulary()))
    config = DistilBertConfig(vocab_size=size, dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=128)
    return _write(tmp_path_factory.mktemp("tiny-distilbert"), DistilBertModel(config))


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(2)
    return _write(tmp_path_factory.mktemp("tiny-encoder"), BertModel(_config()))


@pytest.fixture(scope="session")
def tiny_dpr(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Question and context encoder, in the layout of the Hub's facebook/dpr-* models."""
    torch.manual_seed(4)
    config = DPRConfig(**{name: getattr(_config(), name) for name in SIZES})
    made = (DPRQuestionEncoder(config), DPRContextEncoder(config))
    return _write(tmp_path_factory.mktemp("tiny-dpr-q"), made[0]), _write(tmp_path_factory.mktemp("tiny-dpr-p"), made[1])


def facts(n: int) -> list[Example]:
    """Questions a two-layer model can learn: who, where or when; every fourth is unanswerable."""
    people, places, days, things = ["anna", "ben", "cara"], ["dover", "leeds", "york"], ["monday", "tuesday", "friday"], ["bridge", "wall"]
    made = []
    for i in range(n):
        who, where, when, thing = people[i % 3], places[i // 3 % 3], days[i // 9 % 3], things[i // 27 % 2]
        context = f"{who} built the {thing} in {where} on {when} ."
        kind, answer = (("who", who), ("where", where), ("when", when))[i % 3]
        other = things[1 - i // 27 % 2]
        impossible = i % 4 == 3
        answers = () if impossible else ((answer, context.index(answer)),)
        made.append(Example(str(i), f"d{i % 10}", f"{kind} built the {other if impossible else thing}", context, answers))
    return made


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server on SQLite and a folder."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    stores = ["--backend-store-uri", f"sqlite:///{folder}/m.db", "--artifacts-destination", str(folder / "artefacts")]
    command = [sys.executable, "-m", "mlflow", "server", *stores, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait(f"http://127.0.0.1:{port}/health", process, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def _wait(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + 180
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.3)
    raise AssertionError(f"MLflow did not start:\n{log.read_text()[-2000:]}")
