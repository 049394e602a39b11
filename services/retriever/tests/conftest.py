"""A small real model and a small real index, once per run."""

from pathlib import Path

import pytest

from .following import encoder, make  # noqa: F401 - fixtures of several modules
from .making import DOCUMENTS, make_index, make_model


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A retriever artefact folder."""
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def index_dir(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Path:
    """An index generation of DOCUMENTS."""
    return make_index(tmp_path_factory.mktemp("index"), model_dir, DOCUMENTS)
