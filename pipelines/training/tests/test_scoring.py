import pytest

from quarry_training import scoring


# By hand, from the rules of the official script: lower case, no punctuation, no articles, white space folded.
@pytest.mark.parametrize(
    ("prediction", "gold", "exact", "f1"),
    [
        ("The Bridge.", ["bridge"], 1, 1),
        ("an apple, a day", ["apple day"], 1, 1),
        ("in 1889", ["1889"], 0, 2 / 3),
        ("Anna", ["Ben", "anna"], 1, 1),
        ("", [], 1, 1),
        ("something", [], 0, 0),
        ("", ["Anna"], 0, 0),
        ("a", ["the"], 1, 1),
        ("word word", ["word"], 0, 2 / 3),
        ("C32/40", ["c3240"], 1, 1),
        ("theatre", ["atre"], 0, 0),
    ],
)
def test_scores_of_the_official_evaluation(prediction: str, gold: list[str], exact: float, f1: float) -> None:
    assert scoring.exact_match(prediction, gold) == exact
    assert scoring.f1(prediction, gold) == pytest.approx(f1)
