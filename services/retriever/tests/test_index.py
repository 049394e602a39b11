"""Every damage of an index is refused, and ends the process; documents come back word for word."""

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quarry_contract.manifests import ManifestError
from quarry_contract.messages import DocumentText, TextRange
from quarry_runtime.encode import Encoder

from quarry_retriever.index import Index
from quarry_retriever.passages import PassageStore

from .forked import forked
from .making import DOCUMENTS, Document, Writer, make_index, make_model
from .serving import free_port


def edit_manifest(folder: Path, **changes: object) -> None:
    """Change index.json; None takes a field out."""
    path = folder / "index.json"
    manifest = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in manifest.items() if v is not None}))


def sql(*statements: str) -> Callable[[Path], None]:
    """A damage of the database."""

    def damage(folder: Path) -> None:
        database = sqlite3.connect(folder / "index.db")
        for statement in statements:
            database.execute(statement)
        database.commit()
        database.close()

    return damage


def truncated(folder: Path) -> None:
    """Its last page is lost, as when the disk was full."""
    os.truncate(folder / "index.db", (folder / "index.db").stat().st_size - 4096)


def overwritten(folder: Path) -> None:
    """A page in the middle is lost."""
    with (folder / "index.db").open("r+b") as file:
        file.seek((folder / "index.db").stat().st_size // 4096 // 2 * 4096)
        file.write(b"\x55" * 4096)


def vector(*numbers: float) -> str:
    return f"UPDATE vectors SET vector = x'{np.array(numbers, '<f4').tobytes().hex()}' WHERE row = 3"


PASSAGES = 49
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, "index.json cannot be read"),
    "no manifest": (lambda f: (f / "index.json").unlink(), "index.json cannot be read"),
    "manifest not JSON": (lambda f: (f / "index.json").write_text("{"), "not a valid manifest"),
    "manifest lacks a field": (lambda f: edit_manifest(f, canary_vector=None), "not a valid manifest"),
    "manifest has NaN": (lambda f: edit_manifest(f, canary_vector=[float("nan")]), "not a valid manifest"),
    "manifest of another schema": (lambda f: edit_manifest(f, schema=2), "has schema 2"),
    "database missing": (lambda f: (f / "index.db").unlink(), "index.db cannot be read"),
    "database empty": (lambda f: (f / "index.db").write_bytes(b""), "index.db cannot be read: OperationalError: no such table"),
    "database truncated": (truncated, "index.db (is damaged|cannot be read)"),
    "database overwritten": (overwritten, "index.db (is damaged|cannot be read)"),
    "no database": (lambda f: (f / "index.db").write_text("not what it should be"), "index.db cannot be read"),
    "another encoder": (lambda f: edit_manifest(f, encoder_digest="0" * 64), "encoded by another retriever"),
    "another canary": (lambda f: edit_manifest(f, canary_text="something else"), "canary text is encoded otherwise"),
    "another width": (lambda f: edit_manifest(f, dimension=17), "another dimension"),
    "no state": (sql("DELETE FROM state"), "cannot be read: TypeError"),
    "a vector less": (sql("DELETE FROM vectors WHERE row = 7"), "passage 7 has no vector of 16 numbers"),
    "a vector more": (sql("INSERT INTO vectors SELECT 99, vector FROM vectors WHERE row = 1"), "holds 50 vectors"),
    "a vector too narrow": (sql(vector(*range(8))), "passage 3 has no vector of 16"),
    "a vector not finite": (sql(vector(*[float("nan")] * 16)), "passage 3 has a vector that is not finite"),
    "a vector of text": (sql("UPDATE vectors SET vector = 'text' WHERE row = 3"), "passage 3 has no vector"),
    "a document less": (sql("DELETE FROM documents WHERE document_id = 'wall.md'"), "holds 49 passages and its documents have 46"),
    "other words": (sql("UPDATE passages SET text = 'invented' WHERE row = 3"), "not the words of its document"),
    "other offsets": (sql("UPDATE passages SET start = start + 1 WHERE row = 3"), "not the words of its document"),
    "offsets no numbers": (sql("UPDATE passages SET start = 'a' WHERE row = 3"), "cannot be read: TypeError"),
    "no table": (sql("DROP TABLE passages"), "cannot be read: OperationalError"),
    "metadata not JSON": (sql("UPDATE documents SET metadata = '{'"), "cannot be read: JSONDecodeError"),
    "metadata too deep": (sql(f"UPDATE documents SET metadata = '{'[' * 99_999}'"), "cannot be read: RecursionError"),
    "metadata nested": (sql("""UPDATE documents SET metadata = '{"a": [1]}'"""), "metadata is not a JSON object"),
    "principals not JSON": (sql("UPDATE documents SET principals = '['"), "cannot be read: JSONDecodeError"),
    "principals no list": (sql("""UPDATE documents SET principals = '"*"'"""), "principals are not a JSON list"),
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
    assert Index.open(index_dir, encoder.manifest.digest, encoder.encode).snapshot.passages == PASSAGES


