"""The index as followers see it, crashes at named steps, forgetting with its proof, repairs, and the queue of uploads."""

import multiprocessing
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from quarry_contract.index_store import INDEX_DATABASE, connect
from quarry_contract.messages import Job
from quarry_contract.releases import index_dir
from quarry_runtime import tiny
from quarry_runtime.encode import Encoder

from quarry_ingestion import jobs, store
from quarry_ingestion.__main__ import digests
from quarry_ingestion.blocks import Document
from quarry_ingestion.chunk import CHUNKER, Chunk
from quarry_ingestion.forget import forget
from quarry_ingestion.ledger import now
from quarry_ingestion.pipeline import sync
from quarry_ingestion.reconcile import reconcile
from quarry_ingestion.sources import Folder, SourceError
from quarry_ingestion.store import IndexStore
from quarry_ingestion.targets import read_targets
from quarry_ingestion.uploads import work

from .crash import KILLED, in_child, kill_in
from .test_ingest import command, report, rows


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    tiny.encoder(folder, ["crane", "pile", "wall", "wind"], dimension=4)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    (tmp_path / "home").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("The crane stops. Xylophonist Brandauer lifts quicksilver.")
    (tmp_path / "docs" / "b.txt").write_text("The crane stops. The wall stands.")
    return tmp_path / "docs"


@pytest.fixture
def home(root: Path, model: Path) -> Path:
    home = root.parent / "home"
    sync(Folder(root), home, model)
    return home


def opened(home: Path, model: Path) -> IndexStore:
    return IndexStore(index_dir(home, store.create(home, Encoder.load(model), CHUNKER)))


def one(number: int, version: str = "v") -> tuple[Document, list[Chunk], "np.ndarray[tuple[int, ...], np.dtype[np.float32]]"]:
    """A document of two passages that both say their version."""
    text = f"{version} one\n\n{version} two"
    half = len(text) // 2
    document = Document(f"d{number}", version, "t", "s", "text/plain", text, (), (), {})
    spans = [(0, half), (half, len(text))]
    return document, [Chunk(f"{number}-{version}-{a}", f"d{number}", a, b, text[a:b], None, None) for a, b in spans], np.ones((2, 4), np.float32)


def test_the_log_of_removed_rows_is_bounded_and_says_how_far_back_it_goes(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "LOGGED_CHANGES", 5)
    with closing(opened(tmp_path, model).database) as database:
        index = opened(tmp_path, model)
        for version in range(12):
            index.put(*one(1, f"version {version}"))
        assert database.execute("SELECT revision, oldest FROM state").fetchone() == (12, 7)
        assert database.execute("SELECT min(revision), count(*) FROM removed").fetchone() == (8, 10)
        assert database.execute("SELECT min(row) FROM passages").fetchone() == (23,)
        index.close()


def test_a_change_that_fails_leaves_nothing_of_it(tmp_path: Path, model: Path) -> None:
    index = opened(tmp_path, model)
    index.put(*one(1))
    before = index.digest(), index.revision
    document, chunks, vectors = one(2)
    with pytest.raises(sqlite3.IntegrityError):
        index.put(document, [chunks[0], replace(chunks[1], passage_id=chunks[0].passage_id)], vectors)
    with pytest.raises(ValueError, match="vectors for 2 passages"):
        index.put(document, chunks, vectors[:, :3])
    assert (index.digest(), index.revision) == before
    index.put(document, chunks, vectors)
    index.close()


def _rewrite(folder: Path, times: int) -> None:
    index = IndexStore(folder)
    for version in range(times):
        index.put(*one(1, f"version {version}"))
    index.close()


def test_who_reads_while_a_document_changes_sees_one_version_whole(tmp_path: Path, model: Path) -> None:
    index = opened(tmp_path, model)
    index.put(*one(1, "version 0"))
    writer = multiprocessing.get_context("fork").Process(target=_rewrite, args=(index.folder, 150))
    writer.start()
    seen = set()
    query = 'SELECT d.version, substr(d.text, p.start + 1, p."end" - p.start) = p.text FROM passages p JOIN documents d USING (document_id)'
    with closing(connect(index.folder / INDEX_DATABASE)) as reader:
        while writer.is_alive():
            versions = reader.execute(query).fetchall()
            assert len(versions) == 2
            assert len(set(versions)) == 1
            assert versions[0][1] == 1
            seen.add(versions[0][0])
    writer.join()
    assert writer.exitcode == 0
    assert len(seen) > 1, "nothing changed while it was read"
    index.close()


