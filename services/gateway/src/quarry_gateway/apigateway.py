"""The gateway's OpenAPI document as AWS API Gateway takes it: `python -m quarry_gateway.apigateway`.

A REST API imports OpenAPI 3.0 with its own extensions (docs.aws.amazon.com/apigateway, "OpenAPI extensions"): each operation is passed on by a
VPC link, checked before (parameters there, body fits its schema), and open to nobody without credentials. Where and with which key it is passed on
are stage variables, and who may call is the security scheme `edge`: Terraform sets both (terraform/modules/edge).
"""

import json
import re
from typing import Any

from fastapi.routing import iter_route_contexts
from quarry_contract.errors import ErrorCode, QuarryError
from quarry_contract.messages import HEADER_REQUEST_ID

from . import changes, openapi
from .edge import HEADER_EDGE
from .routes import open_router, router

INTEGRATION_TIMEOUT_MS = 29_000  # the most API Gateway allows without asking; the gateway's own longest deadline is 25 s
VALIDATORS = {"all": {"validateRequestBody": True, "validateRequestParameters": True}}
# API Gateway's own refusals, in Quarry's words.
REFUSALS: dict[str, tuple[ErrorCode, str]] = {
    "ACCESS_DENIED": (ErrorCode.FORBIDDEN, ""),
    "API_CONFIGURATION_ERROR": (ErrorCode.INTERNAL, ""),
    "AUTHORIZER_CONFIGURATION_ERROR": (ErrorCode.INTERNAL, ""),
    "AUTHORIZER_FAILURE": (ErrorCode.INTERNAL, ""),
    "BAD_REQUEST_BODY": (ErrorCode.INVALID_REQUEST, "the body does not fit the schema at /openapi.json"),
    "BAD_REQUEST_PARAMETERS": (ErrorCode.INVALID_REQUEST, "a parameter is missing"),
    "EXPIRED_TOKEN": (ErrorCode.UNAUTHORISED, "the token has expired"),
    "INTEGRATION_FAILURE": (ErrorCode.UPSTREAM_FAILED, "the gateway cannot be reached"),
    "INTEGRATION_TIMEOUT": (ErrorCode.DEADLINE_EXCEEDED, ""),
    "INVALID_API_KEY": (ErrorCode.UNAUTHORISED, "send your key: x-api-key"),
    "MISSING_AUTHENTICATION_TOKEN": (ErrorCode.NOT_FOUND, ""),  # what API Gateway calls an unknown path or method
    "QUOTA_EXCEEDED": (ErrorCode.OVERLOADED, "the quota of this key is used up"),
    "RESOURCE_NOT_FOUND": (ErrorCode.NOT_FOUND, ""),
    "THROTTLED": (ErrorCode.OVERLOADED, "too many requests at once"),
    "UNAUTHORIZED": (ErrorCode.UNAUTHORISED, "send a token: Authorization"),
    "UNSUPPORTED_MEDIA_TYPE": (ErrorCode.UNSUPPORTED_MEDIA_TYPE, ""),
    "WAF_FILTERED": (ErrorCode.FORBIDDEN, "refused by the firewall"),
}


def body() -> dict[str, Any]:
    """The document; who may call is left to the security scheme `edge`."""
    routes = [*router.routes, *changes.router.routes, *open_router.routes]
    described = openapi.document("Quarry", routes)
    greedy = {re.sub(r":path}", "}", str(r.path)) for r in iter_route_contexts(routes) if ":path}" in str(r.path)}
    paths = {}
    for path, methods in sorted(described["paths"].items()):
        name = re.sub(r"}$", "+}", path) if path in greedy else path  # {name+} is the rest of the path, with its slashes
        paths[name] = {method: _operation(path, method, operation) for method, operation in sorted(methods.items())}
    schemas = described["components"]["schemas"]
    asked = sorted({ref for methods in paths.values() for operation in methods.values() if (ref := _asked(operation))})
    binary = {kind for methods in paths.values() for o in methods.values() for kind in o.get("requestBody", {}).get("content", {})} - {"application/json"}
    return {
        "openapi": "3.0.1",
        "info": {"title": described["info"]["title"], "version": described["info"]["version"], "description": described["info"]["description"]},
        "paths": paths,
        "components": {"schemas": {name: _model(schemas[name]) for name in asked}},
        "x-amazon-apigateway-api-key-source": "HEADER",
        "x-amazon-apigateway-binary-media-types": sorted(binary),
        "x-amazon-apigateway-gateway-responses": {name: _refusal(code, detail) for name, (code, detail) in REFUSALS.items()},
        "x-amazon-apigateway-request-validators": VALIDATORS,
    }


def _operation(path: str, method: str, described: dict[str, Any]) -> dict[str, Any]:
    parameters = [
        {"name": p["name"], "in": p["in"], "required": p["in"] == "path", "schema": {"type": p["schema"].get("type", "string")}}
        for p in described.get("parameters", [])
    ]
    passed = {f"integration.request.header.{HEADER_EDGE}": "stageVariables.edge_key"}
    passed |= {f"integration.request.path.{p['name']}": f"method.request.path.{p['name']}" for p in parameters if p["in"] == "path"}
    operation: dict[str, Any] = {
        "operationId": f"{method}{''.join(word.title() for word in re.findall('[a-z]+', path))}",
        "parameters": parameters,
        "responses": {status: {"description": r["description"]} for status, r in sorted(described["responses"].items()) if status != "422"},
        "security": [{"edge": []}],
        "x-amazon-apigateway-request-validator": "all",
        "x-amazon-apigateway-integration": {
            "type": "http_proxy",
            "httpMethod": method.upper(),
            "uri": f"http://${{stageVariables.gateway}}{path}",
            "connectionType": "VPC_LINK",
            "connectionId": "${stageVariables.vpc_link}",
            "passthroughBehavior": "when_no_match",
            "timeoutInMillis": INTEGRATION_TIMEOUT_MS,
            "requestParameters": passed,
        },
    }
    if asked := described.get("requestBody"):
        content = {kind: {"schema": media["schema"]} for kind, media in asked["content"].items()}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _asked(operation: dict[str, Any]) -> str:
    schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    return str(schema.get("$ref", "")).rpartition("/")[2]


def _model(schema: Any) -> Any:
    """What API Gateway can check of a schema. It knows no null: a value that may be null is checked by the gateway alone."""
    if isinstance(schema, list):
        return [_model(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if {"type": "null"} in schema.get("anyOf", []):
        return {}
    kept = {key: value for key, value in schema.items() if key not in ("title", "description", "default", "examples", "properties")}
    found = {key: _model(value) for key, value in kept.items()}
    if "properties" in schema:
        found["properties"] = {name: _model(part) for name, part in schema["properties"].items()}
    return found


def _refusal(code: ErrorCode, detail: str) -> dict[str, Any]:
    problem = QuarryError(code, detail).to_problem("$context.requestId")
    headers = {f"gatewayresponse.header.{HEADER_REQUEST_ID}": "context.requestId", "gatewayresponse.header.Content-Type": "'application/problem+json'"}
    if code is ErrorCode.OVERLOADED:
        headers["gatewayresponse.header.Retry-After"] = "'1'"
    return {"statusCode": code.status, "responseParameters": headers, "responseTemplates": {"application/json": json.dumps(problem)}}


if __name__ == "__main__":
    print(json.dumps(body(), indent=2, ensure_ascii=False))
