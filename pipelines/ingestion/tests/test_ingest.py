"""A folder to an index that is changed in place, with a tiny real encoder."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quarry_contract.index_store import INDEX_DATABASE, SCHEMA_VERSION, connect
from quarry_contract.manifests import INDEX_MANIFEST, MODEL_MANIFEST, IndexManifest, ModelManifest, generation_name, read_manifest
from quarry_contract.releases import index_dir
from quarry_runtime import tiny
from quarry_runtime.encode import Encoder

from quarry_ingestion.chunk import CHUNKER
from quarry_ingestion.extract import Limits, read
from quarry_ingestion.locks import only_one
from quarry_ingestion.sources import Folder, listing

from . import forked

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    tiny.encoder(folder, ["crane", "pile", "wall", "wind"])
    return folder


def command(*arguments: object, prefix: Sequence[str] = ()) -> "subprocess.CompletedProcess[str]":
    if not prefix:
        return forked.run("quarry_ingestion", *arguments)
    whole = [*prefix, sys.executable, "-m", "quarry_ingestion", *map(str, arguments)]
    return subprocess.run(whole, capture_output=True, text=True, check=False, env=os.environ)


def run(source: Path | str, home: Path, model: Path, prefix: Sequence[str] = ()) -> "subprocess.CompletedProcess[str]":
    return command(source, "--home", home, "--model-dir", model, prefix=prefix)


def report(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def rows(home: Path, generation: str, query: str) -> list[tuple[Any, ...]]:
    database = connect(index_dir(home, generation) / INDEX_DATABASE)
    try:
        return database.execute(query).fetchall()
    finally:
        database.close()


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
    home = tmp_path / "home"
    found = report(run(folder, home, model))
    assert [found[name] for name in ("revision", "documents", "passages", "words", "encoded")] == [2, 2, 2, 10, 2]
    assert [found[name] for name in ("added", "updated", "removed", "unchanged")] == [2, 0, 0, 0]
    assert [(s["source"], s["code"]) for s in found["skipped"]] == [("bad.pdf", "damaged")]
    manifest = read_manifest(home / "index" / found["generation"] / INDEX_MANIFEST, IndexManifest)
    encoder = Encoder.load(model)
    assert manifest.generation == found["generation"] == generation_name(encoder.manifest.digest, CHUNKER, SCHEMA_VERSION)
    assert (manifest.encoder_digest, manifest.dimension) == (encoder.manifest.digest, encoder.manifest.dimension)
    assert json.loads((home / "index" / "targets.json").read_text()) == [
        {"generation": found["generation"], "model_dir": str(home / "encoders" / read_manifest(model / MODEL_MANIFEST, ModelManifest).digest)}
    ]
    assert np.abs(encoder.encode([manifest.canary_text])[0] - np.array(manifest.canary_vector)).max() < 1e-5
    query = """SELECT p.start, p."end", p.text, d.text, d.document_id, d.source, v.vector, d.principals
               FROM passages p JOIN documents d USING (document_id) JOIN vectors v USING (row) ORDER BY 5"""
    passages = rows(home, found["generation"], query)
    assert all(text[a:b] == words for a, b, words, text, *_ in passages)
    assert [r[4:6] for r in passages] == [("a.md", "a.md"), ("sub/b.txt", "sub/b.txt")]
    assert {r[7] for r in passages} == {'["*"]'}
    expected = [encoder.encode([text])[0].tobytes() for text in ("Cranes. " + passages[0][2], "b. " + passages[1][2])]
    assert [r[6] for r in passages] == expected


def test_only_what_changed_is_read_and_encoded(folder: Path, tmp_path: Path, model: Path) -> None:
    home = tmp_path / "home"
    first = report(run(folder, home, model))
    assert (report(run(folder, home, model)) | {"seconds": 0}) == first | {"encoded": 0, "added": 0, "unchanged": 2, "seconds": 0}
    (folder / "a.md").write_text("# Cranes\n\nAnother text.")
    os.utime(folder / "sub" / "b.txt")  # looks changed, is not
    kept = rows(home, first["generation"], "SELECT row, revision FROM passages WHERE document_id = 'sub/b.txt'")
    changed = report(run(folder, home, model))
    assert [changed[name] for name in ("generation", "revision", "encoded", "updated", "unchanged")] == [first["generation"], 3, 1, 1, 1]
    assert rows(home, first["generation"], "SELECT row, revision FROM passages WHERE document_id = 'sub/b.txt'") == kept
    assert rows(home, first["generation"], "SELECT text FROM passages WHERE document_id = 'a.md'") == [("Cranes\n\nAnother text.",)]
    assert rows(home, first["generation"], "SELECT row, revision FROM removed") == [(1, 3)]


def test_what_vanished_or_cannot_be_read_any_more_is_removed(folder: Path, tmp_path: Path, model: Path) -> None:
    home = tmp_path / "home"
    report(run(folder, home, model))
    (folder / "sub" / "b.txt").unlink()
    (folder / "a.md").write_bytes(b"%PDF-1.7 broken now")
    (folder / "c.txt").write_text("The pile.")
    found = report(run(folder, home, model))
    assert [found[name] for name in ("documents", "added", "removed")] == [1, 1, 2]
    assert {s["source"] for s in found["skipped"]} == {"a.md", "bad.pdf"}
    for query in ("SELECT document_id FROM documents", "SELECT DISTINCT document_id FROM passages"):
        assert rows(home, found["generation"], query) == [("c.txt",)]
    assert rows(home, found["generation"], "SELECT count(*) FROM vectors") == [(1,)]
    (folder / "c.txt").unlink()
    (folder / "a.md").unlink()
    (folder / "bad.pdf").unlink()
    assert report(run(folder, home, model))["documents"] == 0


def test_a_folder_that_may_not_be_listed_loses_no_documents(folder: Path, tmp_path: Path, model: Path) -> None:
    """As root, without the right to pass over permissions."""
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("root may read everything, and there is no setpriv")
    home = tmp_path / "home"
    report(run(folder, home, model))
    (folder / "sub").chmod(0)
    (folder / "a.md").unlink()
    found = report(run(folder, home, model, prefix=("setpriv", "--bounding-set", "-dac_override,-dac_read_search") if os.geteuid() == 0 else ()))
    (folder / "sub").chmod(0o755)
    assert [found[name] for name in ("documents", "removed")] == [2, 0]
    assert ("sub", "unlisted") in [(s["source"], s["code"]) for s in found["skipped"]]
    assert report(run(folder, home, model))["documents"] == 1


def test_a_folder_that_is_gone_loses_no_documents(folder: Path, tmp_path: Path, model: Path) -> None:
    home = tmp_path / "home"
    generation = report(run(folder, home, model))["generation"]
    folder.rename(tmp_path / "away")
    assert run(folder, home, model).returncode == 2
    assert rows(home, generation, "SELECT count(*) FROM documents") == [(2,)]


def test_principals_come_from_the_nearest_rule_and_a_change_of_them_encodes_nothing(folder: Path, tmp_path: Path, model: Path) -> None:
    home = tmp_path / "home"
    (folder / ".quarry.json").write_text('{"principals": {"*": ["group:site", "user:jo"], "*.md": ["group:éditeurs", "group:éditeurs"]}}')
    (folder / "sub" / ".quarry.json").write_text('{"principals": {"x*": ["user:x"]}}')
    (folder / "sub" / "x.txt").write_text("The wind.")
    first = report(run(folder, home, model))
    query = "SELECT document_id, principals FROM documents ORDER BY 1"
    expected = [("a.md", '["group:éditeurs"]'), ("sub/b.txt", '["group:site", "user:jo"]'), ("sub/x.txt", '["user:x"]')]
    assert rows(home, first["generation"], query) == expected
    (folder / "sub" / ".quarry.json").write_text('{"principals": {"*": []}}')
    second = report(run(folder, home, model))
    assert [second[name] for name in ("revision", "updated", "encoded")] == [first["revision"] + 2, 2, 0]
    assert [r[1] for r in rows(home, first["generation"], query)] == ['["group:éditeurs"]', "[]", "[]"]
    digest = report(command("--digest", "--home", home))
    assert digest == report(command("--digest", "--home", fresh(tmp_path, folder, model))), "set or put, it is written alike"
    for wrong in ("{", '{"principals": {"*": "everyone"}}', '{"principals": ["*"]}'):
        (folder / "sub" / ".quarry.json").write_text(wrong)
        done = run(folder, home, model)
        assert (done.returncode, "sub/.quarry.json" in done.stderr, "Traceback" in done.stderr) == (2, True, False)
    assert report(command("--digest", "--home", home)) == digest


def fresh(tmp_path: Path, folder: Path, model: Path) -> Path:
    report(run(folder, tmp_path / "fresh", model))
    return tmp_path / "fresh"


def test_a_listing_tells_a_change_and_reads_and_writes_nothing(folder: Path, tmp_path: Path) -> None:
    before = report(command("--list", folder, "--home", tmp_path / "home"))
    assert (before["items"], before["source"], (tmp_path / "home").exists()) == (3, str(folder.resolve()), False)
    assert report(command("--list", folder, "--home", tmp_path / "home")) == before
    digests = [before["digest"]]
    for change in (
        lambda: (folder / "new.txt").write_text("New."),
        lambda: os.utime(folder / "a.md", ns=(1, 1)),
        lambda: (folder / ".quarry.json").write_text('{"principals": {"*": ["group:site"]}}'),
        lambda: (folder / "new.txt").unlink(),
    ):
        change()
        digests.append(listing(Folder(folder))["digest"])
    assert len(set(digests)) == len(digests)
    done = command("--list", tmp_path / "nowhere", "--home", tmp_path / "home")
    assert (done.returncode, "is not a folder" in done.stderr) == (2, True)


def test_a_second_folder_joins_the_first(folder: Path, tmp_path: Path, model: Path) -> None:
    report(run(folder, tmp_path / "home", model))
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.md").write_text("The same name, another document.")
    found = report(run(other, tmp_path / "home", model))
    assert (found["documents"], found["unchanged"], found["encoded"]) == (3, 0, 1)
    assert {n for (n,) in rows(tmp_path / "home", found["generation"], "SELECT document_id FROM documents")} == {"a.md", "sub/b.txt", ".other/a.md"}


def test_names_are_stable_and_never_collide(tmp_path: Path, model: Path) -> None:
    roots = [tmp_path / x / "docs" for x in "abc"]
    for root in roots:
        root.mkdir(parents=True)
        (root / "a.txt").write_text(f"The document of {root}.")
        found = report(run(root, tmp_path / "home", model))
    assert {report(run(root, tmp_path / "home", model))["encoded"] for root in roots} == {0}
    texts = rows(tmp_path / "home", found["generation"], "SELECT document_id, text FROM documents ORDER BY 1")
    assert texts == [(name, f"The document of {root}.") for name, root in ((".docs-2/a.txt", roots[1]), (".docs-3/a.txt", roots[2]), ("a.txt", roots[0]))]


def test_a_file_name_that_is_not_utf8_and_text_without_tokens(tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.txt")).write_text("The crane of the café.")
    (folder / "invisible.txt").write_text("\u200b")
    (folder / ("ö" * 120 + ".txt")).write_text("A long name.")
    found = report(run(folder, tmp_path / "home", model))
    assert (found["documents"], found["skipped"]) == (3, [])
    names = rows(tmp_path / "home", found["generation"], "SELECT document_id FROM documents ORDER BY 1")
    assert names == [("caf\\xe9.txt",), ("invisible.txt",), ("ö" * 120 + ".txt",)]


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
        ("s3:///prefix", model, "is not s3://bucket/prefix"),
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
    copy = tmp_path / "examples"
    shutil.copytree(EXAMPLES, copy)
    subprocess.run([sys.executable, str(copy / "build.py")], check=True, capture_output=True)
    for folder in ("documents", "questions"):
        for path in sorted((EXAMPLES / folder).iterdir()):
            assert (copy / folder / path.name).read_bytes() == path.read_bytes(), path.name
