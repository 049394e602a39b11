"""The figures of a reader or a retriever, each a function of sums over questions, so that resampling one costs a matrix product.

Expected calibration error: Guo et al. 2017. Risk and coverage: El-Yaniv and Wiener 2010. Exact binomial intervals: Clopper and Pearson 1934.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import betaincinv  # the quantiles of the beta distribution; scipy.stats has them too, and is slow to import

from .results import Array, Table

BINS = 10
RECALL_AT = (1, 5, 20)


@dataclass(frozen=True)
class Metric:
    """`columns`: a table's (questions, k) summands; `value`: their sums (..., k) -> (...), NaN where it is not defined.

    `biased`: few questions make it look worse than it is, as absolute gaps do not cancel out.
    """

    name: str
    needs: tuple[str, ...]
    higher_is_better: bool
    columns: Callable[[Table], Array]
    value: Callable[[Array], Array]
    biased: bool = False

    def of(self, values: Table) -> float:
        """The figure over all questions of the table; NaN where it is not defined."""
        return float(self.value(self.columns(values).sum(0)))


def _share(sums: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums[..., 0] / sums[..., 1])


def _percent(sums: Array) -> Array:
    return 100 * _share(sums)


def _ratio(
    name: str, of: Callable[[Table], Array], among: Callable[[Table], Array], needs: tuple[str, ...], percent: bool = False, higher: bool = True
) -> Metric:
    """The mean of `of` among the questions flagged by `among`."""

    def columns(values: Table) -> Array:
        flags = among(values)
        return np.stack([np.where(flags > 0, of(values), 0.0), flags], axis=1)

    return Metric(name, needs, higher, columns, _percent if percent else _share)


def bins_of(confidence: Array) -> Array:
    """The bin of each confidence, BINS of equal width."""
    return np.asarray(np.minimum((confidence * BINS).astype(int), BINS - 1))


def _gaps(values: Table) -> Array:
    """Confidence minus right, in the column of the question's bin; the last column counts."""
    columns = np.zeros((len(values["confidence"]), BINS + 1))
    columns[np.arange(len(columns)), bins_of(values["confidence"])] = values["confidence"] - values["right"]
    columns[:, BINS] = 1
    return columns


def _ece(sums: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return np.asarray(np.abs(sums[..., :BINS]).sum(-1) / sums[..., BINS])


def _everyone(values: Table) -> Array:
    return np.ones(len(values["answerable"]))


def _answerable(values: Table) -> Array:
    return values["answerable"]


def _unanswerable(values: Table) -> Array:
    return 1 - values["answerable"]


def _abstained(values: Table) -> Array:
    return 1 - values["answered"]


_SAID = ("confidence", "right", "answered")
_LIST = (
    _ratio("exact_match", lambda t: t["exact_match"], _everyone, ("exact_match",), percent=True),
    _ratio("f1", lambda t: t["f1"], _everyone, ("f1",), percent=True),
    _ratio("answerable_exact_match", lambda t: t["span_exact_match"], _answerable, ("span_exact_match",), percent=True),
    _ratio("answerable_f1", lambda t: t["span_f1"], _answerable, ("span_f1",), percent=True),
    Metric("ece", _SAID, False, _gaps, _ece, biased=True),
    _ratio("wrong_among_answered", lambda t: 1 - t["right"], lambda t: t["answered"], _SAID, higher=False),
    _ratio("coverage", lambda t: t["answered"], _everyone, _SAID),
    _ratio("answered_of_answerable", lambda t: t["answered"], _answerable, _SAID),
    _ratio("abstention_precision", _unanswerable, _abstained, _SAID),
    _ratio("abstention_recall", _abstained, _unanswerable, _SAID),
    _ratio("mrr", lambda t: t["reciprocal_rank"], _answerable, ("reciprocal_rank",)),
    *(_ratio(f"recall_at_{k}", lambda t, k=k: t["reciprocal_rank"] >= 1 / k, _answerable, ("reciprocal_rank",)) for k in RECALL_AT),  # type: ignore[misc]
)
METRICS = {metric.name: metric for metric in _LIST}


def measured(values: Table) -> dict[str, float]:
    """Every metric that the table's columns allow and that is defined on it."""
    found = {m.name: m.of(values) for m in _LIST if all(need in values for need in m.needs)}
    return {name: value for name, value in found.items() if not np.isnan(value)}


def clopper_pearson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """The exact two-sided interval of a binomial share; (0, 1) without trials."""
    tail = (1 - level) / 2
    low = float(betaincinv(successes, trials - successes + 1, tail)) if successes else 0.0
    high = float(betaincinv(successes + 1, trials - successes, 1 - tail)) if successes < trials else 1.0
    return low, high


def risk_coverage(confidence: Array, right: Array) -> tuple[Array, Array]:
    """(share answered, share wrong among them) as the threshold sinks, surest questions first; each (questions,)."""
    order = np.argsort(-confidence, kind="stable")
    count = np.arange(1, len(order) + 1)
    return count / len(order), 1 - np.cumsum(right[order]) / count


def reliability(confidence: Array, right: Array) -> tuple[Array, Array, Array]:
    """(mean confidence, share right, questions) of each bin that holds any."""
    found = bins_of(confidence)
    used = np.unique(found)
    sure, share = (np.array([x[found == b].mean() for b in used]) for x in (confidence, right))
    return sure, share, np.array([(found == b).sum() for b in used])
