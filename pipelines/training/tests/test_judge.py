"""The policy, and the verdict over made evaluations: pure, without any model."""

from dataclasses import replace
from pathlib import Path

import pytest

from quarry_training.judge import GateError, judge
from quarry_training.policy import POLICIES, Policy, PolicyError, load_policy
from quarry_training.results import Evaluation, Row
from quarry_training.summary import summary

WORDS = ("who", "when", "where", "what")
POLICY = """
kind: reader
min_questions: 50
floors:
  f1: {at_least: 40}
overall:
  f1: {max_regression: 1.0}
protected:
  - {slice: question_word, metric: f1, max_regression: 2.0, min_questions: 30, refuse: when_shown_worse}
"""


def policy(tmp_path: Path, text: str = POLICY) -> Policy:
    (tmp_path / "policy.yaml").write_text(text)
    return load_policy(tmp_path / "policy.yaml")


def evaluation(right: dict[str, float], questions: int = 400, digest: str = "a" * 64) -> Evaluation:
    """`right` is the share of each question word that is answered right, spread evenly; the others are wrong."""
    rows = []
    for i in range(questions):
        word, place = WORDS[i % 4], i // 4 / (questions / 4)
        good = float(place < right[word])
        values = {"exact_match": good, "f1": good, "span_exact_match": good, "span_f1": good, "confidence": 0.7, "answered": 1.0, "right": good}
        rows.append(Row(f"k{i}", str(i), f"d{i % 50}", True, values, 10, 1.0, {"question_word": word}))
    return Evaluation("reader", "m" * 64, digest, 1, summary(rows), tuple(rows))


EVEN = dict.fromkeys(WORDS, 0.6)


def test_an_equal_and_a_better_challenger_pass(tmp_path: Path) -> None:
    assert judge(evaluation(EVEN), evaluation(EVEN), policy(tmp_path)).passed
    verdict = judge(evaluation(dict.fromkeys(WORDS, 0.7)), evaluation(EVEN), policy(tmp_path))
    assert verdict.passed
    assert {f.status for f in verdict.findings} == {"passed"}


def test_a_slice_that_got_worse_refuses_though_the_mean_rises(tmp_path: Path) -> None:
    verdict = judge(evaluation(dict.fromkeys(WORDS, 0.9) | {"when": 0.3}), evaluation(EVEN), policy(tmp_path))
    [overall] = [f for f in verdict.findings if f.check == "overall"]
    assert (overall.status, overall.difference) == ("passed", pytest.approx(15))
    [refusal] = verdict.refusals
    assert (refusal.slice, refusal.metric, refusal.difference) == ("question_word=when", "f1", pytest.approx(-30))
    assert refusal.interval is not None
    assert refusal.interval[1] < 0
    assert "f1 in slice question_word=when 60 -> 30, difference -30 (95 % interval" in refusal.reason
    assert not verdict.passed


def test_a_worse_challenger_is_refused_overall_with_figures(tmp_path: Path) -> None:
    verdict = judge(evaluation(dict.fromkeys(WORDS, 0.5)), evaluation(EVEN), policy(tmp_path))
    reasons = [f.reason for f in verdict.refusals if f.check == "overall"]
    assert reasons[0].startswith("f1 60 -> 50, difference -10 (95 % interval ")
    assert reasons[0].endswith("over 400 questions; 1 worse is allowed: it is worse")


def test_what_is_not_shown_to_be_safe_is_refused_and_what_is_not_shown_to_be_worse_passes(tmp_path: Path) -> None:
    """One question of 100 lost: within chance, so the two rules differ."""
    ours, theirs = evaluation(EVEN | {"who": 0.56}, 100), evaluation(EVEN, 100)
    strict = judge(ours, theirs, policy(tmp_path))
    assert [f.check for f in strict.refusals] == ["overall"]
    assert "more questions would tell" in strict.refusals[0].reason
    assert judge(ours, theirs, policy(tmp_path, POLICY.replace("max_regression: 1.0", "max_regression: 1.0, refuse: when_shown_worse"))).passed


