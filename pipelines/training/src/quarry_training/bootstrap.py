"""Bootstrap intervals (Efron 1979) over questions, or over documents where there are enough: questions on one document fail together.

Both models of a pair get the same resamples, so that what is hard for both cancels out (Koehn 2004).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .metrics import Metric
from .results import Array, Row, Table, table

RESAMPLES = 2000
LEVEL = 0.95
SEED = 17
MIN_DOCUMENTS = 20  # a cluster bootstrap over fewer gives intervals that are too narrow (Cameron, Gelbach and Miller 2008)
_AT_ONCE = 200


@dataclass(frozen=True)
class Paired:
    """Challenger and champion on the same questions; `low` and `high` bound the difference challenger - champion."""

    challenger: float
    champion: float
    low: float
    high: float
    questions: int

    @property
    def difference(self) -> float:
        return self.challenger - self.champion


def clusters(rows: Sequence[Row]) -> Array:
    """The resampling unit of each row, (rows,) int: its document if there are MIN_DOCUMENTS, else itself."""
    documents = {name: i for i, name in enumerate(dict.fromkeys(row.document for row in rows))}
    if len(documents) < MIN_DOCUMENTS:
        return np.arange(len(rows))
    return np.array([documents[row.document] for row in rows])


def resampled_sums(columns: Array, units: Array, resamples: int = RESAMPLES, seed: int = SEED) -> Array:
    """(resamples, k): the sums of (questions, k) `columns` over units drawn with replacement."""
    count = int(units.max()) + 1
    sums = np.zeros((count, columns.shape[1]))
    np.add.at(sums, units, columns)
    rng = np.random.default_rng(seed)
    parts = []
    for first in range(0, resamples, _AT_ONCE):
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=min(_AT_ONCE, resamples - first))
        parts.append(drawn @ sums)
    return np.concatenate(parts)


def interval(metric: Metric, values: Table, units: Array) -> tuple[float, float]:
    """The percentile interval of a metric; resamples on which it is not defined do not count.

    Of a biased metric, the basic interval: resamples are as much too high over the figure as the figure is over the truth.
    """
    low, high = _percentiles(metric.value(resampled_sums(metric.columns(values), units)))
    if not metric.biased:
        return low, high
    figure = metric.of(values)
    return max(0.0, min(figure, 2 * figure - high)), max(figure, 2 * figure - low)


def paired(metric: Metric, challenger: Sequence[Row], champion: Sequence[Row]) -> Paired | None:
    """Compare two models on the same questions in the same order; None where the metric is not defined for either."""
    ours, theirs = (metric.columns(table(rows)) for rows in (challenger, champion))
    both = [float(metric.value(columns.sum(0))) for columns in (ours, theirs)]
    if np.isnan(both).any():
        return None
    k = ours.shape[1]
    sums = resampled_sums(np.concatenate([ours, theirs], axis=1), clusters(challenger))
    return Paired(both[0], both[1], *_percentiles(metric.value(sums[:, :k]) - metric.value(sums[:, k:])), len(challenger))


def _percentiles(found: Array) -> tuple[float, float]:
    low, high = np.nanquantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
