"""The check as the pipeline calls it: exit code, message, files."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from quarry_training import check, dpr_data, squad
from quarry_training.squad import Example

TOPICS = ["bridge", "tunnel", "harbour", "tower", "station", "library", "market", "mill"]


def examples(topics: list[str]) -> list[Example]:
    made = []
    for topic in topics:
        context = f"The {topic} was built by {topic}smith in the year of the great {topic} flood, says the book of {topic}s on page {len(topic)}."
        made += [
            Example(f"{topic}-who", topic, f"Who built the {topic}?", context, ((f"{topic}smith", context.index(f"{topic}smith")),)),
            Example(f"{topic}-why", topic, f"Why was the {topic} built?", context, ()),
        ]
    return made


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> str | None:
    """What the command ends with: None, or the message of its failure."""
    monkeypatch.setattr(sys, "argv", ["check", *map(str, arguments)])
    try:
        check.main()
    except SystemExit as error:
        return str(error)
    return None


def test_a_file_is_split_by_document_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squad.dump([replace(e, heading=f"Book > {e.title}") for e in examples(TOPICS)], tmp_path / "x.json")
    assert run(monkeypatch, "--data", tmp_path / "x.json", "--out", tmp_path / "out", "--held-out-percent", 30) is None
    train, dev = (squad.load(tmp_path / "out" / f"{name}.json") for name in ("train", "dev"))
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {e.title for e in train}.isdisjoint(e.title for e in dev)
    assert (report["train"], report["dev"], report["examples"], report["unanswerable"]) == (len(train), len(dev), 16, 8)
    assert report["digest"] == squad.digest(train + dev)
    assert all(e.heading == f"Book > {e.title}" for e in train + dev)
    assert report["leaks"] == {"questions": 0, "counts": {}, "pairs": {}}


def test_a_held_out_file_that_training_has_seen_is_refused_with_ids_and_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, dev = examples(TOPICS[:5]), examples(TOPICS[5:])
    dev += [replace(train[0], id="copied", question="Who made it?"), replace(train[2], id="around", context=f"{train[2].context} It is old.")]
    squad.dump(train, tmp_path / "train.json")
    squad.dump(dev, tmp_path / "dev.json")
    options = ["--data", tmp_path / "train.json", "--dev", tmp_path / "dev.json", "--out", tmp_path / "out"]
    said = run(monkeypatch, *options)
    assert said is not None and "training has seen 2 of 8 held-out questions" in said
    report = (tmp_path / "out" / "report.json").read_text()
    assert json.loads(report)["ids"]["near_context"] == ["tunnel-who -> around"]
    assert "smith" not in report and not (tmp_path / "out" / "train.json").exists()
    assert run(monkeypatch, *options, "--max-leaked", 0.25) is None


def test_the_same_question_and_answer_on_both_sides_leaves_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [replace(e, question="Who found it?", context=f"{e.context} Ben.", answers=(("Ben", len(e.context) + 1),)) for e in examples(TOPICS)[::2]]
    squad.dump(examples(TOPICS) + [replace(e, id=f"{e.id}-again") for e in asked], tmp_path / "x.json")
    assert run(monkeypatch, "--data", tmp_path / "x.json", "--out", tmp_path / "out", "--held-out-percent", 30) is None
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["dropped"]["asked_in_held_out"] + sum(e.question == "Who found it?" for e in squad.load(tmp_path / "out" / "dev.json")) == len(TOPICS)


def million(tmp_path: Path) -> None:
    long = [Example(str(i), "", f"Who {i}?", f"{i} " + "Anna laid it. " * 72_000, (("Anna", 2),)) for i in range(2)]
    squad.dump(long, tmp_path / "x.json")


REFUSED = {
    "malformed": (lambda p: (p / "x.json").write_text('{"data": ['), "not a SQuAD file"),
    "empty": (lambda p: (p / "x.json").write_text(""), "not a SQuAD file"),
    "no questions": (lambda p: (p / "x.json").write_text('{"data": []}'), "no question at all"),
    "missing": (lambda p: None, "No such file"),
    "one example": (lambda p: squad.dump(examples(TOPICS)[:1], p / "x.json"), "too few documents"),
    "all unanswerable": (lambda p: squad.dump(examples(TOPICS)[1::2], p / "x.json"), "has an answer"),
    "two million characters": (million, "context_too_long"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_files_are_refused_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    write, reason = REFUSED[case]
    write(tmp_path)
    said = run(monkeypatch, "--data", tmp_path / "x.json", "--out", tmp_path / "out")
    assert said is not None and said.startswith("dataset refused: ") and reason in said
    assert not (tmp_path / "out" / "train.json").exists()


def test_the_command_fails_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    command = [sys.executable, "-m", "quarry_training.check", "--data", str(tmp_path / "x.json"), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("dataset refused: x.json: not a SQuAD file") and "Traceback" not in done.stderr


def test_from_squad_to_a_checked_dpr_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squad.dump(examples(TOPICS), tmp_path / "x.json")
    assert run(monkeypatch, "--data", tmp_path / "x.json", "--out", tmp_path / "checked", "--held-out-percent", 40) is None
    report = dpr_data.convert(tmp_path / "checked", tmp_path / "dpr", negatives=2, max_words=150)
    assert report["squad_digest"] == json.loads((tmp_path / "checked" / "report.json").read_text())["digest"]
    assert report["passages"] == report["train"] + report["dev"] == len(TOPICS)
    data = ["--data", tmp_path / "dpr" / "train.json", "--dev", tmp_path / "dpr" / "dev.json"]
    assert run(monkeypatch, *data, "--out", tmp_path / "again", "--layout", "dpr") is None
    assert dpr_data.load(tmp_path / "again" / "train.json") == dpr_data.load(tmp_path / "dpr" / "train.json")
    leaking = run(monkeypatch, *data[:2], "--dev", data[1], "--out", tmp_path / "leak", "--layout", "dpr")
    assert leaking is not None and "training has seen" in leaking