def test_lower_is_better_turns_the_direction(tmp_path: Path) -> None:
    text = "kind: reader\nmin_questions: 50\noverall:\n  wrong_among_answered: {max_regression: 0.02}\n"
    worse, better = (judge(evaluation(dict.fromkeys(WORDS, s)), evaluation(EVEN), policy(tmp_path, text)) for s in (0.5, 0.7))
    assert (worse.passed, better.passed) == (False, True)
    assert worse.refusals[0].difference == pytest.approx(0.1)


def test_floors_stand_without_a_champion(tmp_path: Path) -> None:
    poor = judge(evaluation(dict.fromkeys(WORDS, 0.3)), None, policy(tmp_path))
    assert [f.check for f in poor.findings] == ["floor"]
    assert poor.refusals[0].reason.startswith("f1 30 (95 % interval")
    assert poor.refusals[0].reason.endswith("but it must be at least 40")
    assert judge(evaluation(EVEN), None, policy(tmp_path)).passed


def test_a_reader_that_never_answers_does_not_pass_as_never_wrong(tmp_path: Path) -> None:
    silent = evaluation(EVEN)
    rows = tuple(replace(row, values=row.values | {"answered": 0.0}) for row in silent.rows)
    silent = replace(silent, rows=rows, summary=summary(rows))
    verdict = judge(silent, None, policy(tmp_path, "kind: reader\nmin_questions: 9\nfloors:\n  wrong_among_answered: {at_most: 0.5}\n"))
    assert "none was answered" in verdict.refusals[0].reason


def test_abstaining_does_not_escape_a_protected_slice(tmp_path: Path) -> None:
    text = "kind: reader\nmin_questions: 50\nprotected:\n"
    text += "  - {slice: question_word=when, metric: wrong_among_answered, max_regression: 0.02, min_questions: 30}\n"
    speaking = evaluation(EVEN)

    def silent(row: Row) -> Row:
        return replace(row, values=row.values | {"answered": 0.0}) if row.slices["question_word"] == "when" else row

    rows = tuple(silent(row) for row in speaking.rows)
    mute = replace(speaking, rows=rows, summary=summary(rows))
    assert judge(mute, speaking, policy(tmp_path, text)).refusals[0].slice == "question_word=when"
    [unknown] = judge(speaking, mute, policy(tmp_path, text)).findings
    assert (unknown.status, unknown.reason) == (
        "not_judged",
        "wrong_among_answered in slice question_word=when is not defined for the champion on these questions",
    )


def test_too_few_questions_are_said(tmp_path: Path) -> None:
    verdict = judge(evaluation(EVEN, 100), evaluation(EVEN, 100), policy(tmp_path))
    said = [f.reason for f in verdict.findings if f.status == "not_judged"]
    assert "slice question_word=when has 25 questions, too few to judge: the policy takes 30" in said
    assert verdict.passed
    with pytest.raises(GateError, match="40 questions are too few to judge by: the policy takes 50"):
        judge(evaluation(EVEN, 40), None, policy(tmp_path))


def test_a_protected_slice_that_the_set_does_not_have_is_said(tmp_path: Path) -> None:
    verdict = judge(evaluation(EVEN), evaluation(EVEN), policy(tmp_path, POLICY.replace("slice: question_word", "slice: format=pdf")))
    assert "slice format=pdf has 0 questions" in next(f.reason for f in verdict.findings if f.status == "not_judged")


def test_an_improvement_can_be_required(tmp_path: Path) -> None:
    asked = policy(tmp_path, POLICY + "require_improvement: f1\n")
    assert [f.check for f in judge(evaluation(EVEN), evaluation(EVEN), asked).refusals] == ["improvement"]
    assert judge(evaluation(dict.fromkeys(WORDS, 0.7)), evaluation(EVEN), asked).passed


