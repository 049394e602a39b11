"""The contract's golden files, as this project reads them."""

import json
from importlib.resources import files

import pytest
from quarry_contract.codec import Message
from quarry_contract.manifests import ReleaseManifest
from quarry_contract.messages import AnswerRequest, AnswerResponse, Job, SearchQuery, SearchRequest

GOLDEN = files("quarry_contract") / "golden"


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("answer_request", AnswerRequest),
        ("answer_response", AnswerResponse),
        ("abstention", AnswerResponse),
        ("search_query", SearchQuery),
        ("search_request", SearchRequest),
        ("job", Job),
        ("release_manifest", ReleaseManifest),
    ],
)
def test_golden_messages_are_understood_and_written_alike(name: str, cls: type[Message]) -> None:
    golden = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    assert cls.from_dict(golden).to_dict() == golden
