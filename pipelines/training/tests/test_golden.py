"""The contract's golden files, as this project reads them."""

import json
from importlib.resources import files

import pytest
from quarry_contract.codec import Message
from quarry_contract.manifests import ModelManifest, ReleaseManifest

from quarry_training.predict import separators

GOLDEN = files("quarry_contract") / "golden"


@pytest.mark.parametrize(("name", "cls"), [("model_manifest", ModelManifest), ("generator_manifest", ModelManifest), ("release_manifest", ReleaseManifest)])
def test_golden_messages_are_understood_and_written_alike(name: str, cls: type[Message]) -> None:
    golden = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    assert cls.from_dict(golden).to_dict() == golden


def test_separators_are_where_the_contract_says() -> None:
    for case in json.loads((GOLDEN / "separators.json").read_text(encoding="utf-8")):
        assert separators(case["text"]) == case["separators"], case
