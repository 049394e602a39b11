"""The written policy of the gate: YAML, read strictly, so that a misspelt rule is an error and not a rule that is never applied."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import yaml

from .metrics import METRICS

Rule = Literal["unless_shown_safe", "when_shown_worse"]
RULES: tuple[Rule, ...] = ("unless_shown_safe", "when_shown_worse")
POLICIES = Path(__file__).parents[2] / "policies"


class PolicyError(Exception):
    """The policy file cannot be applied; the message names the entry and what it takes."""


@dataclass(frozen=True)
class Floor:
    """An absolute bound on the challenger's own figure."""

    metric: str
    at_least: float | None = None
    at_most: float | None = None


@dataclass(frozen=True)
class Regression:
    """How much worse the challenger may be than the champion, in the metric's own unit, and when that refuses it.

    unless_shown_safe: refuse unless the whole interval of the difference is within what is allowed.
    when_shown_worse: refuse when the difference exceeds what is allowed and its whole interval is on the worse side.
    """

    metric: str
    max_regression: float
    refuse: Rule = "unless_shown_safe"


@dataclass(frozen=True)
class Protected:
    """A slice (`kind=value`, or `kind` for each of its values) that may not pay for the others' gain."""

    slice: str
    rule: Regression
    min_questions: int


@dataclass(frozen=True)
class Policy:
    """What a challenger must show. `passages` and `min_questions` say how, and on how many questions at least, it is measured."""

    kind: Literal["reader", "retriever"]
    min_questions: int
    passages: int = 1
    floors: tuple[Floor, ...] = ()
    overall: tuple[Regression, ...] = ()
    protected: tuple[Protected, ...] = ()
    require_improvement: str | None = None


def load_policy(path: Path) -> Policy:
    """Read a policy.

    Raises:
        PolicyError: it cannot be read, is not YAML, or an entry is unknown, missing or out of range.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"policy {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise PolicyError(f"policy {path.name} is not YAML: {' '.join(str(error).split())}") from error
    try:
        return _policy(content)
    except PolicyError as error:
        raise PolicyError(f"policy {path.name}: {error}") from None


def _policy(content: Any) -> Policy:
    known = {"kind", "min_questions", "passages", "floors", "overall", "protected", "require_improvement"}
    entries = _mapping(content, "the policy", known, {"kind", "min_questions"})
    if entries["kind"] not in ("reader", "retriever"):
        _refuse("kind", "must be reader or retriever")
    floors = _mapping(entries.get("floors", {}), "floors", set(METRICS))
    overall = _mapping(entries.get("overall", {}), "overall", set(METRICS))
    protected = entries.get("protected", [])
    if not isinstance(protected, list):
        _refuse("protected", "must be a list")
    improvement = entries.get("require_improvement")
    if not (floors or overall or protected or improvement):
        _refuse("the policy", "asks for nothing: give floors, overall, protected or require_improvement")
    return Policy(
        entries["kind"],
        _whole(entries["min_questions"], "min_questions"),
        _whole(entries.get("passages", 1), "passages"),
        tuple(_floor(name, entry) for name, entry in floors.items()),
        tuple(_regression(name, _mapping(entry, f"overall.{name}", _RULE, {"max_regression"}), f"overall.{name}") for name, entry in overall.items()),
        tuple(_protected(entry, f"protected[{i}]") for i, entry in enumerate(protected)),
        None if improvement is None else _metric(improvement, "require_improvement"),
    )


_RULE = {"max_regression", "refuse"}


def _floor(name: str, entry: Any) -> Floor:
    bounds = _mapping(entry, f"floors.{name}", {"at_least", "at_most"})
    if len(bounds) != 1:
        _refuse(f"floors.{name}", "takes either at_least or at_most")
    return Floor(name, **{bound: _number(value, f"floors.{name}.{bound}") for bound, value in bounds.items()})


def _regression(metric: str, entry: Mapping[str, Any], where: str) -> Regression:
    refuse = entry.get("refuse", RULES[0])
    if refuse not in RULES:
        _refuse(f"{where}.refuse", f"must be {' or '.join(RULES)}")
    allowed = _number(entry["max_regression"], f"{where}.max_regression")
    if allowed < 0:
        _refuse(f"{where}.max_regression", "must be 0 or more: it is how much worse the challenger may be")
    return Regression(metric, allowed, refuse)


def _protected(entry: Any, where: str) -> Protected:
    fields = _mapping(entry, where, {"slice", "metric", "min_questions", *_RULE}, {"slice", "metric", "max_regression", "min_questions"})
    name = fields["slice"]
    if not isinstance(name, str) or not name.strip("=") or name.count("=") > 1:
        _refuse(f"{where}.slice", "must be kind=value, or kind for each of its values")
    rule = _regression(_metric(fields["metric"], f"{where}.metric"), fields, where)
    return Protected(name, rule, _whole(fields["min_questions"], f"{where}.min_questions"))


def _mapping(content: Any, where: str, known: set[str], needed: set[str] = frozenset()) -> dict[str, Any]:  # type: ignore[assignment]
    if not isinstance(content, dict):
        _refuse(where, "must be a mapping")
    if unknown := [str(name) for name in content if name not in known]:
        _refuse(where, f"does not know {', '.join(unknown)}: it takes {', '.join(sorted(known))}")
    if missing := sorted(needed - content.keys()):
        _refuse(where, f"must say {', '.join(missing)}")
    return dict(content)


def _metric(value: Any, where: str) -> str:
    if not isinstance(value, str) or value not in METRICS:
        _refuse(where, f"must be one of {', '.join(METRICS)}")
    return value


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        _refuse(where, "must be a number")
    return float(value)


def _whole(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        _refuse(where, "must be a whole number from 1 on")
    return value


def _refuse(where: str, problem: str) -> NoReturn:
    raise PolicyError(f"{where} {problem}")
