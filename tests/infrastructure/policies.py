"""Decides, as IAM does, whether policy documents allow a call: explicit deny, else an allow that fits, else no.

After "Policy evaluation logic" of the IAM user guide; condition operators are those that terraform/ uses, any other is an error.
"""

import json
from fnmatch import fnmatchcase
from typing import Any

Document = dict[str, Any]


def documents(texts: list[str]) -> list[Document]:
    """Parsed policy documents."""
    return [json.loads(text) for text in texts]


def statements(policies: list[Document]) -> list[Document]:
    """Their statements."""
    return [s for policy in policies for s in listed(policy["Statement"])]


def listed(value: Any) -> list[Any]:
    """IAM writes a list of one as the one."""
    return value if isinstance(value, list) else [value]


def allowed(policies: list[Document], action: str, resource: str = "*", **context: str) -> bool:
    """Whether a call goes through; `context` are condition keys, with _ for `:` (s3_prefix)."""
    fitting = [s["Effect"] for s in statements(policies) if _fits(s, action, resource, context)]
    return "Allow" in fitting and "Deny" not in fitting


def _fits(statement: Document, action: str, resource: str, context: dict[str, str]) -> bool:
    acts = any(fnmatchcase(action.lower(), pattern.lower()) for pattern in listed(statement["Action"]))
    meant = any(fnmatchcase(resource, pattern) for pattern in listed(statement.get("Resource", "*")))
    return acts and meant and _holds(statement.get("Condition", {}), context)


def _holds(conditions: dict[str, dict[str, Any]], context: dict[str, str]) -> bool:
    for operator, wanted in conditions.items():
        for key, values in wanted.items():
            given = context.get(key.replace(":", "_").replace("-", "_").replace("/", "_").replace(".", "_"))
            if given is None or not any(_equal(operator, given, str(value)) for value in listed(values)):
                return False
    return True


def _equal(operator: str, given: str, value: str) -> bool:
    if operator in ("StringEquals", "ArnEquals"):
        return given == value
    if operator in ("StringLike", "ArnLike"):
        return fnmatchcase(given, value)
    if operator == "Bool":
        return given.lower() == value.lower()
    raise AssertionError(f"unknown condition operator {operator}")
