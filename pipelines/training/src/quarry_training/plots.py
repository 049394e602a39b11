"""Reliability and risk-coverage diagrams, and the differences of two models, as PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from .metrics import BINS, bins_of, clopper_pearson, reliability, risk_coverage
from .results import Array

COLOURS = ("#1f4e79", "#c55a11")  # challenger, champion: told apart without seeing colour by marker and dash too
MARKERS, DASHES = ("o", "s"), ("-", "--")
# name -> (confidence, right), each (questions,)
Said = Mapping[str, tuple[Array, Array]]


def reliability_diagram(said: Said, out: Path) -> None:
    """Share right against confidence, with the exact interval of each bin; under it how many questions each bin holds."""
    figure, (axes, counts) = pyplot.subplots(2, figsize=(5.5, 6.5), sharex=True, height_ratios=(4, 1), layout="constrained")
    axes.plot([0, 1], [0, 1], ":", color="grey", label="as sure as right")
    for i, (name, (confidence, right)) in enumerate(said.items()):
        sure, share, questions = reliability(confidence, right)
        bounds = [clopper_pearson(round(s * n), int(n)) for s, n in zip(share, questions, strict=True)]
        errors = [[s - low for s, (low, _) in zip(share, bounds, strict=True)], [high - s for s, (_, high) in zip(share, bounds, strict=True)]]
        style = {"color": COLOURS[i], "marker": MARKERS[i], "linestyle": DASHES[i]}
        axes.errorbar(sure, share, errors, capsize=3, elinewidth=1, alpha=0.9, label=name, **style)
        counts.bar((bins_of(sure) + 0.4 + 0.25 * i) / BINS, questions, width=0.25 / BINS, color=COLOURS[i])
    axes.set(ylabel="share right (95 % interval)", xlim=(0, 1), ylim=(0, 1), title="Reliability")
    axes.legend(loc="lower right")
    counts.set(xlabel="confidence", ylabel="questions")
    _save(figure, out)


def risk_coverage_diagram(said: Said, out: Path, points: Sequence[tuple[float, float]] = ()) -> None:
    """Share wrong among the answered against the share answered; `points` are each model's (answered, wrong) at its threshold."""
    figure, axes = pyplot.subplots(figsize=(5.5, 4.5), layout="constrained")
    for i, (name, (confidence, right)) in enumerate(said.items()):
        axes.plot(*risk_coverage(confidence, right), DASHES[i], color=COLOURS[i], label=name)
    for i, (answered, wrong) in enumerate(points):
        axes.plot(answered, wrong, MARKERS[i], color=COLOURS[i], markersize=8)
    axes.set(xlabel="share answered", ylabel="share wrong among answered", xlim=(0, 1), ylim=(0, None), title="Risk and coverage")
    axes.legend(loc="upper left", title="mark: at the threshold" if points else None)
    _save(figure, out)


def differences_diagram(rows: Sequence[tuple[str, float, float, float, float, bool]], out: Path) -> None:
    """One line a check: (label, difference, low, high, most regression allowed, refused), differences towards better and in points."""
    figure, axes = pyplot.subplots(figsize=(8, 1.2 + 0.34 * len(rows)), layout="constrained")
    for y, (_, difference, low, high, allowed, refused) in enumerate(rows):
        colour = COLOURS[1] if refused else COLOURS[0]
        axes.plot([low, high], [y, y], color=colour, linewidth=2)
        axes.plot(difference, y, "X" if refused else "o", color=colour, markersize=8)
        axes.plot([-allowed, -allowed], [y - 0.35, y + 0.35], color="grey", linewidth=1.5)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [label for label, *_ in rows])
    axes.invert_yaxis()
    axes.set(xlabel="challenger better than champion by, points (95 % interval)\ngrey: most regression allowed; cross: refused", title="Differences")
    _save(figure, out)


def _save(figure: Any, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    pyplot.close(figure)
