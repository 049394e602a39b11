"""Tiny but real models: a BERT of two layers with random weights and a WordPiece tokenizer over the test's own words."""

from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import torch
from quarry_contract.manifests import Calibration
from tokenizers import BertWordPieceTokenizer
from transformers import (
    AutoModelForQuestionAnswering,
    BertConfig,
    BertForQuestionAnswering,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    DPRConfig,
    DPRContextEncoder,
    DPRQuestionEncoder,
)

from quarry_training import export
from quarry_training.fit import FitSettings, fit
from quarry_training.squad import Example

from . import servers

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
    config = DPRConfig(**{name: getattr(_config(), name) for name in SIZES} | {"num_hidden_layers": 1})
    made = (DPRQuestionEncoder(config), DPRContextEncoder(config))
    return _write(tmp_path_factory.mktemp("tiny-dpr-q"), made[0]), _write(tmp_path_factory.mktemp("tiny-dpr-p"), made[1])


@pytest.fixture(scope="session")
def trained_reader(tiny_reader: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `fit` wrote of training on facts(108): once for all tests that need a reader which knows something."""
    folder = tmp_path_factory.mktemp("trained-reader")
    fit(tiny_reader, facts(108), folder, FitSettings(learning_rate=3e-3, batch_size=8, epochs=60, threads=1))
    return folder


@pytest.fixture(scope="session")
def artefacts(trained_reader: Path, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the exported artefacts `reader` and `retriever`, which no test changes: an export takes the processor for seconds."""
    folder = tmp_path_factory.mktemp("artefacts")
    model = AutoModelForQuestionAnswering.from_pretrained(str(trained_reader))
    export.export_reader(model, trained_reader, folder / "reader", "tiny", Calibration(0.5, 0.0, 0.4), {"ece": 0.1}, "a" * 64)
    export.export_retriever(tiny_encoder, folder / "retriever", "tiny")
    return folder


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
    with servers.mlflow(folder, f"sqlite:///{folder}/m.db", str(folder / "artefacts")) as uri:
        yield uri


@pytest.fixture(scope="session")
def postgresql() -> Iterator[dict[str, str]]:
    """A real PostgreSQL, as the environment that libpq reads."""
    with servers.postgresql() as database:
        yield database


@pytest.fixture(scope="session")
def mlflow_server_on_postgresql(postgresql: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server on a real PostgreSQL, which it is told of as in k8s/components/mlflow, and moto's S3 over loopback."""
    folder = tmp_path_factory.mktemp("mlflow-postgresql")
    with servers.s3_bucket() as (bucket, environment), servers.mlflow(folder, "postgresql+psycopg2://", bucket, postgresql | environment) as uri:
        yield uri


@pytest.fixture(params=["mlflow_server", "mlflow_server_on_postgresql"], ids=["sqlite-folder", "postgresql-s3"])
def registry_server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same test on both kinds of store; this process's MLflow client speaks to it."""
    uri: str = request.getfixturevalue(request.param)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.set_tracking_uri(uri)
    return uri
