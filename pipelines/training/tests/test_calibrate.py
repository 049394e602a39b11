import numpy as np
import pytest
from quarry_contract.confidence import Signals

from quarry_training.calibrate import Outcome, calibrate, figures, open_book
from quarry_training.squad import Example


def sample(n: int, seed: int) -> list[Outcome]:
    """Outcomes whose true probability of being right is sigmoid(0.8 * margin + 0.3 * score + 0.2 * lead - 2)."""
    rng = np.random.default_rng(seed)
    signals = rng.normal((2, 4, 0), (3, 2, 4), (n, 3))
    right = rng.random(n) < 1 / (1 + np.exp(-(signals @ (0.8, 0.3, 0.2) - 2)))
    answerable = right | (rng.random(n) < 0.6)
    return [Outcome(bool(a), Signals(*map(float, s)), bool(r)) for a, s, r in zip(answerable, signals, right, strict=True)]


def test_it_finds_the_true_probabilities() -> None:
    fitted = calibrate(sample(20_000, 1), min_answered=0.9)
    assert (fitted.slope, fitted.score, fitted.lead) == pytest.approx((0.8, 0.3, 0.2), abs=0.05)
    assert fitted.bias == pytest.approx(-2, abs=0.15)


def test_calibration_holds_on_other_data() -> None:
    fitted = calibrate(sample(4_000, 1), min_answered=0.9)
    found = figures(sample(4_000, 2), fitted)
    assert found["ece"] < 0.04
    assert found["answered_of_answerable"] > 0.87
    assert found["abstained_of_unanswerable"] > 1 - found["answered_of_answerable"] + 0.1  # better than chance


def test_the_threshold_holds_back_what_is_unanswerable_and_no_right_answer_for_nothing() -> None:
    def outcome(score: float, right: bool, answerable: bool = True) -> Outcome:
        return Outcome(answerable, Signals(score, score, score), right)

    sure = [outcome(10 + i / 100, True) for i in range(90)]
    unsure = [outcome(2 + i / 100, False, answerable=False) for i in range(40)]
    wrong = [outcome(i / 100, False) for i in range(10)]
    fitted = calibrate(sure + unsure + wrong, min_answered=0.5)
    found = figures(sure + unsure + wrong, fitted)
    assert (found["answered_of_answerable"], found["abstained_of_unanswerable"], found["wrong_among_answered"]) == (0.9, 1.0, 0.0)
    found = figures(sure + unsure + wrong, calibrate(sure + unsure + wrong, min_answered=0.95))
    assert found["answered_of_answerable"] >= 0.95


@pytest.mark.parametrize("right", [True, False])
def test_outcomes_that_teach_nothing_are_refused(right: bool) -> None:
    with pytest.raises(ValueError, match="needs right and wrong answers"):
        calibrate([Outcome(True, Signals(1, 2, 3), right)] * 5, 0.9)


def test_a_margin_that_says_the_opposite_is_refused() -> None:
    wrong_way = [Outcome(True, Signals(-5, 1, 0), True)] * 50 + [Outcome(True, Signals(5, 1, 0), False)] * 50
    with pytest.raises(ValueError, match="not trained"):
        calibrate(wrong_way, 0.9)


def test_open_book_puts_the_most_similar_context_first() -> None:
    contexts = ["the crane lifts steel", "the pump moves concrete", "scaffold boards and ties"]
    headed = {text: f"Section {i}" for i, text in enumerate(contexts)}
    [book] = open_book([Example("1", "", "What does the concrete pump move?", "x", (), "Section of x")], headed, passages=2)
    assert (book[0].context, book[0].heading) == (contexts[1], "Section 1")  # its own heading, not that of the gold context
    assert len(book) == 2


def test_a_largest_share_wrong_sets_the_threshold_instead() -> None:
    """Fitted on one draw, measured on another."""
    strict, lax = (calibrate(sample(2_000, 1), min_answered=0.9, max_wrong=share) for share in (0.05, 0.2))
    assert strict.threshold > lax.threshold
    for fitted, share in ((strict, 0.05), (lax, 0.2)):
        found = figures(sample(2_000, 2), fitted)
        assert found["wrong_among_answered_low"] <= share
        assert found["wrong_among_answered_high"] > share - 0.05  # the threshold is no stricter than it must be


def test_intervals_stand_beside_the_figures() -> None:
    found = figures(sample(500, 3), calibrate(sample(500, 3), min_answered=0.9))
    for name in ("ece", "wrong_among_answered"):
        assert found[f"{name}_low"] <= found[name] <= found[f"{name}_high"]
    assert found["questions"] == 500
