import json
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


def test_a_mostly_broken_file_is_refused() -> None:
    with pytest.raises(DatasetError, match="2 of 3 examples are unusable"):
        squad.check([example(), example(), example()])


@pytest.mark.parametrize("text", ["", "[]", '{"data": 3}', '{"data": [{"paragraphs": [{"qas": [{}]}]}]}', "\x00"])
def test_not_a_squad_file_is_a_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DatasetError, match=r"x\.json: not a SQuAD file"):
        squad.load(tmp_path / "x.json")


def test_dump_and_load_are_inverse(tmp_path: Path) -> None:
    examples = [example(), Example("2", "t", "Why?", "Anna laid the stone.", ()), Example("3", "u", "é?", "日本 Anna", (("日本", 0),), "Title - Section")]
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
