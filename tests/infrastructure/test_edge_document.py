"""The edge's API is the gateway's own OpenAPI document, generated anew here and compared."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from quarry_contract.errors import ErrorCode
from quarry_gateway import apigateway, changes, openapi, routes

from runner import SOURCE

GENERATED = SOURCE / "modules/edge/api.json"
OPERATIONS = ("get", "put", "post", "delete")


@pytest.fixture(scope="module")
def api() -> dict[str, Any]:
    return dict(json.loads(GENERATED.read_text()))


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    return openapi.document("Quarry", [*routes.router.routes, *changes.router.routes, *routes.open_router.routes])


def test_it_is_what_the_gateway_describes(api: dict[str, Any]) -> None:
    assert api == apigateway.body(), "the gateway's OpenAPI document has changed: make edge"


def test_every_operation_is_there_and_no_other(api: dict[str, Any], described: dict[str, Any]) -> None:
    def operations(paths: dict[str, Any]) -> set[tuple[str, str]]:
        return {(method, path.replace("+}", "}")) for path, methods in paths.items() for method in methods if method in OPERATIONS}

    assert operations(api["paths"]) == operations(described["paths"])
    assert not {"/metrics", "/docs", "/"} & set(api["paths"])


def test_a_documents_id_may_have_slashes(api: dict[str, Any]) -> None:
    assert "/v1/documents/{document_id+}" in api["paths"] and "/v1/jobs/{job_id}" in api["paths"]
    got = api["paths"]["/v1/documents/{document_id+}"]["get"]["x-amazon-apigateway-integration"]
    assert got["uri"].endswith("/v1/documents/{document_id}")
    assert got["requestParameters"]["integration.request.path.document_id"] == "method.request.path.document_id"


def test_only_what_api_gateway_knows_of_schemas(api: dict[str, Any]) -> None:
    """No null, nothing of JSON schema's later drafts, and each reference leads somewhere."""
    text = json.dumps(api["components"])
    assert not re.search(r'"(type": "null"|const|examples|default|title|nullable|exclusiveMinimum|prefixItems)"', text)
    for name in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(api)):
        assert name in api["components"]["schemas"]


def test_the_edge_refuses_what_the_gateway_would(api: dict[str, Any]) -> None:
    asked = api["components"]["schemas"]["AnswerRequest"]
    assert asked["required"] == ["question"] and asked["additionalProperties"] is False
    assert asked["properties"]["min_confidence"] == {}  # may be null: the gateway checks it


def test_refusals_speak_quarrys_errors(api: dict[str, Any]) -> None:
    assert "REQUEST_TOO_LARGE" not in api["x-amazon-apigateway-gateway-responses"]  # API Gateway answers that one in its own words, whatever is defined
    for name, refusal in api["x-amazon-apigateway-gateway-responses"].items():
        problem = json.loads(refusal["responseTemplates"]["application/json"])
        code = next(c for c in ErrorCode if c.code == problem["code"])
        assert (refusal["statusCode"], problem["status"], problem["request_id"]) == (code.status, code.status, "$context.requestId"), name
    assert json.loads(api["x-amazon-apigateway-gateway-responses"]["INVALID_API_KEY"]["responseTemplates"]["application/json"])["code"] == "unauthorised"


def test_documents_pass_as_bytes(api: dict[str, Any]) -> None:
    assert api["x-amazon-apigateway-binary-media-types"] == ["application/octet-stream"]


def test_firewall_and_gateway_agree_on_the_largest_body() -> None:
    settings = (Path(routes.__file__).parent / "settings.py").read_text()
    (limit,) = re.findall(r"max_body_bytes: int = ([0-9_]+)", settings)
    (size,) = re.findall(r"size +=\s(\d+)", (SOURCE / "modules/edge/firewall.tf").read_text())
    assert int(limit.replace("_", "")) == int(size)
