"""From "at most x of the answered may be wrong" to a threshold that keeps it on questions not seen.

Learn then Test (Angelopoulos et al. 2021): thresholds are tested one after the other, the surest first, each with an exact binomial bound
(Clopper and Pearson 1934), until one fails; the last that passed is taken. As the order is fixed before looking at what is right, no test
needs correcting for the others. The true share wrong is above x with a probability of at most DELTA over the draw of the held-out questions.
The mean would keep the promise only every second time; conformal risk control bounds monotone losses, and this share is not one.
"""

import math

import numpy as np
from scipy.stats import beta

from .results import Array

DELTA = 0.05
STEPS = 40


class RiskError(ValueError):
    """No threshold keeps the share asked for; the message says how near the reader comes, or how many questions it takes."""


def upper_bound(wrong: int, answered: int, delta: float = DELTA) -> float:
    """The one-sided exact bound: a true share above it would give so few wrong with a probability under `delta`."""
    return float(beta.ppf(1 - delta, wrong + 1, answered - wrong)) if wrong < answered else 1.0


def threshold_for(sure: Array, right: Array, max_wrong: float, delta: float = DELTA) -> float:
    """The threshold with the most questions answered that passes; `sure` (confidences) and `right` (0 or 1) are (questions,).

    Raises:
        RiskError: the bound exceeds `max_wrong` already on the surest questions.
    """
    order = np.argsort(-sure, kind="stable")
    sure, wrong = sure[order], np.cumsum(1 - right[order])
    found = None
    for count in _counts(len(sure), max_wrong, delta):
        last = int(np.searchsorted(-sure, -sure[count - 1], side="right"))  # a threshold answers all questions of equal confidence
        bound = upper_bound(round(wrong[last - 1]), last, delta)
        if bound > max_wrong:
            break
        found = float(sure[last - 1])
    if found is None:
        raise RiskError(
            f"at most {max_wrong:.0%} wrong among the answered cannot be promised: of the {last} surest held-out questions {wrong[last - 1]:.0f} are "
            f"answered wrong, so it may be {bound:.1%}; ask for less, or give more held-out questions or a better reader"
        )
    return found


def _counts(questions: int, max_wrong: float, delta: float) -> list[int]:
    """How many of the surest are answered at each step. The first is four times what a test without any error needs: enough for power
    at a reader whose surest answers are not all right, yet few enough that a poor one can still answer its surest."""
    least = math.ceil(math.log(delta) / math.log1p(-max_wrong))
    if questions < least:
        raise RiskError(f"at most {max_wrong:.0%} wrong among the answered takes {least} held-out questions to show: there are {questions}")
    return sorted({round(x) for x in np.linspace(min(4 * least, questions), questions, STEPS)})
