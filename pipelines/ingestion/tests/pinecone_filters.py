"""Of the Pinecone stand-in: metadata filters (docs.pinecone.io/guides/search/filter-by-metadata) and what is refused."""

from collections.abc import Callable
from typing import Any

MAX_LISTED = 10_000
Body = dict[str, Any]


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers


def compiled(filter_: Body) -> Callable[[Body], bool]:
    """A metadata filter as a function of a record's metadata."""
    tests = [_condition(key, value) for key, value in filter_.items()]
    if not tests:
        raise Refused(400, "a filter must have at least one condition")
    return lambda metadata: all(test(metadata) for test in tests)


def _condition(key: str, value: Any) -> Callable[[Body], bool]:
    if key in ("$and", "$or"):
        parts, every = [compiled(part) for part in value], all if key == "$and" else any
        return lambda metadata: every(part(metadata) for part in parts)
    if key.startswith("$"):
        raise Refused(400, f"unknown operator {key}")
    tests = [_operator(op, operand) for op, operand in (value if isinstance(value, dict) else {"$eq": value}).items()]
    return lambda metadata: all(test(metadata.get(key)) for test in tests)


def _same(a: Any, b: Any) -> bool:
    return isinstance(a, bool) == isinstance(b, bool) and a == b


def _operator(op: str, operand: Any) -> Callable[[Any], bool]:
    """A list of strings matches where one of its strings does; what is not there is unequal to everything."""

    def among(found: Any, wanted: list[Any]) -> bool:
        return any(_same(f, w) for f in (found if isinstance(found, list) else [found]) for w in wanted if found is not None)

    if op in ("$in", "$nin"):
        if not isinstance(operand, list) or not 1 <= len(operand) <= MAX_LISTED:
            raise Refused(400, f"{op} takes 1 to {MAX_LISTED} values")
        return lambda found: among(found, operand) == (op == "$in")
    if op in ("$eq", "$ne"):
        return lambda found: among(found, [operand]) == (op == "$eq")
    if op == "$exists":
        return lambda found: (found is not None) == operand
    ordered = {"$gt": float.__gt__, "$gte": float.__ge__, "$lt": float.__lt__, "$lte": float.__le__}.get(op)
    if ordered is None:
        raise Refused(400, f"unknown operator {op}")
    return lambda found: isinstance(found, int | float) and not isinstance(found, bool) and ordered(float(found), float(operand))