STEPS = ["IndexStore.put", "IndexStore._trim", "Ledger.save", "Ledger.mark_seen", "drop_orphans", "IndexStore.delete", "Ledger.remove", "report"]


@pytest.mark.parametrize("step", STEPS)
def test_a_run_killed_at_a_named_step_is_resumed_to_the_same_index(step: str, home: Path, root: Path, model: Path, tmp_path: Path) -> None:
    (root / "a.txt").unlink()
    (root / "b.txt").write_text("Another wall.")
    (root / "c.txt").write_text("A new pile.")
    assert in_child(lambda: sync(Folder(root), home, model), kill_in(step)) == KILLED
    encoded = sync(Folder(root), home, model)["encoded"]
    assert encoded <= 2
    (tmp_path / "fresh").mkdir()
    sync(Folder(root), tmp_path / "fresh", model)
    assert digests(home) == digests(tmp_path / "fresh")
    assert reconcile(home)["sound"]


def test_a_new_document_whose_file_goes_before_the_killed_run_is_resumed(home: Path, root: Path, model: Path) -> None:
    (root / "ab.txt").write_text("A short life.")
    assert in_child(lambda: sync(Folder(root), home, model), kill_in("Ledger.save")) == KILLED
    generation = read_targets(home)[0][0]
    assert ("ab.txt",) in rows(home, generation, "SELECT document_id FROM documents")
    (root / "ab.txt").unlink()
    sync(Folder(root), home, model)
    assert rows(home, generation, "SELECT document_id FROM documents ORDER BY 1") == [("a.txt",), ("b.txt",)]


def test_a_killed_first_run_leaves_no_half_made_generation(root: Path, model: Path) -> None:
    home = root.parent / "home"
    assert in_child(lambda: sync(Folder(root), home, model), kill_in("write_manifest")) == KILLED
    assert sync(Folder(root), home, model)["documents"] == 2


# --- forgetting ---


def raw(home: Path) -> bytes:
    return b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())


def test_a_forgotten_document_is_in_no_file_and_does_not_come_back(home: Path, root: Path, model: Path) -> None:
    database = index_dir(home, read_targets(home)[0][0]) / INDEX_DATABASE
    with closing(connect(database, writing=True)) as writer:
        writer.execute("INSERT INTO graphs VALUES ('dense.faiss', '[\"*\"]', 1, 2, 0, 'x')")
        [(vector,)] = writer.execute("SELECT vector FROM vectors JOIN passages USING (row) WHERE document_id = 'a.txt'")
    (database.parent / "dense.faiss").write_bytes(b"graph" + vector)
    assert b"Xylophonist" in raw(home)
    proof = report(command("--forget", "a.txt", "--home", home))
    assert (proof["found"], proof["rows"], proof["emptied"]) == ([], 0, True)
    assert proof["looked_for"] == {"words": 3, "names": 3, "vectors": 1}
    assert {f"index/{database.parent.name}/index.db", "ledger.db"} <= set(proof["searched"])
    left = raw(home)
    assert not [needle for needle in (b"Xylophonist", b"quicksilver", b"a.txt", vector) if needle in left]
    assert b"The wall stands" in left
    found = sync(Folder(root), home, model)
    assert (found["documents"], [s["code"] for s in found["skipped"]]) == (1, ["forgotten"])
    with pytest.raises(SourceError, match="there is no document"):
        forget(home, "a.txt")


