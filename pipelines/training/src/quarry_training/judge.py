"""The gate's core, pure: two evaluations and a policy give a verdict."""

import math
from collections.abc import Iterator, Sequence

from .bootstrap import Paired, paired
from .metrics import METRICS
from .policy import Floor, Policy, Protected, Regression
from .results import Evaluation, Row, rows_in, table
from .verdict import Check, Finding, Status, Verdict


class GateError(Exception):
    """The two cannot be compared, or not by this policy; the message says why and what to do."""


def judge(challenger: Evaluation, champion: Evaluation | None, policy: Policy) -> Verdict:
    """Apply the policy; without a champion, its floors alone.

    Raises:
        GateError: the evaluations are not of the same kind, set and passages, or too small for this policy.
    """
    for evaluation in [challenger, *([champion] if champion else [])]:
        _fits(evaluation, policy)
    findings = [_floor(rule, challenger) for rule in policy.floors]
    if champion is not None:
        ours, theirs = _aligned(challenger, champion)
        findings += [_compare("overall", rule, None, ours, theirs) for rule in policy.overall]
        findings += [f for rule in policy.protected for f in _protected(rule, ours, theirs)]
        if policy.require_improvement:
            findings.append(_improvement(policy.require_improvement, ours, theirs))
    return Verdict(all(f.status != "refused" for f in findings), tuple(findings))


def _fits(evaluation: Evaluation, policy: Policy) -> None:
    if evaluation.kind != policy.kind:
        raise GateError(f"the policy is for a {policy.kind}, the evaluation is of a {evaluation.kind}")
    if evaluation.kind == "reader" and evaluation.passages != policy.passages:
        raise GateError(f"the policy asks over {policy.passages} passages, the evaluation was made over {evaluation.passages}: evaluate again")
    if len(evaluation.rows) < policy.min_questions:
        raise GateError(f"{len(evaluation.rows)} questions are too few to judge by: the policy takes {policy.min_questions}; give a larger set")
    asked = [floor.metric for floor in policy.floors] + [rule.metric for rule in policy.overall] + [p.rule.metric for p in policy.protected]
    columns = {name for row in evaluation.rows for name in row.values}
    for name in [*asked, *([policy.require_improvement] if policy.require_improvement else [])]:
        if not columns.issuperset(METRICS[name].needs):
            raise GateError(f"{name} is not measured on a {evaluation.kind} over {evaluation.passages} passages: take it out of the policy")


def _aligned(challenger: Evaluation, champion: Evaluation) -> tuple[list[Row], list[Row]]:
    if challenger.data_digest != champion.data_digest:
        raise GateError(
            f"challenger and champion were evaluated on different sets ({challenger.data_digest[:12]} and {champion.data_digest[:12]}): "
            "evaluate both on the same file"
        )
    theirs = {row.key: row for row in champion.rows}
    if theirs.keys() != {row.key for row in challenger.rows}:
        raise GateError("challenger and champion were not asked the same questions: evaluate both anew")
    return list(challenger.rows), [theirs[row.key] for row in challenger.rows]


def _floor(rule: Floor, challenger: Evaluation) -> Finding:
    value = challenger.summary.get(rule.metric)
    limit = rule.at_least if rule.at_least is not None else rule.at_most
    assert limit is not None
    wanted = f"at {'least' if rule.at_least is not None else 'most'} {limit:g}"
    if value is None:
        reason = f"{rule.metric} must be {wanted} and is not defined on these answers: none of the questions it counts was there, or none was answered"
        return Finding("floor", "refused", rule.metric, reason, limit, questions=len(challenger.rows))
    met = value >= limit if rule.at_least is not None else value <= limit
    bounds = [challenger.summary.get(f"{rule.metric}_{end}") for end in ("low", "high")]
    interval = (bounds[0], bounds[1]) if bounds[0] is not None and bounds[1] is not None else None
    reason = f"{rule.metric} {value:.4g}{_within(interval)}, {'as' if met else 'but'} it must be {wanted}"
    return Finding("floor", "passed" if met else "refused", rule.metric, reason, limit, None, len(challenger.rows), value, interval=interval)


def _within(interval: tuple[float, float] | None) -> str:
    return f" (95 % interval {interval[0]:.4g} to {interval[1]:.4g})" if interval else ""


def _compare(check: Check, rule: Regression, name: str | None, ours: Sequence[Row], theirs: Sequence[Row]) -> Finding:
    metric = METRICS[rule.metric]
    found = paired(metric, ours, theirs)
    where = f"{rule.metric} in slice {name}" if name else rule.metric
    if found is None:  # a slice may have nothing to measure, but a challenger may not escape by answering nothing
        nothing = name is not None and math.isnan(metric.of(table(theirs)))
        reason = f"{where} is not defined for {'the champion' if nothing else 'both models'} on these questions"
        return Finding(check, "not_judged" if nothing else "refused", rule.metric, reason, rule.max_regression, name, len(ours))
    gain, low, high = _towards_better(found, metric.higher_is_better)
    worse = gain < -rule.max_regression and high < 0
    refused = worse if rule.refuse == "when_shown_worse" else low < -rule.max_regression
    reason = f"{where} {found.champion:.4g} -> {found.challenger:.4g}, difference {found.difference:+.3g}{_within((found.low, found.high))}"
    reason += f" over {found.questions} questions; {rule.max_regression:g} worse is allowed"
    if refused:
        reason += ": it is worse" if high < 0 else ": it may be worse than that, more questions would tell"
    return _finding(check, "refused" if refused else "passed", rule.metric, reason, rule.max_regression, name, found)


def _finding(check: Check, status: Status, metric: str, reason: str, limit: float, name: str | None, found: Paired) -> Finding:
    bounds = (found.low, found.high)
    return Finding(check, status, metric, reason, limit, name, found.questions, found.challenger, found.champion, found.difference, bounds)


def _towards_better(found: Paired, higher_is_better: bool) -> tuple[float, float, float]:
    """(difference, low, high), positive where the challenger is better."""
    return (found.difference, found.low, found.high) if higher_is_better else (-found.difference, -found.high, -found.low)


def _protected(rule: Protected, ours: Sequence[Row], theirs: Sequence[Row]) -> Iterator[Finding]:
    kind = rule.slice.partition("=")[0]
    names = [rule.slice] if "=" in rule.slice else sorted({f"{kind}={row.slices[kind]}" for row in ours if kind in row.slices}) or [rule.slice]
    for name in names:
        inside = {row.key for row in rows_in(ours, name)}
        if len(inside) < rule.min_questions:
            reason = f"slice {name} has {len(inside)} questions, too few to judge: the policy takes {rule.min_questions}"
            yield Finding("slice", "not_judged", rule.rule.metric, reason, rule.rule.max_regression, name, len(inside))
            continue
        pair = ([row for row in rows if row.key in inside] for rows in (ours, theirs))
        yield _compare("slice", rule.rule, name, *pair)


def _improvement(name: str, ours: Sequence[Row], theirs: Sequence[Row]) -> Finding:
    found = paired(METRICS[name], ours, theirs)
    if found is None:
        return Finding("improvement", "refused", name, f"{name} is not defined for both models on these questions", 0.0, None, len(ours))
    _, low, _ = _towards_better(found, METRICS[name].higher_is_better)
    reason = f"{name} must improve: {found.champion:.4g} -> {found.challenger:.4g}, difference {found.difference:+.3g}{_within((found.low, found.high))}"
    return _finding("improvement", "passed" if low > 0 else "refused", name, reason, 0.0, None, found)