def test_another_models_index_is_refused_even_when_its_digest_is_forged(tmp_path: Path, index_dir: Path) -> None:
    other = Encoder.load(make_model(tmp_path / "other", seed=2))
    folder = shutil.copytree(index_dir, tmp_path / "index")
    with pytest.raises(ManifestError, match="encoded by another retriever"):
        Index.open(folder, other.manifest.digest, other.encode)
    edit_manifest(folder, encoder_digest=other.manifest.digest)
    with pytest.raises(ManifestError, match="canary"):
        Index.open(folder, other.manifest.digest, other.encode)


def test_a_process_that_cannot_load_never_becomes_ready_and_exits_1(tmp_path: Path, index_dir: Path, model_dir: Path) -> None:
    names = ["no manifest", "database missing", "database empty", "another encoder", "another canary", "other words", "a vector less"]
    running = []
    for name in names:
        folder = shutil.copytree(index_dir, tmp_path / name)
        DAMAGES[name][0](folder)
        paths = {"QUARRY_RETRIEVER_MODEL_DIR": str(model_dir), "QUARRY_RETRIEVER_INDEX_DIR": str(folder), "QUARRY_RETRIEVER_PORT": str(free_port())}
        (tmp_path / f"{name} printed").mkdir()
        running.append(forked("quarry_retriever", folder=tmp_path / f"{name} printed", **paths))
    for name, process in zip(names, running, strict=True):
        process.join(120)
        out = (tmp_path / f"{name} printed" / "out").read_text()
        assert process.exitcode == 1, name
        assert DAMAGES[name][1] in out and "Traceback" not in out, name


def test_nothing_is_written(index_dir: Path, encoder: Encoder) -> None:
    before = (index_dir / "index.db").read_bytes()
    index = Index.open(index_dir, encoder.manifest.digest, encoder.encode)
    assert len(index.store.passages(range(1, PASSAGES + 1), 10**9, [])) == PASSAGES
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        index.store.connection().execute("DELETE FROM passages")
    assert (index_dir / "index.db").read_bytes() == before


def text_of(store: PassageStore, asked: TextRange, *principals: str) -> DocumentText | None:
    [found] = store.texts([asked], principals)
    return found


def test_words_by_range(index_dir: Path) -> None:
    store = PassageStore(index_dir / "index.db")
    text = DOCUMENTS[2].text
    at = text.index("👷")
    for start, end in [(0, 7), (at, at + 4), (at + 1, at + 2), (0, 10**6), (len(text), len(text)), (3, 3), (10**30, 10**31), (5, 10**30)]:
        found = text_of(store, TextRange("minutes.txt", start, end))
        assert found is not None
        assert (found.text, found.length) == (text[start:end], len(text))
        assert (found.start, found.end) == (min(start, len(text)), min(end, len(text)))
        assert (found.title, found.metadata) == ("Minutes 🏗️", {"kind": "minutes"})
    assert text_of(store, TextRange("nowhere.txt", 0, 5)) is None
    assert text_of(store, TextRange("minutes.txt", 0, 5, "another version")) is None
    assert text_of(store, TextRange("minutes.txt", 0, 5, DOCUMENTS[2].version)) is not None


WRITABLE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(WRITABLE, st.integers(0, 70), st.integers(0, 70))
def test_any_range_of_any_text(tmp_path_factory: pytest.TempPathFactory, text: str, a: int, b: int) -> None:
    folder = tmp_path_factory.mktemp("words")
    writer = Writer(folder, lambda texts: np.ones((len(texts), 1)))
    writer.put(Document("d", "t", text))
    writer.close()
    found = text_of(PassageStore(folder / "index.db"), TextRange("d", min(a, b), max(a, b)))
    assert found is not None and found.text == text[min(a, b) : max(a, b)] and found.length == len(text)


def test_a_folder_with_signs_of_a_uri_in_its_name(tmp_path: Path, model_dir: Path, encoder: Encoder) -> None:
    folder = make_index(tmp_path / "a?mode=rw&b#c %41", model_dir, DOCUMENTS[:1])
    assert Index.open(folder, encoder.manifest.digest, encoder.encode).snapshot.documents == 1