def test_the_proof_finds_what_is_left(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words kept in a file beside the index are found; so the search can fail."""
    monkeypatch.setattr(store, "CHECKPOINT_SEC", 0.1)
    folder = index_dir(home, read_targets(home)[0][0])
    (home / "uploads").mkdir()
    (home / "uploads" / "left-behind").write_text("of quicksilver")
    with closing(connect(folder / INDEX_DATABASE)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM documents").fetchone()
        proof = forget(home, "a.txt")
        reader.execute("COMMIT")
    assert not proof["emptied"], "a reader holds on to what was"
    assert {"file": "uploads/left-behind", "kind": "words"} in proof["found"]


def test_forgetting_that_is_killed_is_finished_by_the_next_run(home: Path, root: Path, model: Path) -> None:
    assert in_child(lambda: forget(home, "a.txt"), kill_in("Ledger.remove")) == KILLED
    assert sync(Folder(root), home, model)["documents"] == 1
    assert reconcile(home)["sound"]


# --- repairs ---


DAMAGES = {
    "damaged_documents": "DELETE FROM passages WHERE document_id = 'a.txt'",
    "wrong_principals": "UPDATE documents SET principals = '[]' WHERE document_id = 'a.txt'",
    "rows_of_nothing": "INSERT INTO passages(passage_id, document_id, start, \"end\", text, revision) VALUES ('p', 'nobody', 0, 1, 'x', 1)",
    "documents_of_no_item": "INSERT INTO documents VALUES ('z', 'v', 't', 's', 'text/plain', 'x', '[]', '[]', '{}', '[]', 1)",
    "items_without_document": "DELETE FROM documents WHERE document_id = 'a.txt'",
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_reconcile_reports_and_repairs(kind: str, home: Path, root: Path, model: Path) -> None:
    (root / "b.txt").unlink()
    sync(Folder(root), home, model)
    before = digests(home)
    with closing(sqlite3.connect(index_dir(home, read_targets(home)[0][0]) / INDEX_DATABASE)) as database, database:
        database.execute(DAMAGES[kind])
    found = report(command("--reconcile", "--home", home))
    assert found[kind], found
    assert not found["sound"]
    sync(Folder(root), home, model)  # reads again what only the source has
    assert digests(home) == before
    assert reconcile(home)["sound"]


# --- uploads ---


def job(name: str, action: str, number: int) -> Job:
    return Job(f"job-{number}", name, action, "queued", now())  # type: ignore[arg-type]


def test_uploads_are_worked_off_in_order_and_tell_how_they_ended(home: Path, root: Path, model: Path) -> None:
    jobs.enqueue(home, job("u", "put", 1), b"# Winds\n\nThe wind.", ["group:b", "group:a"], "text/markdown; charset=utf-8", "jo")
    jobs.enqueue(home, job("u", "put", 2), b"%PDF-1.7 broken")
    jobs.enqueue(home, job("a.txt", "put", 3), b"Mine now.", media_type="text/plain")
    jobs.enqueue(home, job("a.txt", "delete", 4), None)
    jobs.enqueue(home, job("u", "delete", 5), None)
    jobs.enqueue(home, job("a.txt", "forget", 6), None)
    first = work(home)
    assert first is not None
    assert (first.state, first.passages, len(first.version or "")) == ("done", 1, 64)
    generation = read_targets(home)[0][0]
    assert rows(home, generation, "SELECT title, source, principals FROM documents WHERE document_id = 'u'") == [("Winds", "u", '["group:a", "group:b"]')]
    found = jobs.get(home, "job-1")
    assert found is not None
    assert (found.job, found.submitter) == (first, "jo")
    sync(Folder(root), home, model)
    assert rows(home, generation, "SELECT count(*) FROM documents") == [(3,)], "a run over a folder leaves uploads alone"
    ended = [work(home) for _ in range(6)]
    assert [(j.job_id, j.state, j.code) for j in ended if j] == [
        ("job-2", "failed", "damaged"), ("job-3", "done", None), ("job-4", "done", None), ("job-5", "done", None), ("job-6", "done", None)
    ]  # fmt: skip
    assert rows(home, generation, "SELECT document_id FROM documents") == [("b.txt",)]
    assert list((home / "uploads").iterdir()) == []
    assert jobs.get(home, "job-7") is None


@pytest.mark.parametrize("step", ["IndexStore.put", "Ledger.save", "finish"])
def test_a_job_whose_worker_is_killed_is_done_by_the_next(step: str, home: Path) -> None:
    jobs.enqueue(home, job("u", "put", 1), b"The wind.", media_type="text/plain")
    assert in_child(lambda: work(home), kill_in(step)) == KILLED
    done = work(home)
    assert done is not None
    assert (done.state, work(home)) == ("done", None)
    assert reconcile(home)["sound"]
