"""A tiny real reader: a token's start and end logit is its weight, so right answers can be told by hand."""

from pathlib import Path

import pytest
from quarry_runtime import tiny

# Distinct weights: alpha beats beta beats gamma ...; a passage without any of them has no answer (null logit 1 + 1).
WEIGHTS = {"alpha": 9.0, "beta": 8.0, "gamma": 7.0, "delta": 6.0, **{f"word{i}": 5.0 + i / 100 for i in range(40)}}


@pytest.fixture(scope="session")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reader")
    tiny.reader(folder, WEIGHTS, ["who", "what", "the", "cafe", "is", "in"])
    return folder
