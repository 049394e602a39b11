"""What confidence is made of, and that it is a probability whatever the logits."""

from dataclasses import replace

import pytest

from quarry_contract.confidence import FURTHEST, FoundSpan, Signals, confidence, signals, words
from quarry_contract.manifests import Calibration

CALIBRATION = Calibration(0.5, -1.0, 0.5, 0.25, 0.125)


def test_the_lead_is_over_the_best_answer_of_other_words() -> None:
    ranked = [FoundSpan("The Blue Crane", 9.0, 1.0), FoundSpan("a blue crane", 8.0, 2.0), FoundSpan("the hoist", 6.5, -3.0), FoundSpan("rope", 1.0, 0.0)]
    assert signals(ranked[0], ranked) == Signals(8.0, 9.0, 2.5)
    assert signals(ranked[1], ranked) == Signals(6.0, 8.0, 1.5)
    assert signals(ranked[3], ranked) == Signals(1.0, 1.0, -8.0)


@pytest.mark.parametrize("others", [[], [FoundSpan("hoist", -90.0, 0.0)], [FoundSpan("blue", 8.0, 0.0)]])
def test_no_lead_is_longer_than_the_longest(others: list[FoundSpan]) -> None:
    best = FoundSpan("blue crane", 9.0, 0.0)
    assert signals(best, [best, *others]).lead == FURTHEST
    behind = FoundSpan("rope", -90.0, 0.0)
    assert signals(behind, [best, *others, behind]).lead == -FURTHEST


@pytest.mark.parametrize(("text", "expected"), [("The 6 m Pile", {"6", "m", "pile"}), ("the", {"the"}), ("°", {"°"}), ("Überlänge", {"überlänge"})])
def test_words_are_lower_case_without_articles_and_never_none(text: str, expected: set[str]) -> None:
    assert words(text) == expected


def test_confidence_weighs_each_signal() -> None:
    at = Signals(2.0, 4.0, -8.0)
    assert confidence(at, CALIBRATION) == pytest.approx(0.5)
    for name, by in (("slope", 2.0), ("score", 4.0), ("lead", -8.0), ("bias", 1.0)):
        raised = replace(CALIBRATION, **{name: getattr(CALIBRATION, name) + 0.5 / by})
        assert confidence(at, raised) == pytest.approx(0.6224593)


@pytest.mark.parametrize("logit", [-1e6, -50.0, 0.0, 50.0, 1e6])
def test_confidence_is_a_probability_and_grows_with_the_margin(logit: float) -> None:
    less, more = (confidence(Signals(logit + d, 0.0, 0.0), CALIBRATION) for d in (0.0, 1.0))
    assert 0 <= less <= more <= 1
