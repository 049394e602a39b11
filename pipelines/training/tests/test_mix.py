"""Made negatives: the right kind of wrong passage; and the questions of our own, that they are sound and that none of the held-out ones is learnt from."""

from random import Random

from quarry_training import squad
from quarry_training.base_reader import ENCYCLOPAEDIA, HELD_OUT, MORE_NEAR, NEAR, WORKING
from quarry_training.leakage import leaks
from quarry_training.mix import HELD_OUT_OF_OWN_PERCENT, hard_negatives, split_by_context
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


def test_our_own_questions_are_sound_and_the_held_out_ones_are_not_learnt_from() -> None:
    held_out = [e for path in HELD_OUT.values() for e in squad.load(path)]
    documents = [e for path in (WORKING, NEAR, MORE_NEAR) for e in squad.load(path)]
    learnt = split_by_context(documents, HELD_OUT_OF_OWN_PERCENT)[0]
    learnt += squad.load(ENCYCLOPAEDIA) + squad.load(ENCYCLOPAEDIA.with_name("encyclopaedia-more.json"))
    for examples in (learnt, held_out):
        kept, report = squad.check(examples)
        assert (len(kept), report.dropped, report.repaired_offsets) == (len(examples), {}, 0)
    assert leaks(squad.items(learnt), squad.items(held_out)).counts == {}
