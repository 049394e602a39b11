"""Calibrate, evaluate and gate with a real tiny reader: trained here, exported, and damaged for one kind of question."""

import json
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper
from quarry_contract.manifests import MODEL_MANIFEST, Calibration, ModelManifest, digest_file, read_manifest, write_manifest

from quarry_training import calibrate, evaluate, gate, squad
from quarry_training.features import load_tokenizer
from quarry_training.squad import Example

from .conftest import WORDS, facts

POLICY = """
kind: reader
min_questions: 50
overall:
  f1: {max_regression: 40.0}
protected:
  - {slice: question_word, metric: answerable_f1, max_regression: 5.0, min_questions: 20, refuse: when_shown_worse}
"""


@dataclass(frozen=True)
class World:
    model: Path
    good: Path
    damaged: Path
    data: Path
    policy: Path


@pytest.fixture(scope="module")
def world(trained_reader: Path, artefacts: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    home = tmp_path_factory.mktemp("gate")
    made = World(trained_reader, *(home / name for name in ("good", "damaged", "set.json", "policy.yaml")))
    squad.dump(facts(108), made.data)
    made.policy.write_text(POLICY)
    shutil.copytree(artefacts / "reader", made.good)
    manifest = read_manifest(made.good / MODEL_MANIFEST, ModelManifest)
    write_manifest(made.good / MODEL_MANIFEST, replace(manifest, calibration=Calibration(0.5, 0.0, 0.3), data_digest="t" * 64))
    _damage(made)
    return made


def _damage(made: World) -> None:
    """Make it read "when" as "who", and the builder of the buildings that "when" is asked of as the one that "who" is asked of."""
    shutil.copytree(made.good, made.damaged)
    graph = onnx.load(str(made.damaged / "model.onnx"))
    tokenizer = load_tokenizer(made.model)
    weights = [w for w in graph.graph.initializer if list(w.dims) == [tokenizer.get_vocab_size(), 32]]
    assert len(weights) == 1
    embedding = numpy_helper.to_array(weights[0]).copy()
    for word, other in (("when", "who"), ("cara", "anna")):
        embedding[tokenizer.token_to_id(word)] = embedding[tokenizer.token_to_id(other)]
    weights[0].CopyFrom(numpy_helper.from_array(embedding, weights[0].name))
    onnx.save(graph, str(made.damaged / "model.onnx"))
    manifest = read_manifest(made.good / MODEL_MANIFEST, ModelManifest)
    files = manifest.files | {"model.onnx": digest_file(made.damaged / "model.onnx")}
    write_manifest(made.damaged / MODEL_MANIFEST, replace(manifest, files=files))


def command(monkeypatch: pytest.MonkeyPatch, challenger: Path, champion: Path, data: Path, policy: Path, out: Path) -> int:
    options = {"challenger": challenger, "champion": champion, "data": data, "policy": policy, "out": out}
    monkeypatch.setattr(sys, "argv", ["gate", *(str(x) for name, value in options.items() for x in (f"--{name}", value))])
    with pytest.raises(SystemExit) as ended:
        gate.main()
    return int(str(ended.value.code))


def test_a_damaged_candidate_is_refused_and_the_slice_named(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, world.damaged, world.good, world.data, world.policy, tmp_path) == 1
    said = capsys.readouterr().out
    assert said.startswith("refused\n")
    assert "refused: answerable_f1 in slice question_word=when" in said
    written = json.loads((tmp_path / "gate.json").read_text())
    assert written["verdict"] == "refused"
    refused = [f for f in written["findings"] if f["status"] == "refused"]
    assert [f["slice"] for f in refused] == ["question_word=when"]
    assert refused[0]["interval"][1] < 0
    report = (tmp_path / "report.md").read_text()
    assert "slice question_word=when | answerable_f1 | **refused**" in report
    for plot in ("differences.png", "reliability.png", "risk-coverage.png"):
        assert f"({plot})" in report
        assert (tmp_path / plot).read_bytes().startswith(b"\x89PNG")


def test_the_better_one_passes(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(monkeypatch, world.good, world.damaged, world.data, world.policy, tmp_path) == 0
    assert capsys.readouterr().out.startswith("passed\n")
    written = json.loads((tmp_path / "gate.json").read_text())
    assert (written["verdict"], written["reasons"]) == ("passed", [])
    assert next(f["difference"] for f in written["findings"] if f["slice"] == "question_word=when") > 30


def test_what_cannot_be_judged_leaves_no_verdict(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(world.good, broken)
    (broken / "tokenizer.json").write_text("{}")
    out = tmp_path / "out"
    out.mkdir()
    (out / "gate.json").write_text('{"verdict": "passed"}')
    assert command(monkeypatch, broken, world.good, world.data, world.policy, out) == 2
    assert "could not judge: tokenizer.json does not have the digest" in capsys.readouterr().err
    assert not (out / "gate.json").exists()
    assert command(monkeypatch, world.good, world.good, tmp_path / "none.json", world.policy, out) == 2
    assert command(monkeypatch, Path("models:/reader/1"), world.good, world.data, world.policy, out) == 2
    assert "say where to with --home" in capsys.readouterr().err


def test_every_question_has_its_result_and_no_text_leaks(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--artefact", world.good, "--data", world.data, "--passages", "8", "--out", tmp_path / "evaluation.json"]
    monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, options)])
    evaluate.main()
    summary = json.loads((tmp_path / "evaluation.json").read_text())
    lines = (tmp_path / "evaluation-questions.jsonl").read_text()
    rows = [json.loads(line) for line in lines.splitlines()]
    assert len(rows) == summary["questions"] == len(evaluate.load_set(world.data).examples)
    assert summary["slices"]["question_word=when"]["questions"] == sum(row["slices"]["question_word"] == "when" for row in rows)
    assert all(row["tokens"] > 8 * 10 for row in rows)
    assert {"f1", "exact_match", "ece", "ece_low", "wrong_among_answered", "mrr", "p95_ms", "abstention_recall"} <= summary.keys()
    assert 100 * sum(row["values"]["f1"] for row in rows) / len(rows) == pytest.approx(summary["f1"])
    assert not any(f" {word} " in lines for word in ("anna", "leeds", "built"))


def test_the_check_measures_an_exported_reader(world: World) -> None:
    found = calibrate.check(world.good, world.data, 0.1)
    low, high = found["interval"]
    assert found["questions"] == len(evaluate.load_set(world.data).examples)
    assert low <= found["wrong_among_answered"] <= high
    assert found["holds"] == (low <= 0.1)
    assert calibrate.check(world.good, world.data, 0.999)["holds"]
    assert found["ece_interval"][0] <= found["ece_interval"][1]


def test_the_check_refuses_what_the_reader_was_trained_on(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.good, tmp_path / "same")
    manifest = read_manifest(world.good / MODEL_MANIFEST, ModelManifest)
    write_manifest(tmp_path / "same" / MODEL_MANIFEST, replace(manifest, data_digest=evaluate.load_set(world.data).digest))
    with pytest.raises(squad.DatasetError, match="what the reader was trained on"):
        calibrate.check(tmp_path / "same", world.data, 0.1)


def test_what_cannot_be_calibrated_is_said_and_nothing_written(tiny_reader: Path, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squad.dump([e for e in facts(40) if not e.answers], tmp_path / "unanswerable.json")
    for data, problem in ((tmp_path / "unanswerable.json", "needs right and wrong answers"), (world.policy, "not a SQuAD file")):
        options = ["--model", tiny_reader, "--data", data, "--max-wrong", "0.1", "--out", tmp_path / "out"]
        monkeypatch.setattr(sys, "argv", ["calibrate", *map(str, options)])
        with pytest.raises(SystemExit, match=f"not calibrated: .*{problem}"):
            calibrate.main()
    assert not (tmp_path / "out").exists()


def test_a_retriever_is_measured_by_the_rank_of_the_passage_that_holds_the_answer(artefacts: Path, tmp_path: Path) -> None:
    """Asked in a context's own words, any encoder puts it first; of a context longer than the encoder reads, only the window with the answer counts."""
    short = [f"{a} built the {b} in {c} ." for a in ("anna", "ben") for b in ("bridge", "wall") for c in ("dover", "leeds", "york")]
    long = " ".join(WORDS[:20] * 12) + " cara"
    examples = [Example(str(i), "", text, text, ((text.split()[0], 0),)) for i, text in enumerate(short)]
    examples += [Example("long", "", long, long, (("cara", len(long) - 4),)), Example("none", "", "who laid stone", short[0], ())]
    squad.dump(examples, tmp_path / "set.json")
    found = evaluate.evaluate(artefacts / "retriever", evaluate.load_set(tmp_path / "set.json"))
    ranks = {row.id: row.values.get("reciprocal_rank") for row in found.rows}
    assert [ranks[str(i)] for i in range(len(short))] == [1.0] * len(short)
    assert ranks["long"] is not None
    assert 0 < ranks["long"] < 1  # asked in the words of the first window, which does not hold the answer
    assert ranks["none"] is None
    assert found.summary["recall_at_1"] == pytest.approx(12 / 13)
