"""An evaluation's figures over all its rows and by slice."""

from collections.abc import Sequence

import numpy as np

from .bootstrap import clusters, interval
from .metrics import METRICS, measured
from .results import Row, rows_in, table

BOUNDED = ("f1", "ece", "wrong_among_answered", "mrr", "recall_at_5")  # reported with their interval


def summary(rows: Sequence[Row]) -> dict[str, float]:
    """Every metric, the main ones with their 95 % interval (`_low`, `_high`), tokens read and latency."""
    values = table(rows)
    found = measured(values)
    units = clusters(rows)
    for name in [name for name in BOUNDED if name in found]:
        found[f"{name}_low"], found[f"{name}_high"] = interval(METRICS[name], values, units)
    times = [row.milliseconds for row in rows]
    found |= {"tokens_per_question": float(np.mean([row.tokens for row in rows]))}
    found |= {"p50_ms": float(np.quantile(times, 0.5)), "p95_ms": float(np.quantile(times, 0.95))}
    return {"questions": float(len(rows)), **found}


def by_slice(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """`kind=value` -> its questions and metrics."""
    names = sorted({f"{kind}={value}" for row in rows for kind, value in row.slices.items()})
    return {name: {"questions": float(len(part)), **measured(table(part))} for name in names if (part := rows_in(rows, name))}
