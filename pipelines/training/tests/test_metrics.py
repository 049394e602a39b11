"""Metrics, bootstrap intervals and slices, against values computed by hand and against the truth of made data."""

import json
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from quarry_training.bootstrap import clusters, interval, paired
from quarry_training.metrics import METRICS, clopper_pearson, measured, reliability, risk_coverage
from quarry_training.results import Row, table
from quarry_training.slices import dates, question_word, slices_of
from quarry_training.squad import Example


def row(i: int, f1: float, answerable: bool = True, answered: bool = True, confidence: float = 0.8, document: str = "", **more: float) -> Row:
    values = {"exact_match": float(f1 == 1), "f1": f1, "span_exact_match": float(f1 == 1), "span_f1": f1, "confidence": confidence}
    values |= {"answered": float(answered), "right": float(answerable and f1 >= 0.5)} | more
    return Row(f"k{i}", str(i), document or f"d{i}", answerable, values, 10, 1.0, {"answerable": "yes" if answerable else "no"})


def test_figures_by_hand() -> None:
    rows = [
        row(0, 1.0, confidence=0.95),
        row(1, 0.0, confidence=0.85),
        row(2, 0.5, confidence=0.65),
        row(3, 0.0, answerable=False, confidence=0.75),
        row(4, 1.0, answerable=False, answered=False, confidence=0.05),
        row(5, 0.0, answered=False, confidence=0.15),
    ]
    found = measured(table(rows))
    assert found["f1"] == pytest.approx(100 * 2.5 / 6)
    assert found["answerable_exact_match"] == pytest.approx(25)
    assert found["wrong_among_answered"] == pytest.approx(2 / 4)
    assert found["coverage"] == pytest.approx(4 / 6)
    assert found["answered_of_answerable"] == pytest.approx(3 / 4)
    assert (found["abstention_precision"], found["abstention_recall"]) == (0.5, 0.5)
    assert found["ece"] == pytest.approx((0.05 + 0.85 + 0.35 + 0.75 + 0.05 + 0.15) / 6)  # each in a bin of its own
    assert "mrr" not in found


def test_a_figure_without_questions_is_left_out() -> None:
    found = measured(table([row(0, 1.0, answered=False)]))
    assert "wrong_among_answered" not in found
    assert "abstention_recall" not in found


def test_ranks() -> None:
    rows = [row(i, 1.0, reciprocal_rank=1 / rank if rank else 0.0) for i, rank in enumerate((1, 2, 5, 6, 0))] + [row(9, 0.0, answerable=False)]
    found = measured(table(rows))
    assert found["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 5 + 1 / 6) / 5)
    assert [found[f"recall_at_{k}"] for k in (1, 5, 20)] == pytest.approx([1 / 5, 3 / 5, 4 / 5])


def test_curves() -> None:
    confidence, right = np.array([0.9, 0.2, 0.8, 0.85]), np.array([1.0, 0.0, 0.0, 1.0])
    covered, wrong = risk_coverage(confidence, right)
    assert covered.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert wrong == pytest.approx([0, 0, 1 / 3, 1 / 2])
    sure, share, questions = reliability(confidence, right)
    assert (sure.tolist(), share.tolist(), questions.tolist()) == (pytest.approx([0.2, 0.825, 0.9]), [0.0, 0.5, 1.0], [1, 2, 1])


def test_clopper_pearson_against_published_values() -> None:
    assert clopper_pearson(4, 20) == pytest.approx((0.0573, 0.4366), abs=1e-4)
    assert clopper_pearson(0, 10) == pytest.approx((0, 0.3085), abs=1e-4)
    assert clopper_pearson(10, 10) == pytest.approx((0.6915, 1), abs=1e-4)
    assert clopper_pearson(0, 0) == (0, 1)


def test_questions_on_one_document_are_drawn_together_when_there_are_enough() -> None:
    def of(documents: int) -> list[Row]:
        return [row(i, float(i % documents % 2), document=f"d{i % documents}") for i in range(400)]

    assert len(set(clusters(of(40)))) == 40
    assert len(set(clusters(of(5)))) == 400
    values = table(of(40))
    narrow, wide = (interval(METRICS["f1"], values, units) for units in (np.arange(400), clusters(of(40))))
    assert wide[1] - wide[0] > 2.5 * (narrow[1] - narrow[0])  # 40 coins, not 400: sqrt(10) wider


def test_the_paired_interval_covers_the_true_difference() -> None:
    """Two readers of 60 % and 70 % on 300 questions they mostly agree on: 95 % of the intervals hold 10, and pairing makes them narrow."""
    held, widths = 0, []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        hard = rng.random(300)
        ours, theirs = ([row(i, float(h < share)) for i, h in enumerate(hard)] for share in (0.7, 0.6))
        found = paired(METRICS["f1"], ours, theirs)
        assert found is not None
        held += found.low <= 10 <= found.high
        widths.append(found.high - found.low)
    assert held >= 34
    assert np.mean(widths) < 8  # unpaired it would be 15


def test_a_pair_is_resampled_alike_every_time() -> None:
    ours, theirs = [row(i, i % 3 / 2) for i in range(60)], [row(i, i % 4 / 3) for i in range(60)]
    assert paired(METRICS["f1"], ours, theirs) == paired(METRICS["f1"], ours, theirs)
    same = paired(METRICS["ece"], ours, ours)
    assert same is not None
    assert (same.difference, same.low, same.high) == (0, 0, 0)


@pytest.mark.parametrize(
    ("question", "word"),
    [
        ("Who signs?", "who"),
        ("By whom is it signed?", "who"),
        ("How many piles are there?", "how_many"),
        ("How  much concrete?", "how_many"),
        ("How is it cured?", "how"),
        ("In which year was it built?", "which"),
        ("Name the engineer.", "other"),
        ("The somewhat tall crane", "other"),
    ],
)
def test_question_words(question: str, word: str) -> None:
    assert question_word(question) == word


def test_slices_of_a_question() -> None:
    example = Example("1", "plan.HTM", "When?", "word " * 150, (("in May 1999", 0),))
    found = slices_of(example, date(2020, 1, 1), date(2022, 1, 1))
    assert found == {
        "answerable": "yes",
        "question_word": "when",
        "context_length": "medium",
        "answer_length": "short",
        "format": "html",
        "document_age": "1_to_3_years",
    }
    assert slices_of(Example("2", "ticketmaster.com", "What?", "short", ())) == {"answerable": "no", "question_word": "what", "context_length": "short"}


def test_dates_stand_on_paragraph_or_article(tmp_path: Path) -> None:
    qas = [[{"id": str(i), "question": "q", "answers": []}] for i in range(3)]
    paragraphs = [{"context": "a", "modified": "2021-05-06T10:00:00Z", "qas": qas[0]}, {"context": "b", "qas": qas[1]}]
    other = {"date": "last year", "paragraphs": [{"context": "c", "qas": qas[2]}]}
    (tmp_path / "s.json").write_text(json.dumps({"data": [{"date": "2019-01-02", "paragraphs": paragraphs}, other]}))
    assert dates(tmp_path / "s.json") == {"0": date(2021, 5, 6), "1": date(2019, 1, 2)}
