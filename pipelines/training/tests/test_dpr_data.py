import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarry_training import dpr_data, passages
from quarry_training.dpr_data import DprExample
from quarry_training.passages import Ctx
from quarry_training.squad import DatasetError, Example

GOLD, NEAR, FAR = Ctx("1", "Bridge", "Anna built the bridge in Dover."), Ctx("2", "Wall", "The wall stands in Leeds."), Ctx("3", "", "Rain fell.")
EXAMPLE = DprExample("Who built the bridge?", ("Anna",), (GOLD,), (NEAR,), "bridge.txt")


def document(name: str, n: int) -> tuple[str, list[str]]:
    sentences = [f"In {name} the part {i} was made by maker{name}{i} of stone and wood." for i in range(n)]
    return " ".join(sentences), [f"maker{name}{i}" for i in range(n)]


@pytest.fixture
def asked() -> list[Example]:
    made = []
    for name in ("dover", "leeds", "york"):
        context, makers = document(name, 40)
        made += [Example(f"{name}{i}", "", f"Who made part {i} in {name}?", context, ((m, context.index(f"{m} ")),)) for i, m in enumerate(makers)]
    return made


def test_dump_and_load_are_inverse(tmp_path: Path) -> None:
    dpr_data.dump([EXAMPLE], tmp_path / "a.json")
    assert dpr_data.load(tmp_path / "a.json") == [EXAMPLE]


def test_files_of_the_paper_are_read(tmp_path: Path) -> None:
    record = {"dataset": "nq", "question": "who", "answers": ["Anna"], "positive_ctxs": [{"title": "Bridge", "text": "Anna.", "score": 1, "psg_id": "77"}]}
    record |= {"negative_ctxs": [], "hard_negative_ctxs": [{"title": "Wall", "text": "Ben."}]}
    (tmp_path / "a.json").write_text(json.dumps([record]))
    [example] = dpr_data.load(tmp_path / "a.json")
    assert (example.positives, example.document) == ((Ctx("77", "Bridge", "Anna."),), "Bridge")
    assert example.hard_negatives == (passages.passage("Wall", "Ben."),)


@pytest.mark.parametrize("text", ["", "{}", "[3]", '[{"question": "q"}]', '[{"question": "q", "positive_ctxs": [{"title": "t"}]}]'])
def test_not_a_dpr_file_is_a_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DatasetError, match=r"x\.json: not a DPR file"):
        dpr_data.load(tmp_path / "x.json")


def test_negatives_that_are_none_are_taken_out_and_counted() -> None:
    twin = replace(EXAMPLE, positives=(FAR,), hard_negatives=(NEAR, Ctx("9", "", GOLD.text.upper()), Ctx("8", "", "By Anna."), NEAR))
    kept, report = dpr_data.check([EXAMPLE, twin])
    assert kept == [EXAMPLE, replace(twin, hard_negatives=(NEAR,))]
    assert report.noted == {"negative_is_positive": 1, "negative_holds_answer": 1, "empty_or_repeated_passage": 1, "positive_without_answer": 1}
    assert report.ids["negative_is_positive"] == ["2"]


def test_examples_that_teach_nothing_are_dropped_and_a_file_of_them_refused() -> None:
    bad = [replace(EXAMPLE, question=""), replace(EXAMPLE, positives=()), EXAMPLE, replace(EXAMPLE, positives=(Ctx("5", "", "Anna " * 99_999),))]
    kept, report = dpr_data.check([EXAMPLE, *bad], max_dropped=0.9)
    assert kept == [EXAMPLE]
    assert report.dropped == {"empty_question": 1, "no_positive": 1, "duplicate_question": 1, "passage_too_long": 1}
    with pytest.raises(DatasetError, match="4 of 5 examples are unusable"):
        dpr_data.check([EXAMPLE, *bad])


def test_squad_becomes_positives_that_hold_the_answer_and_similar_passages_that_do_not(asked: list[Example]) -> None:
    made = dpr_data.from_squad(asked, negatives=3, max_words=50)
    assert len(made) == len(asked)
    every = dpr_data.passages(asked, max_words=50)
    for e, source in zip(made, asked, strict=True):
        assert all(e.answers[0] in c.text and len(c.text.split()) <= 50 for c in e.positives)
        assert len(e.hard_negatives) == 3
        assert not any(f"{e.answers[0]} " in c.text for c in e.hard_negatives)
        assert {*e.positives, *e.hard_negatives} <= set(every)
        part = source.question.split()[3]
        assert any(f"part {part} " in c.text for c in e.hard_negatives), "BM25 finds the part of that number elsewhere"
    assert len({e.document for e in made}) == 3
    train, held_out = dpr_data.split(made, 30)
    assert {e.document for e in train}.isdisjoint(e.document for e in held_out)
    assert train and held_out


def test_an_answer_across_passages_has_no_positive() -> None:
    context = "One two three. Four five six."
    across = Example("1", "", "What?", context, (("three. Four", context.index("three")),))
    inside = Example("2", "", "What?", context, (("five", context.index("five")),))
    assert [e.answers for e in dpr_data.from_squad([across, inside], max_words=3)] == [("five",)]
    with pytest.raises(DatasetError, match="nothing to train a retriever on"):
        dpr_data.from_squad([across], max_words=3)


@given(st.lists(st.sampled_from(["word", "End. ", "Next", "\n\n", " ", "a", "! "]), max_size=80).map("".join), st.integers(1, 12))
def test_passages_hold_every_word_once_in_order(context: str, max_words: int) -> None:
    spans = passages.cut(context, max_words)
    assert [w for a, b in spans for w in context[a:b].split()] == context.split()
    assert all(len(context[a:b].split()) <= max_words for a, b in spans)
    assert all(context[a:b] == context[a:b].strip() for a, b in spans)


def test_bm25_is_the_formula() -> None:
    rng = random.Random(1)
    texts = [" ".join(rng.choices("abcdefgh", k=rng.randint(3, 12))) for _ in range(30)]
    mean = sum(len(t.split()) for t in texts) / len(texts)

    def score(text: str) -> float:
        total = 0.0
        for term in ("a", "c"):
            n = sum(term in t.split() for t in texts)
            tf, length = text.split().count(term), len(text.split())
            idf = float(passages.np.log(1 + (len(texts) - n + 0.5) / (n + 0.5)))
            total += idf * tf * (passages.K1 + 1) / (tf + passages.K1 * (1 - passages.B + passages.B * length / mean))
        return total

    [found] = passages.Bm25(texts).best(["a c"], 30)
    assert [score(texts[i]) for i in found] == pytest.approx(sorted(map(score, texts), reverse=True), rel=1e-5)