def test_rows_are_paired_by_question_whatever_their_order(tmp_path: Path) -> None:
    theirs = evaluation(EVEN)
    verdict = judge(evaluation(EVEN), replace(theirs, rows=theirs.rows[::-1]), policy(tmp_path))
    assert next(f for f in verdict.findings if f.check == "overall").interval == (0, 0)


def test_what_is_not_comparable_is_not_judged(tmp_path: Path) -> None:
    ours, asked = evaluation(EVEN), policy(tmp_path)
    with pytest.raises(GateError, match="different sets"):
        judge(ours, evaluation(EVEN, digest="b" * 64), asked)
    with pytest.raises(GateError, match="not asked the same questions"):
        judge(ours, replace(ours, rows=(*ours.rows[1:], replace(ours.rows[0], key="other"))), asked)
    with pytest.raises(GateError, match="over 1 passages, the evaluation was made over 8"):
        judge(replace(ours, passages=8), None, asked)
    with pytest.raises(GateError, match="for a reader, the evaluation is of a retriever"):
        judge(replace(ours, kind="retriever"), None, asked)
    with pytest.raises(GateError, match="mrr is not measured on a reader over 1 passages"):
        judge(ours, None, policy(tmp_path, "kind: reader\nmin_questions: 50\nfloors:\n  mrr: {at_least: 0.1}\n"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("kind: reader\n", "must say min_questions"),
        ("kind: [reader", "is not YAML"),
        ("- f1\n", "the policy must be a mapping"),
        ("kind: generator\nmin_questions: 9\n", "kind must be reader or retriever"),
        ("kind: reader\nmin_questions: 9\n", "asks for nothing"),
        ("kind: reader\nmin_questions: 0\nfloors: {f1: {at_least: 1}}\n", "min_questions must be a whole number from 1 on"),
        ("kind: reader\nmin_questions: 9\nfloor: {f1: {at_least: 1}}\n", "does not know floor: it takes floors,"),
        ("kind: reader\nmin_questions: 9\nfloors: {f2: {at_least: 1}}\n", "floors does not know f2"),
        ("kind: reader\nmin_questions: 9\nfloors: {f1: {at_least: 1, at_most: 2}}\n", "floors.f1 takes either at_least or at_most"),
        ("kind: reader\nmin_questions: 9\nfloors: {f1: {at_least: .nan}}\n", "floors.f1.at_least must be a number"),
        ("kind: reader\nmin_questions: 9\noverall: {f1: {max_regresion: 1}}\n", "overall.f1 does not know max_regresion"),
        ("kind: reader\nmin_questions: 9\noverall: {f1: {max_regression: -1}}\n", "overall.f1.max_regression must be 0 or more"),
        ("kind: reader\nmin_questions: 9\noverall: {f1: {max_regression: 1, refuse: often}}\n", "overall.f1.refuse must be unless_shown_safe or"),
        ("kind: reader\nmin_questions: 9\nprotected: {slice: format}\n", "protected must be a list"),
        ("kind: reader\nmin_questions: 9\nprotected: [{slice: format, metric: f1, max_regression: 1}]\n", "protected[0] must say min_questions"),
        ("kind: reader\nmin_questions: 9\nprotected: [{slice: 3, metric: f1, max_regression: 1, min_questions: 9}]\n", "protected[0].slice must be"),
        ("kind: reader\nmin_questions: 9\nrequire_improvement: [f1]\n", "require_improvement must be one of"),
    ],
)
def test_a_malformed_policy_is_refused_with_the_entry(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(PolicyError) as caught:
        policy(tmp_path, text)
    assert str(caught.value).startswith("policy policy.yaml")
    assert problem in str(caught.value)


def test_a_policy_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="cannot be read"):
        load_policy(tmp_path / "none.yaml")


@pytest.mark.parametrize("kind", ["reader", "retriever"])
def test_the_policies_of_the_repository_are_valid(kind: str) -> None:
    assert load_policy(POLICIES / f"{kind}.yaml").kind == kind
