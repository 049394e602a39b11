import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarry_training import squad
from quarry_training.squad import DatasetError, Example


def example(question: str = "Who?", context: str = "Anna laid the stone.", answers: tuple[tuple[str, int], ...] = (("Anna", 0),)) -> Example:
    return Example("1", "t", question, context, answers)


def test_answers_shifted_by_white_space_are_repaired_and_counted() -> None:
    kept, report = squad.check([example(context="  Anna laid it.", answers=((" Anna ", 0),))])
    assert kept[0].answers == (("Anna", 2),)
    assert report.repaired_offsets == 1


def test_wrong_offsets_and_duplicates_are_dropped_and_counted() -> None:
    far = example(question="Where?", context="x" * 50 + " Anna", answers=(("Anna", 0),))
    kept, report = squad.check([example(), example(question="WHO?"), far, example(question="When?", answers=())], max_dropped=0.5)
    assert [e.question for e in kept] == ["Who?", "When?"]
    assert report.dropped == {"duplicate_question": 1, "answer_not_at_offset": 1}
    assert report.unanswerable == 1


def test_an_offset_off_by_words_is_moved_only_where_it_can_mean_one_place() -> None:
    assert squad.locate("In Leeds, Anna did.", "Anna", 7) == ("Anna", 10)
    assert squad.locate("Ann Anna Anna", "Anna", 6) is None
    assert squad.locate("Anna Anna  Anna", "Anna", 10) == ("Anna", 11), "over white space alone"


def test_each_slip_is_counted_for_what_it_is() -> None:
    context = "Anna laid the first stone in Dover."
    given = [
        Example("trim", "t", "Who?", context, (("Anna ", 0),)),
        Example("shift", "t", "What?", context, (("stone", 19),)),
        Example("overlap", "t", "Which?", context, (("stone", 20), ("first stone", 14), ("Dover", 29))),
        Example("some", "t", "Where?", context, (("Dover", 29), ("Leeds", 29), ("", 3))),
        Example("blank", "t", "Why?", context, (("  ", 3),)),
        Example("half", "t", "How?", context + "\ud800", ()),
        Example("long", "t", "How?", context * 10_000, ()),
    ]
    kept, report = squad.check(given, max_dropped=0.5)
    assert [e.id for e in kept] == ["trim", "shift", "overlap", "some"]
    assert report.repaired_offsets == 1
    assert report.dropped == {"empty_answer": 1, "broken_unicode": 1, "context_too_long": 1}
    assert report.noted == {"trimmed_answers": 1, "overlapping_answers": 1, "some_answers_dropped": 1}
    assert report.ids["repaired_offsets"] == ["shift"] and report.ids["context_too_long"] == ["long"]


def test_records_that_contradict_each_other_are_all_dropped() -> None:
    context = "Anna laid it. Ben saw Anna."
    agreeing = [Example("a", "t", "Who saw?", context, (("Ben", 14),)), Example("b", "t", "who saw?", context, (("Ben saw", 14),))]
    disjoint = [Example("c", "t", "Who?", context, (("Anna", 0),)), Example("d", "t", "Who?", context, (("Ben", 14),))]
    unsure = [Example("e", "t", "When?", context, ()), Example("f", "t", "When?", context, (("Anna", 22),))]
    kept, report = squad.check([*agreeing, *disjoint, *unsure], max_dropped=0.9)
    assert [e.id for e in kept] == ["a"]
    assert report.dropped == {"duplicate_question": 1, "contradictory_labels": 4}
    assert report.ids["contradictory_labels"] == ["c", "d", "e", "f"]


def test_a_mostly_broken_file_is_refused() -> None:
    with pytest.raises(DatasetError, match="2 of 3 examples are unusable"):
        squad.check([example(), example(), example()])


NUMBER_FOR_QUESTION = '{"data": [{"paragraphs": [{"context": "c", "qas": [{"id": 1, "question": 3, "answers": []}]}]}]}'


@pytest.mark.parametrize("text", ["", "[]", "[" * 99_999, NUMBER_FOR_QUESTION, '{"data": 3}', '{"data": [{"paragraphs": [{"qas": [{}]}]}]}', "\x00"])
def test_not_a_squad_file_is_a_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DatasetError, match=r"x\.json: not a SQuAD file"):
        squad.load(tmp_path / "x.json")


def test_dump_and_load_are_inverse(tmp_path: Path) -> None:
    examples = [example(), Example("2", "t", "Why?", "Anna laid the stone.", ()), Example("3", "u", "é?", "日本 Anna", (("日本", 0),), "Sales > Ōsaka")]
    squad.dump(examples, tmp_path / "a.json")
    assert squad.load(tmp_path / "a.json") == examples
    assert json.loads((tmp_path / "a.json").read_text())["data"][0]["paragraphs"][0]["qas"][1]["is_impossible"] is True


def test_split_keeps_a_document_on_one_side() -> None:
    examples = [Example(str(i), "", f"q{i}", f"context {i // 5}", ()) for i in range(500)]
    train, held_out = squad.split(examples, 30)
    assert {e.context for e in train}.isdisjoint({e.context for e in held_out})
    assert 15 <= len({e.context for e in held_out}) <= 45


def test_digest_does_not_depend_on_order() -> None:
    a, b = example(), example(question="Why?")
    assert squad.digest([a, b]) == squad.digest([b, a]) != squad.digest([a])
    assert squad.digest([a]) != squad.digest([replace(a, heading="h")])


@given(context=st.text(min_size=1), data=st.data())
def test_located_answers_always_stand_where_they_say(context: str, data: st.DataObject) -> None:
    a = data.draw(st.integers(0, len(context)))
    b = data.draw(st.integers(a, len(context)))
    found = squad.locate(context, context[a:b], a)
    if context[a:b].strip():
        assert found is not None
        text, start = found
        assert context[start : start + len(text)] == text == text.strip()
    else:
        assert found is None
