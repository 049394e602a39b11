"""From "at most x of the answered may be wrong" to a threshold that keeps it on questions not seen.

Learn then Test (Angelopoulos et al. 2021): thresholds are tested in an order fixed before looking at what is right, the surest first, each with
an exact binomial bound (Clopper and Pearson 1934); the last that passes is taken. Each test has an equal part of DELTA, and one that passes
hands its part on to the next (the fallback procedure, Wiens and Dmitrienko 2005): a few wrong by chance among the surest do not end it.
The true share wrong is above x with a probability of at most DELTA over the draw of the held-out questions. The mean would keep the
promise only every second time; conformal risk control bounds monotone losses, and this share is not one.
"""

import math

import numpy as np
from scipy.special import betaincinv

from .results import Array

DELTA = 0.05
MAX_STEPS = 20
QUESTIONS_PER_STEP = 50  # a finer grid would answer hardly more, and leave each test less of DELTA


class RiskError(ValueError):
    """No threshold keeps the share asked for; the message says how near the reader comes, or how many questions it takes."""


def upper_bound(wrong: int, answered: int, delta: float = DELTA) -> float:
    """The one-sided exact bound: a true share above it would give so few wrong with a probability under `delta`."""
    return float(betaincinv(wrong + 1, answered - wrong, 1 - delta)) if wrong < answered else 1.0


def threshold_for(sure: Array, right: Array, max_wrong: float, delta: float = DELTA) -> float:
    """The threshold with the most questions answered that passes; `sure` (confidences) and `right` (0 or 1) are (questions,).

    Raises:
        RiskError: no threshold passes.
    """
    order = np.argsort(-sure, kind="stable")
    sure, wrong = sure[order], np.cumsum(1 - right[order])
    found, level, bounds = None, 0.0, []
    part = delta / max(1, min(MAX_STEPS, len(sure) // QUESTIONS_PER_STEP))
    for count in _counts(len(sure), max_wrong, delta, part):
        last = int(np.searchsorted(-sure, -sure[count - 1], side="right"))  # a threshold answers all questions of equal confidence
        level += part
        bounds.append((upper_bound(round(wrong[last - 1]), last, level), last))
        if bounds[-1][0] <= max_wrong:
            found = float(sure[last - 1])
        else:
            level = 0.0
    if found is None:
        bound, last = min(bounds)
        raise RiskError(
            f"at most {max_wrong:.0%} wrong among the answered cannot be promised: of the {last} surest held-out questions {wrong[last - 1]:.0f} are "
            f"answered wrong, so it may be {bound:.1%}; ask for less, or give more held-out questions or a better reader"
        )
    return found


def _counts(questions: int, max_wrong: float, delta: float, part: float) -> list[int]:
    """How many of the surest are answered at each step. The first is twice what a test without any error needs: enough for power at a
    reader whose surest answers are not all right, yet few enough that a poor one can still answer its surest."""
    least = math.ceil(math.log(part) / math.log1p(-max_wrong))
    if questions < least:
        raise RiskError(f"at most {max_wrong:.0%} wrong among the answered takes {least} held-out questions to show: there are {questions}")
    return [round(x) for x in np.linspace(min(2 * least, questions), questions, round(delta / part))]
