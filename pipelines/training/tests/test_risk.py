"""The promise "at most x wrong among the answered", over many draws of held-out questions."""

import numpy as np
import pytest
from scipy.stats import binom

from quarry_training.metrics import clopper_pearson
from quarry_training.risk import DELTA, RiskError, threshold_for, upper_bound

MAX_WRONG = 0.1


def asked(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(confidence, right, true probability) of a reader whose confidence orders its answers well but is no probability: it is too sure."""
    rng = np.random.default_rng(seed)
    margins = rng.normal(2, 3, n)
    truth = 1 / (1 + np.exp(-(0.8 * margins + 0.5)))
    return 1 / (1 + np.exp(-1.5 * margins)), (rng.random(n) < truth).astype(float), truth


def test_the_promise_fails_no_more_often_than_it_says() -> None:
    """Threshold on one half, the true share wrong on 50,000 other questions: too high in at most DELTA of the draws, within chance."""
    draws = 200
    sure, _, truth = asked(50_000, 0)
    broken, coverage = 0, []
    for seed in range(1, draws + 1):
        try:
            answered = sure >= threshold_for(*asked(800, seed)[:2], MAX_WRONG)
        except RiskError:  # nothing is promised
            continue
        coverage.append(answered.mean())
        broken += (1 - truth[answered]).mean() > MAX_WRONG
    assert broken <= binom.ppf(0.999, draws, DELTA)
    assert len(coverage) > 0.95 * draws
    order = np.argsort(-sure)
    best = (np.cumsum(1 - truth[order]) / np.arange(1, len(order) + 1) <= MAX_WRONG).mean()  # what knowing every probability would allow
    assert np.mean(coverage) > 0.75 * best


def test_it_holds_within_its_interval_on_the_other_half() -> None:
    """What `calibrate --check` says: the other half's exact interval reaches down to the promise, but for DELTA and the interval's own 2.5 %."""
    draws, contradicted = 100, 0
    for seed in range(draws):
        sure, right, _ = asked(1600, seed)
        answered = sure[800:] >= threshold_for(sure[:800], right[:800], MAX_WRONG)
        contradicted += clopper_pearson(int((1 - right[800:])[answered].sum()), int(answered.sum()))[0] > MAX_WRONG
    assert contradicted <= binom.ppf(0.999, draws, 0.025)


def test_more_questions_and_a_laxer_promise_answer_more() -> None:
    few, many = (threshold_for(*asked(n, 5)[:2], MAX_WRONG) for n in (600, 5000))
    assert many < few
    assert threshold_for(*asked(600, 5)[:2], 0.3) < few


def test_a_reader_always_right_answers_everything() -> None:
    sure = np.linspace(0.1, 0.9, 100)
    assert threshold_for(sure, np.ones(100), 0.05) == sure.min()


def test_equal_confidences_are_answered_or_not_together() -> None:
    """Half of 200 equally sure answers are wrong: there is no threshold between them."""
    right = np.tile([1.0, 0.0], 100)
    with pytest.raises(RiskError, match="of the 200 surest held-out questions 100 are answered wrong"):
        threshold_for(np.full(200, 0.8), right, 0.3)


def test_what_cannot_be_promised_is_refused_with_the_reason() -> None:
    sure, _, _ = asked(400, 3)
    with pytest.raises(RiskError, match="surest held-out questions"):
        threshold_for(sure, np.zeros(400), 0.1)
    with pytest.raises(RiskError, match="takes 29 held-out questions to show: there are 20"):
        threshold_for(sure[:20], np.ones(20), 0.1)


def test_the_bound_is_the_exact_one() -> None:
    assert upper_bound(0, 29) <= 0.1 < upper_bound(0, 28)
    bound = upper_bound(7, 120)
    assert binom.cdf(7, 120, bound) == pytest.approx(DELTA)
    assert upper_bound(5, 5) == 1.0
