"""Base folders with pickled or missing weights are refused before anything loads them."""

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

from quarry_training.base import PACKAGED, BaseError, resolve_base


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.fixture
def base(tiny_reader: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_reader, tmp_path / "base")


def refused(base: Path, message: str) -> None:
    with pytest.raises(BaseError, match=message):
        resolve_base(str(base), base.parent / "work")


def test_whole_bases_are_taken(base: Path, tmp_path: Path) -> None:
    assert resolve_base(str(base), tmp_path) == base
    assert resolve_base("minilm", tmp_path) == PACKAGED


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "training_args.pkl"])
@pytest.mark.parametrize("alone", [True, False])
def test_pickled_weights_are_refused_and_run_nothing(name: str, alone: bool, base: Path, tmp_path: Path) -> None:
    (base / name).write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    if alone:
        (base / "model.safetensors").unlink()
    refused(base, "has no safetensors weights" if alone else "remove it")
    assert not (tmp_path / "exploded").exists()


def test_a_pickle_under_the_name_of_safetensors_is_refused(base: Path, tmp_path: Path) -> None:
    (base / "model.safetensors").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    refused(base, "not what its name says")
    assert not (tmp_path / "exploded").exists()


def test_an_index_that_points_elsewhere_is_refused(base: Path) -> None:
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../pytorch_model.bin"}}))
    refused(base, "points at weights other than")


def test_an_adapter_or_half_a_model_is_refused(base: Path) -> None:
    (base / "adapter_config.json").write_text("{}")
    refused(base, "is an adapter")
    (base / "adapter_config.json").unlink()
    (base / "tokenizer.json").unlink()
    refused(base, r"lacks tokenizer\.json")
