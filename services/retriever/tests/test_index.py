"""Every damage of an index is refused, and ends the process; documents come back word for word."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quarry_contract.manifests import ManifestError, digest_file
from quarry_contract.messages import TextRange
from quarry_runtime.encode import Encoder

from quarry_retriever.index import Index
from quarry_retriever.passages import PassageStore

from .making import DOCUMENTS, Document, make_index, make_model, write_database, write_vectors
from .serving import free_port


def edit_manifest(folder: Path, **changes: object) -> None:
    """Change index.json; None takes a field out."""
    path = folder / "index.json"
    manifest = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in manifest.items() if v is not None}))


def rehash(folder: Path) -> None:
    """Make the manifest agree with the files, so that only their content is wrong."""
    edit_manifest(folder, files={name: vars(digest_file(folder / name)) for name in ("passages.db", "dense.faiss")})


def sql(*statements: str) -> Callable[[Path], None]:
    """A damage of the database."""

    def damage(folder: Path) -> None:
        database = sqlite3.connect(folder / "passages.db")
        for statement in statements:
            database.execute(statement)
        database.commit()
        database.close()
        rehash(folder)

    return damage


def truncated(name: str) -> Callable[[Path], None]:
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size - 1)


def flipped(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    return damage


def linked(folder: Path) -> None:
    (folder / "dense.faiss").rename(folder / "elsewhere")
    (folder / "dense.faiss").symlink_to("elsewhere")


def garbage(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes(b"not what it should be")
        rehash(folder)

    return damage


def vectors(rows: int, dimension: int) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        made = np.zeros((rows, dimension), np.float32)
        made[:, 0] = 1
        write_vectors(folder / "dense.faiss", made)
        rehash(folder)

    return damage


PASSAGES = 49
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, "index.json cannot be read"),
    "no manifest": (lambda f: (f / "index.json").unlink(), "index.json cannot be read"),
    "manifest not JSON": (lambda f: (f / "index.json").write_text("{"), "not a valid manifest"),
    "manifest lacks a field": (lambda f: edit_manifest(f, canary_vector=None), "not a valid manifest"),
    "manifest has NaN": (lambda f: edit_manifest(f, canary_vector=[float("nan")]), "not a valid manifest"),
    "manifest lists too little": (lambda f: edit_manifest(f, files={}), "does not list"),
    "database missing": (lambda f: (f / "passages.db").unlink(), "passages.db is missing"),
    "database truncated": (truncated("passages.db"), "passages.db does not have the digest"),
    "database changed": (flipped("passages.db"), "passages.db does not have the digest"),
    "vectors missing": (lambda f: (f / "dense.faiss").unlink(), "dense.faiss is missing"),
    "vectors truncated": (truncated("dense.faiss"), "dense.faiss does not have the digest"),
    "vectors changed": (flipped("dense.faiss"), "dense.faiss does not have the digest"),
    "vectors a link": (linked, "dense.faiss is missing or is not a plain file"),
    "another encoder": (lambda f: edit_manifest(f, encoder_digest="0" * 64), "encoded by another retriever"),
    "another canary": (lambda f: edit_manifest(f, canary_text="something else"), "canary text is encoded otherwise"),
    "another width": (lambda f: edit_manifest(f, dimension=17), "another dimension"),
    "database no database": (garbage("passages.db"), "passages.db cannot be read"),
    "vectors no index": (garbage("dense.faiss"), "not a faiss index"),
    "too few vectors": (vectors(PASSAGES - 1, 16), "holds 48 vectors of 16"),
    "vectors too narrow": (vectors(PASSAGES, 8), "holds 49 vectors of 8"),
    "a passage less": (sql("DELETE FROM passages WHERE rowid = 49"), "holds 4 documents and 48 passages"),
    "a gap": (sql("UPDATE passages SET rowid = 99 WHERE rowid = 7"), "not numbered"),
    "a document less": (sql("DELETE FROM documents WHERE document_id = 'wall.md'"), "not numbered"),
    "a document more": (sql("INSERT INTO documents VALUES ('x', 'v', 't', 's', 'm', 'text', '{}')"), "holds 5 documents"),
    "other words": (sql("UPDATE passages SET text = 'invented' WHERE rowid = 3"), "not the words of its document"),
    "other offsets": (sql("UPDATE passages SET start = start + 1 WHERE rowid = 3"), "not the words of its document"),
    "offsets no numbers": (sql("UPDATE passages SET start = 'a' WHERE rowid = 3"), "cannot be read: TypeError"),
    "no table": (sql("DROP TABLE passages"), "cannot be read: OperationalError"),
    "metadata not JSON": (sql("UPDATE documents SET metadata = '{'"), "cannot be read: JSONDecodeError"),
    "metadata nested": (sql("""UPDATE documents SET metadata = '{"a": [1]}'"""), "metadata is not a JSON object"),
}


@pytest.fixture(scope="module")
def encoder(model_dir: Path) -> Encoder:
    return Encoder.load(model_dir)


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_index_is_refused(tmp_path: Path, index_dir: Path, encoder: Encoder, name: str) -> None:
    folder = shutil.copytree(index_dir, tmp_path / "index")
    damage, says = DAMAGES[name]
    damage(folder)
    with pytest.raises(ManifestError, match=says):
        Index.open(folder, encoder.manifest.digest, encoder.encode)


def test_the_undamaged_index_opens(index_dir: Path, encoder: Encoder) -> None:
    assert Index.open(index_dir, encoder.manifest.digest, encoder.encode).manifest.passages == PASSAGES


def test_another_models_index_is_refused_even_when_its_digest_is_forged(tmp_path: Path, index_dir: Path) -> None:
    other = Encoder.load(make_model(tmp_path / "other", seed=2))
    folder = shutil.copytree(index_dir, tmp_path / "index")
    with pytest.raises(ManifestError, match="encoded by another retriever"):
        Index.open(folder, other.manifest.digest, other.encode)
    edit_manifest(folder, encoder_digest=other.manifest.digest)
    with pytest.raises(ManifestError, match="canary"):
        Index.open(folder, other.manifest.digest, other.encode)


def test_a_process_that_cannot_load_never_becomes_ready_and_exits_1(tmp_path: Path, index_dir: Path, model_dir: Path) -> None:
    names = ["no manifest", "database truncated", "vectors changed", "another encoder", "another canary", "other words", "too few vectors"]
    running = []
    for name in names:
        folder = shutil.copytree(index_dir, tmp_path / name)
        DAMAGES[name][0](folder)
        paths = {"QUARRY_RETRIEVER_MODEL_DIR": str(model_dir), "QUARRY_RETRIEVER_INDEX_DIR": str(folder), "QUARRY_RETRIEVER_PORT": str(free_port())}
        running.append(subprocess.Popen([sys.executable, "-m", "quarry_retriever"], env={**os.environ, **paths}, stdout=subprocess.PIPE, text=True))
    for name, process in zip(names, running, strict=True):
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 1, name
        assert DAMAGES[name][1] in out and "Traceback" not in out, name


def test_nothing_is_written_beside_the_index(index_dir: Path, encoder: Encoder) -> None:
    index = Index.open(index_dir, encoder.manifest.digest, encoder.encode)
    assert len(index.store.passages(range(PASSAGES))) == PASSAGES
    assert {p.name for p in index_dir.iterdir()} == {"index.json", "passages.db", "dense.faiss"}
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        index.store._connection().execute("DELETE FROM passages")


def test_words_by_range(index_dir: Path) -> None:
    store = PassageStore(index_dir / "passages.db")
    text = DOCUMENTS[2].text
    at = text.index("👷")
    for start, end in [(0, 7), (at, at + 4), (at + 1, at + 2), (0, 10**6), (len(text), len(text)), (3, 3), (10**30, 10**31), (5, 10**30)]:
        found = store.text(TextRange("minutes.txt", start, end))
        assert found is not None
        assert (found.text, found.length) == (text[start:end], len(text))
        assert (found.start, found.end) == (min(start, len(text)), min(end, len(text)))
        assert (found.title, found.metadata) == ("Minutes 🏗️", {"kind": "minutes"})
    assert store.text(TextRange("nowhere.txt", 0, 5)) is None
    assert store.text(TextRange("minutes.txt", 0, 5, "another version")) is None
    assert store.text(TextRange("minutes.txt", 0, 5, DOCUMENTS[2].version)) is not None
    store.close()


WRITABLE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(WRITABLE, st.integers(0, 70), st.integers(0, 70))
def test_any_range_of_any_text(tmp_path_factory: pytest.TempPathFactory, text: str, a: int, b: int) -> None:
    path = tmp_path_factory.mktemp("words") / "passages.db"
    write_database(path, [Document("d", "t", text)], [])
    store = PassageStore(path)
    found = store.text(TextRange("d", min(a, b), max(a, b)))
    store.close()
    assert found is not None and found.text == text[min(a, b) : max(a, b)] and found.length == len(text)


def test_a_folder_with_signs_of_a_uri_in_its_name(tmp_path: Path, model_dir: Path, encoder: Encoder) -> None:
    folder = make_index(tmp_path / "a?mode=rw&b#c %41", model_dir, DOCUMENTS[:1])
    assert Index.open(folder, encoder.manifest.digest, encoder.encode).manifest.documents == 1
