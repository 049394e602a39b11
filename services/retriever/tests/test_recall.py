"""The recall of an index, measured by the command on real artefacts."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .forked import forked
from .making import DOCUMENTS, make_index

GOOD = [("crane.md", "At what wind speed does the crane stop work?"), ("nowhere.md", "crane wind speed")]


def squad(path: Path, asked: list[tuple[str, str]]) -> Path:
    answer = [{"text": "x", "answer_start": 0}]
    unanswerable = {"question": "What is not there?", "answers": [], "is_impossible": True}
    data: list[Any] = [{"title": t, "paragraphs": [{"context": "x", "qas": [{"question": q, "answers": answer}, unanswerable]}]} for t, q in asked]
    path.write_text(json.dumps({"data": data}))
    return path


def recall(questions: Path, index: Path, model: Path, *more: str) -> subprocess.CompletedProcess[str]:
    arguments = [str(questions), "--index", str(index), "--model-dir", str(model), *more]
    process = forked("quarry_retriever.recall", *arguments, folder=questions.parent)
    process.join(120)
    assert process.exitcode is not None
    out, err = ((questions.parent / name).read_text() for name in ("out", "err"))
    return subprocess.CompletedProcess(arguments, process.exitcode, out, err)


def test_the_share_of_questions_whose_document_is_found_and_the_floor(tmp_path: Path, index_dir: Path, model_dir: Path) -> None:
    asked = squad(tmp_path / "q.json", GOOD)
    done = recall(asked, index_dir, model_dir, "--floor", "0.5")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert {k: report[k] for k in ("asked", "recall", "missing")} == {"asked": 2, "recall": 0.5, "missing": ["nowhere.md"]}
    assert recall(asked, index_dir, model_dir, "--floor", "0.51").returncode == 1


def test_hidden_documents_are_found_by_their_principals_only(tmp_path: Path, model_dir: Path) -> None:
    hidden = DOCUMENTS[0].__class__(**{**DOCUMENTS[0].__dict__, "principals": ("group:site",)})
    (tmp_path / "index").mkdir()
    index = make_index(tmp_path / "index", model_dir, (hidden, *DOCUMENTS[1:]))
    asked = squad(tmp_path / "q.json", GOOD[:1])
    assert recall(asked, index, model_dir).returncode == 1
    assert recall(asked, index, model_dir, "--principals", "group:site").returncode == 0


@pytest.mark.parametrize("content", [None, "{}", '{"data": []}'])
def test_what_cannot_be_measured_is_no_low_recall(tmp_path: Path, index_dir: Path, model_dir: Path, content: str | None) -> None:
    questions = tmp_path / "q.json"
    if content:
        questions.write_text(content)
    done = recall(questions, index_dir, model_dir)
    assert (done.returncode, "recall not measured" in done.stderr, "Traceback" in done.stderr) == (2, True, False)
