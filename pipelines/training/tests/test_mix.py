"""Made negatives: the right kind of wrong passage."""

from random import Random

from quarry_training.mix import hard_negatives
from quarry_training.squad import Example

PAIRS = [
    ("The crane lifts steel beams.", "crane", "Cranes"),
    ("The pump moves wet concrete.", "concrete", "Pumps"),
    ("The hoist lifts steel and people.", "people", "Hoists"),
]


def test_a_negative_is_another_context_under_its_own_heading_without_the_answer() -> None:
    examples = [Example(str(i), "", f"What about steel, number {i}?", c, ((a, c.index(a)),), h) for i, (c, a, h) in enumerate(PAIRS)]
    headings = {e.context: e.heading for e in examples}
    negatives = hard_negatives(examples, Random(1))
    assert len(negatives) == 3
    for negative, example in zip(negatives, examples, strict=True):
        assert negative.context != example.context
        assert negative.heading == headings[negative.context]
        assert negative.answers == ()
        assert example.answers[0][0] not in negative.context
