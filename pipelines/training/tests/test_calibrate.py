import json
from pathlib import Path

import numpy as np
import pytest
from quarry_contract.confidence import Signals, confidence
from quarry_contract.manifests import Calibration

from quarry_training.base import BASE_READER, CALIBRATION, PRIOR, resolve_base
from quarry_training.calibrate import Outcome, calibrate, figures, open_book, read_prior
from quarry_training.fit import load_model, save
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
    assert abs(found["ece"] - found["ece_if_true"]) < 0.02  # fitted where it is measured: no more than chance


def gap(fitted: Calibration) -> float:
    """The mean log loss on a large draw: the lower, the nearer to the true probabilities."""
    found = sample(20_000, 5)
    sure = np.array([confidence(o.signals, fitted) for o in found])
    return float(-np.log(np.where([o.right for o in found], sure, 1 - sure)).mean())


def test_a_base_s_calibration_helps_where_questions_are_few_and_yields_to_many() -> None:
    near = Calibration(0.9, -2.3, 0.0, 0.25, 0.15)
    far = Calibration(0.1, 1.0, 0.0, 0.9, -0.2)
    few = [sample(40, seed) for seed in range(10, 20)]
    alone, led = (np.mean([gap(calibrate(found, 0.9, prior=prior)) for found in few]) for prior in (None, near))
    assert led < alone
    led_astray, told = (calibrate(sample(20_000, 1), 0.9, prior=prior) for prior in (far, None))
    assert gap(led_astray) == pytest.approx(gap(told), abs=0.002)


def test_what_is_trained_from_the_base_reader_inherits_its_calibration(tmp_path: Path) -> None:
    base = resolve_base("quarry-base", tmp_path / "base")
    save(load_model(base), base, tmp_path / "trained")
    packed = Calibration.from_dict(json.loads((BASE_READER / CALIBRATION).read_text()))
    assert read_prior(tmp_path / "trained") == read_prior(base) == packed
    assert read_prior(tmp_path) is None
    (tmp_path / "trained" / PRIOR).write_text('{"slope": "steep"}')
    with pytest.raises(ValueError, match=r"is not a calibration .*remove it"):
        read_prior(tmp_path / "trained")
