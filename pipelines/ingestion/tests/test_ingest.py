"""A folder to an index generation, with a tiny real encoder."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from quarry_contract.manifests import INDEX_MANIFEST, IndexManifest, read_manifest, verify_files
from quarry_contract.releases import index_pointer
from quarry_runtime import tiny
from quarry_runtime.encode import Encoder

from quarry_ingestion.extract import Limits, read
from quarry_ingestion.sources import only_one

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    tiny.encoder(folder, ["crane", "pile", "wall", "wind"])
    return folder


def run(folder: Path | str, home: Path, model: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "quarry_ingestion", str(folder), "--home", str(home), "--model-dir", str(model)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)


def report(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "docs"
    (made / "sub").mkdir(parents=True)
    (made / "a.md").write_text("# Cranes\n\nThe crane stops in wind. 🏗")
    (made / "sub" / "b.txt").write_text("The wall stands.")
    (made / "bad.pdf").write_bytes(b"%PDF-1.7 nothing")
    (made / ".hidden.txt").write_text("not this")
    return made


def test_a_folder_becomes_a_generation_and_bad_files_do_not_stop_it(folder: Path, tmp_path: Path, model: Path) -> None:
    found = report(run(folder, tmp_path / "home", model))
    assert (found["documents"], found["passages"]) == (2, 2)
    assert [(s["source"], s["code"]) for s in found["skipped"]] == [("bad.pdf", "damaged")]
    index = tmp_path / "home" / "index" / found["generation"]
    manifest = read_manifest(index / INDEX_MANIFEST, IndexManifest)
    verify_files(index, manifest.files)
    encoder = Encoder.load(model)
    assert manifest.encoder_digest == encoder.manifest.digest
    assert index_pointer(tmp_path / "home", encoder.manifest.digest).read_text() == found["generation"]
    assert np.abs(encoder.encode([manifest.canary_text])[0] - np.array(manifest.canary_vector)).max() < 1e-5
    with sqlite3.connect(index / "passages.db") as database:
        rows = database.execute("SELECT p.start, p.end, p.text, d.text, d.document_id FROM passages p JOIN documents d USING (document_id)").fetchall()
    assert all(text[a:b] == words for a, b, words, text, _ in rows)
    assert [r[4] for r in rows] == ["a.md", "sub/b.txt"]
    dense = faiss.read_index(str(index / "dense.faiss"))
    expected = encoder.encode(["Cranes. " + rows[0][2], "b. " + rows[1][2]])
    assert np.abs(dense.reconstruct_n(0, 2) - expected).max() < 1e-5


def test_the_same_bytes_again_are_no_work_and_a_change_is_a_new_generation(folder: Path, tmp_path: Path, model: Path) -> None:
    first = report(run(folder, tmp_path / "home", model))
    built = (tmp_path / "home" / "index" / first["generation"] / INDEX_MANIFEST).stat().st_mtime_ns
    again = report(run(folder, tmp_path / "home", model))
    assert again["generation"] == first["generation"]
    assert "passages" not in again
    assert (tmp_path / "home" / "index" / first["generation"] / INDEX_MANIFEST).stat().st_mtime_ns == built
    (folder / "a.md").write_text("# Cranes\n\nAnother text.")
    assert report(run(folder, tmp_path / "home", model))["generation"] != first["generation"]


def test_a_second_folder_joins_the_first(folder: Path, tmp_path: Path, model: Path) -> None:
    report(run(folder, tmp_path / "home", model))
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.md").write_text("The same name, another document.")
    found = report(run(other, tmp_path / "home", model))
    assert found["documents"] == 3
    with sqlite3.connect(tmp_path / "home" / "index" / found["generation"] / "passages.db") as database:
        names = {row[0] for row in database.execute("SELECT document_id FROM documents")}
    assert names == {"a.md", "sub/b.txt", "other/a.md"}


def test_names_are_stable_and_never_collide(tmp_path: Path, model: Path) -> None:
    roots = [tmp_path / x / "docs" for x in "abc"]
    for root in roots:
        root.mkdir(parents=True)
        (root / "a.txt").write_text(f"The document of {root}.")
        found = report(run(root, tmp_path / "home", model))
    (again,) = {report(run(root, tmp_path / "home", model))["generation"] for root in roots}
    assert again == found["generation"]
    with sqlite3.connect(tmp_path / "home" / "index" / again / "passages.db") as database:
        rows = database.execute("SELECT document_id, text FROM documents ORDER BY 1").fetchall()
    assert rows == [("a.txt", f"The document of {roots[0]}."), ("docs-2/a.txt", f"The document of {roots[2]}."), ("docs/a.txt", f"The document of {roots[1]}.")]


def test_a_file_name_that_is_not_utf8_and_text_without_tokens(tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.txt")).write_text("The crane of the café.")
    (folder / "invisible.txt").write_text("\u200b")
    found = report(run(folder, tmp_path / "home", model))
    assert (found["documents"], found["skipped"]) == (2, [])
    with sqlite3.connect(tmp_path / "home" / "index" / found["generation"] / "passages.db") as database:
        assert database.execute("SELECT document_id FROM documents ORDER BY 1").fetchall() == [("caf\\xe9.txt",), ("invisible.txt",)]


def test_two_at_once_do_not_write_into_each_other(folder: Path, tmp_path: Path, model: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with only_one(home):
        done = run(folder, home, model)
    assert (done.returncode, "another ingest" in done.stderr) == (2, True)
    assert not (home / "index").exists()
    report(run(folder, home, model))


def test_what_cannot_work_is_told_without_a_traceback(tmp_path: Path, model: Path, folder: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    only_bad = tmp_path / "bad"
    only_bad.mkdir()
    (only_bad / "x.pdf").write_bytes(b"%PDF-")
    for target, artefact, says in (
        (tmp_path / "nowhere", model, "is not a folder"),
        ("s3://bucket/prefix", model, "s3:// prefixes are not read yet"),
        (empty, model, "holds no files"),
        (only_bad, model, "no readable document"),
        (folder, tmp_path, "model.json cannot be read"),
        (folder, model, "Not a directory"),
    ):
        home = folder / "a.md" / "h" if says == "Not a directory" else tmp_path / "h"
        done = run(target, home, artefact)
        assert done.returncode == 2
        assert says in done.stderr
        assert "Traceback" not in done.stderr


# --- the sample corpus ---


def load(split: str) -> list[dict[str, Any]]:
    return list(json.loads((EXAMPLES / "questions" / f"{split}.json").read_text(encoding="utf-8"))["data"])


def test_the_sample_corpus_is_what_its_readme_says() -> None:
    texts = {p.name: read(p.read_bytes(), p.name, Limits()) for p in sorted((EXAMPLES / "documents").iterdir())}
    assert len(texts) >= 30
    assert sum(len(d.text.split()) for d in texts.values()) >= 25_000
    assert {p.rsplit(".", 1)[-1] for p in texts} == {"md", "txt", "html", "pdf", "docx"}
    assert sum(len(d.pages) >= 10 for d in texts.values()) >= 2
    titles = [{a["title"] for a in load(split)} for split in ("train", "dev", "test")]
    assert not (titles[0] & titles[1] or titles[0] & titles[2] or titles[1] & titles[2]), "split by document"
    questions = answerable = 0
    for split in ("train", "dev", "test"):
        for article in load(split):
            for paragraph in article["paragraphs"]:
                assert paragraph["context"] in texts[article["title"]].text
                for qa in paragraph["qas"]:
                    questions += 1
                    answerable += not qa["is_impossible"]
                    for answer in qa["answers"]:
                        start = answer["answer_start"]
                        assert paragraph["context"][start : start + len(answer["text"])] == answer["text"]
    assert questions >= 400
    assert questions - answerable >= 100


def test_the_sample_corpus_is_what_its_script_builds(tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "examples"
    shutil.copytree(EXAMPLES, copy)
    subprocess.run([sys.executable, str(copy / "build.py")], check=True, capture_output=True)
    for folder in ("documents", "questions"):
        for path in sorted((EXAMPLES / folder).iterdir()):
            assert (copy / folder / path.name).read_bytes() == path.read_bytes(), path.name
