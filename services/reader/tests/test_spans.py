import json
import re
from importlib.resources import files

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quarry_contract.confidence import Signals, confidence
from quarry_contract.manifests import Calibration
from quarry_contract.messages import ReadPassage

from quarry_reader.spans import Candidate, answers, best_spans, candidates, separators
from quarry_reader.windows import Window

CALIBRATION = Calibration(0.5, -0.3, 0.5, 0.1, 0.2)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 8), st.integers(0, 10_000))
def test_best_spans_agree_with_trying_every_span(n: int, width: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    start, end = rng.normal(size=n).astype(np.float32), rng.normal(size=n).astype(np.float32)
    segments = np.cumsum(rng.random(n) < 0.2)
    every = [(float(start[i] + end[j]), i, j) for i in range(n) for j in range(i, min(n, i + width)) if segments[i] == segments[j]]
    found = best_spans(start, end, segments, width, count)
    assert found[0][0] == pytest.approx(max(s for s, _, _ in every), abs=1e-5)
    assert [s for s, _, _ in found] == sorted((s for s, _, _ in found), reverse=True)
    for score, i, j in found:
        assert segments[i] == segments[j]
        assert score == pytest.approx(float(start[i] + end[j]), abs=1e-5)
        assert score == pytest.approx(max(s for s, a, _ in every if a == i), abs=1e-5)


def test_the_question_and_the_special_tokens_are_never_an_answer() -> None:
    window = Window(0, [1, 2, 3, 4, 5, 6], [0, 0, 0, 1, 1, 1], 3, [(0, 2), (3, 5)])
    loud = np.array([50, 50, 50, 1, 2, 50], np.float32)
    found = candidates([window], [(loud, loud)], ["an old"], 10, 5)
    assert {(c.start, c.end) for c in found} <= {(0, 2), (3, 5), (0, 5)}
    assert found[0].null_score == 100


def test_no_answer_runs_over_a_paragraph_or_the_cells_of_a_table() -> None:
    text = "Type | Load\nM16 | 18"
    words = [(m.start(), m.end()) for m in re.finditer(r"\S+", text)]
    window = Window(0, list(range(2 + len(words))), [0, 0] + [1] * len(words), 2, words)
    start, end = (np.zeros(2 + len(words), np.float32) for _ in range(2))
    start[2 + 3], end[2 + 5] = 9, 9  # from M16 to 18, the whole row
    found = candidates([window], [(start, end)], [text], 10, 9)
    assert {text[c.start : c.end] for c in found} == {"Type", "|", "Load", "M16", "18"}


def test_separators_are_where_the_contract_says() -> None:
    for case in json.loads(files("quarry_contract").joinpath("golden", "separators.json").read_text()):
        assert separators(case["text"]) == case["separators"], case


def test_ranking_across_passages_is_by_raw_logit_and_null_is_the_lowest_window_of_the_passage() -> None:
    def one(passage: int, logit: float, null: float) -> tuple[Window, tuple[np.ndarray, np.ndarray]]:
        logits = np.array([null / 2, 0, logit / 2, 0], np.float32)
        return Window(passage, [1, 2, 3, 4], [0, 0, 1, 1], 2, [(0, 3)]), (logits, logits)

    windows, outputs = zip(one(0, 8, 6), one(0, 2, -4), one(1, 9, 7), strict=True)
    found = candidates(windows, outputs, ["one", "two"], 10, 5)
    spans = answers(found, [ReadPassage("a", "one"), ReadPassage("b", "two")], CALIBRATION, 5)
    assert [s.text for s in spans] == ["two", "one"]
    assert spans[0].confidence == pytest.approx(confidence(Signals(9 - 7, 9, 9 - 8), CALIBRATION))
    assert spans[1].confidence == pytest.approx(confidence(Signals(8 - -4, 8, 8 - 9), CALIBRATION))


def test_a_passage_found_first_is_believed_by_so_much_more() -> None:
    passages = [ReadPassage("a", "one"), ReadPassage("b", "two"), ReadPassage("c", "six")]
    found = [Candidate(0, 0, 3, 5.0, 0), Candidate(1, 0, 3, 5.2, 0), Candidate(2, 0, 3, 5.9, 0)]
    assert [s.text for s in answers(found, passages, CALIBRATION, 3)] == ["six", "two", "one"]
    assert [s.text for s in answers(found, passages, CALIBRATION, 3, rank_weight=0.3)] == ["six", "one", "two"]
    assert answers(found, passages, CALIBRATION, 3, rank_weight=0.3)[0].score == 5.9


def test_overlapping_spans_become_the_best_and_the_same_words_elsewhere_become_evidence() -> None:
    passages = [ReadPassage("a", "the Blue Crane."), ReadPassage("b", "a blue crane, and more")]
    found = [Candidate(0, 4, 14, 9, 0), Candidate(0, 4, 8, 8, 0), Candidate(1, 2, 12, 7, 0), Candidate(1, 18, 22, 3, 0)]
    spans = answers(found, passages, CALIBRATION, 5)
    assert [s.text for s in spans] == ["Blue Crane", "more"]
    assert [(e.passage_id, e.start, e.end) for e in spans[0].evidence] == [("a", 4, 14), ("b", 2, 12)]
    assert spans[0].score == 9


def test_top_k_cuts_answers_not_evidence() -> None:
    passages = [ReadPassage(str(i), f"x{i // 2}") for i in range(8)]
    found = [Candidate(i, 0, 2, 10 - i, 0) for i in range(8)]
    spans = answers(found, passages, CALIBRATION, 2)
    assert [len(s.evidence) for s in spans] == [2, 2]
