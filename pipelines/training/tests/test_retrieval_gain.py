"""The gain is measured on documents never trained on, with intervals that mean what they say."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from quarry_training import retrieval_gain, squad
from quarry_training.passages import passage
from quarry_training.retrieval_gain import METRICS, Task, first_ranks, interval, make_task

from .coded import dpr_examples, squad_examples


def test_train_and_held_out_share_no_document_and_all_are_searched() -> None:
    task = make_task(squad_examples())
    assert task.train and task.test
    assert not {e.document for e in task.train} & {e.document for e in task.test}
    positives = {c for e in [*task.train, *task.test] for c in e.positives}
    assert positives == set(task.passages)
    held_out = {c for e in task.test for c in e.positives}
    assert not held_out & {c for e in task.train for c in (*e.positives, *e.hard_negatives)}


def test_the_rank_is_that_of_the_first_passage_that_answers() -> None:
    passages = [passage("", text) for text in "abcd"]
    base = dpr_examples()[0]
    questions = [base.__class__("q", ("x",), (passages[i],) if i < 3 else (passages[0], passages[3]), (), "d") for i in range(4)]
    order = np.array([2, 1, 3, 0])
    ranks = first_ranks(Task([], questions, passages), [order] * 4)
    assert ranks.tolist() == [4, 2, 1, 3]
    assert METRICS["mrr"](ranks).tolist() == [1 / 4, 1 / 2, 1, 1 / 3]
    assert METRICS["recall_at_5"](np.array([5, 6])).tolist() == [1, 0]
    assert METRICS["recall_at_20"](np.array([20, 21])).tolist() == [1, 0]


def test_intervals_against_theory() -> None:
    rng = np.random.default_rng(1)
    differences = rng.normal(0.1, 1, 400)
    low, high = interval(differences, [str(i) for i in range(400)])
    half = 1.96 * differences.std() / 20
    assert (low, high) == pytest.approx((differences.mean() - half, differences.mean() + half), abs=0.01)
    alike = np.repeat(rng.normal(0.1, 1, 40), 10)  # ten questions on each document, all the same: 40 facts, not 400
    low, high = interval(alike, [str(i // 10) for i in range(400)])
    assert high - low == pytest.approx(2 * 1.96 * alike.std() / np.sqrt(40), rel=0.1)
    assert interval(np.full(9, 0.25), list("aaabbbccc")) == (0.25, 0.25)


def test_the_command_measures_prints_and_draws(tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    squad.dump(squad_examples(), tmp_path / "data.json")
    options = ["--data", str(tmp_path / "data.json"), "--out", str(tmp_path / "out"), "--base", str(tiny_encoder)]
    monkeypatch.setattr(sys, "argv", ["gain", *options, "--learning-rate", "3e-3", "--epochs", "40", "--batch-size", "6"])
    retrieval_gain.main()
    printed = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "out" / "gain.json").read_text()).items() <= printed.items()
    scores, gains = printed["scores"], printed["trained_over_base"]
    assert scores["trained"]["mrr"] > scores["base"]["mrr"]
    for metric in METRICS:
        assert gains[metric]["gain"] == pytest.approx(scores["trained"][metric] - scores["base"][metric])
        for kind in ("over_questions", "over_documents"):
            assert gains[metric][kind][0] <= gains[metric]["gain"] <= gains[metric][kind][1]
    assert printed["passages_searched"] == 27
    assert (tmp_path / "out" / retrieval_gain.PLOT).read_bytes().startswith(b"\x89PNG")


def test_one_document_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squad.dump(squad_examples()[:1], tmp_path / "data.json")
    monkeypatch.setattr(sys, "argv", ["gain", "--data", str(tmp_path / "data.json"), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="gain not measured: too few documents"):
        retrieval_gain.main()
    assert not (tmp_path / "out").exists()
