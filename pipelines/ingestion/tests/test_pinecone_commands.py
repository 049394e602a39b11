"""Ingest, reconcile, forget and uploads with Pinecone behind index.db: what they find and repair there, and what an outage leaves."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from quarry_contract.messages import Job
from quarry_contract.releases import index_dir
from quarry_contract.vector_store import VectorStoreError
from quarry_runtime import tiny

from quarry_ingestion.forget import forget
from quarry_ingestion.pinecone_client import Record
from quarry_ingestion.pinecone_store import UNDER_WAY, PineconeStore
from quarry_ingestion.pipeline import reindex, sync
from quarry_ingestion.reconcile import reconcile
from quarry_ingestion.sources import Folder
from quarry_ingestion.stores import PINECONE_HOST
from quarry_ingestion.targets import read_targets
from quarry_ingestion.writer import writer

from .pinecone_process import API_KEY, Standin, standin
from .test_ingest import command
from .test_pinecone_store import found, passage_ids
from .test_serve import documents, serving

DIMENSION = 4
DOWN = {"path": "/", "status": 503, "retry_after": 600, "times": 1_000_000}  # longer than anybody waits: one attempt per call


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    made = [tmp_path_factory.mktemp("models") / str(seed) for seed in (1, 2)]
    for seed, folder in enumerate(made):
        tiny.encoder(folder, ["crane", "pile", "wall", "wind"], dimension=DIMENSION, seed=seed)
    return made


@pytest.fixture(scope="module")
def process() -> Iterator[Standin]:
    with standin(DIMENSION) as started:
        yield started


@pytest.fixture
def pinecone(process: Standin, monkeypatch: pytest.MonkeyPatch) -> Standin:
    process.reset()
    process.set(rate=10_000)
    monkeypatch.setenv("PINECONE_API_KEY", API_KEY)
    monkeypatch.setenv(PINECONE_HOST, process.url)
    monkeypatch.setenv("QUARRY_PINECONE_WAIT_SEC", "20")
    return process


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    (tmp_path / "home").mkdir()
    for name in "abc":
        (tmp_path / "docs" / f"{name}.txt").write_text(f"The crane of {name} stops. Its wall stands.")
    return tmp_path / "docs"


@pytest.fixture
def home(root: Path, models: list[Path], pinecone: Standin) -> Path:
    sync(Folder(root), root.parent / "home", models[0])
    return root.parent / "home"


@contextmanager
def store(home: Path, target: int = 0) -> Iterator[PineconeStore]:
    made = PineconeStore(index_dir(home, read_targets(home)[target][0]), os.environ[PINECONE_HOST], 20)
    try:
        yield made
    finally:
        made.close()


def equal(home: Path, pinecone: Standin) -> bool:
    """Whether queries find in every generation's namespace what its index.db has."""
    folders = [index_dir(home, generation) for generation, _ in read_targets(home)]
    return all(set(found(pinecone, folder)) == passage_ids(folder) for folder in folders)


def texts(home: Path) -> set[str]:
    with store(home) as opened:
        return {text for (text,) in opened.database.execute("SELECT text FROM documents")}


def orphan(name: str, document_id: str) -> Record:
    return Record(name, np.ones(DIMENSION, np.float32), {"document_id": document_id, "principals": ["*"]})


# --- reconcile ---


def test_reconcile_repairs_each_generations_namespace(home: Path, models: list[Path], pinecone: Standin) -> None:
    reindex(home, models[1])
    assert equal(home, pinecone)
    with store(home) as first, store(home, 1) as second:
        [gap] = first.passage_ids("a.txt")
        [kept] = first._records(first.passage_ids("b.txt"))
        first.namespace.delete([gap])
        first.namespace.put([Record(kept.passage_id, kept.vector, {**kept.metadata, "principals": ["user:thief"]})])
        second.namespace.put(orphan(f"orphan-{n}", "gone.txt") for n in range(250))  # more than a page of the list
        generations = [first.manifest.generation, second.manifest.generation]
    told = reconcile(home)
    assert told["differing_vectors"] == [
        {"generation": generations[0], "kind": "gaps", "rows": 1},
        {"generation": generations[0], "kind": "differing", "rows": 1},
        {"generation": generations[1], "kind": "orphans", "rows": 250},
    ]
    assert not told["sound"]
    assert equal(home, pinecone)
    assert reconcile(home)["sound"]


def test_reconcile_finishes_a_change_that_was_stopped(home: Path, root: Path, models: list[Path], pinecone: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its new vectors are there and index.db has the old version: neither a gap nor an orphan, but a change to be undone."""
    (root / "a.txt").write_text("Another crane.")
    pinecone.set(hold=True)
    monkeypatch.setenv("QUARRY_PINECONE_WAIT_SEC", "1")
    with pytest.raises(VectorStoreError, match="do not see what was written"):
        sync(Folder(root), home, models[0])
    pinecone.set(hold=False)
    assert not equal(home, pinecone)
    assert reconcile(home)["sound"]
    assert equal(home, pinecone)
    assert "The crane of a stops. Its wall stands." in texts(home)


def test_what_changes_while_it_is_compared_is_not_taken_for_wrong(home: Path, root: Path, pinecone: Standin) -> None:
    """Between the list and the comparison, another process deletes one document and writes another one anew."""
    entered = []

    @contextmanager
    def alone() -> Iterator[None]:
        if len(entered) == 1:
            with store(home) as other:
                other.delete("a.txt")
                document, [(chunk, vector)] = other.document("b.txt"), other.passages("b.txt")
                assert document and vector
                other.put(document, [type(chunk)(f"{chunk.passage_id}-anew", *list(vars(chunk).values())[1:])], np.frombuffer(vector, "<f4")[None])
        entered.append(1)
        yield

    with store(home) as own:
        assert own.reconcile_vectors(alone) == {"orphans": 0, "gaps": 0, "differing": 0}
        assert own.reconcile_vectors(nullcontext) == {"orphans": 0, "gaps": 0, "differing": 0}
    assert equal(home, pinecone)


def test_a_damaged_vector_does_not_stand_in_the_way(home: Path, pinecone: Standin) -> None:
    with store(home) as own:
        own.database.execute("UPDATE vectors SET vector = x'0000' WHERE row = 1")
        own._note(own.passage_ids("a.txt"))  # as if a change of it had been stopped too
    assert reconcile(home)["damaged_documents"]
    assert reconcile(home)["sound"]
    assert equal(home, pinecone)


# --- forget ---


def test_forget_removes_and_proves_it_in_every_namespace(home: Path, models: list[Path], pinecone: Standin) -> None:
    reindex(home, models[1])
    with store(home, 1) as second:
        second.namespace.put([orphan("a-long-ago", "a.txt"), orphan("of-another", "b.txt")])
    pinecone.set(delay=[0.2, 0.3])  # until queries see a write
    told = forget(home, "a.txt")
    assert (told["found"], told["rows"], told["emptied"]) == ([], 0, True)
    assert [(v["looked_for"], v["strays"], v["found"]) for v in told["vector_stores"]] == [(1, 0, 0), (1, 1, 0)]
    pinecone.set(delay=[0.0, 0.0])
    with store(home) as first, store(home, 1) as second:
        assert set(first.namespace.ids()) == passage_ids(first.folder)
        assert set(second.namespace.ids()) == passage_ids(second.folder) | {"of-another"}


def test_a_document_that_only_pinecone_still_has_can_be_forgotten(home: Path, pinecone: Standin) -> None:
    with store(home) as own:
        own.namespace.put([orphan("left", "gone.txt")])
    assert [v["strays"] for v in forget(home, "gone.txt")["vector_stores"]] == [1]
    assert equal(home, pinecone)


def test_the_proof_tells_what_pinecone_still_finds(home: Path, pinecone: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something else writes a record of it at the same time, again and again."""
    with store(home) as other:
        real = PineconeStore.vectors_of

        def rewritten(self: PineconeStore, document_id: str) -> set[str]:
            other.namespace.put([orphan("again", document_id)])
            return real(self, document_id)

        monkeypatch.setattr(PineconeStore, "vectors_of", rewritten)
        told = forget(home, "a.txt")
    assert told["found"] == [{"file": f"namespace {read_targets(home)[0][0]}", "kind": "vectors"}]


@pytest.mark.parametrize("trouble", ["down", "not seen"])
def test_forget_says_when_it_cannot_say_so_and_is_finished_by_another(trouble: str, home: Path, pinecone: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUARRY_PINECONE_WAIT_SEC", "1")
    pinecone.set(**({"faults": [DOWN]} if trouble == "down" else {"hold": True}))
    why = "a.txt is out of index and answers, but that its vectors are gone cannot be said; forget it again"
    if trouble == "down":
        failed = command("--forget", "a.txt", "--home", home)
        assert failed.returncode == 2
        assert failed.stderr.startswith(f"not ingested: {why}")
        assert len(failed.stderr.splitlines()) == 1
    else:
        with pytest.raises(VectorStoreError, match=why):
            forget(home, "a.txt")
    assert set(documents(home)) == {"b.txt", "c.txt"}
    pinecone.set(faults=[], hold=False)
    assert forget(home, "a.txt")["found"] == []
    assert equal(home, pinecone)
    assert not (index_dir(home, read_targets(home)[0][0]) / UNDER_WAY).exists()


# --- outages ---


def test_an_ingest_in_an_outage_shows_nothing_half_and_the_next_one_goes_on(home: Path, root: Path, models: list[Path], pinecone: Standin) -> None:
    before = texts(home)
    (root / "a.txt").write_text("The new words.")
    (root / "d.txt").write_text("A new pile.")
    (root / "b.txt").unlink()
    pinecone.set(faults=[DOWN])
    with pytest.raises(VectorStoreError, match="Pinecone failed 1 times within 20 s, and is not asked again"):
        sync(Folder(root), home, models[0])
    assert texts(home) == before
    pinecone.set(faults=[{"path": "/", "status": 503, "times": 2}])  # it comes back while it is tried again
    told = sync(Folder(root), home, models[0])
    assert (told["added"], told["updated"], told["removed"]) == (1, 1, 1)
    assert set(documents(home)) == {"a.txt", "c.txt", "d.txt"}
    assert equal(home, pinecone)
    assert reconcile(home)["sound"]


def test_deletions_and_permissions_do_not_wait_for_pinecone(home: Path, models: list[Path], pinecone: Standin) -> None:
    """In every generation, also while an earlier change there is not finished."""
    reindex(home, models[1])
    pinecone.set(faults=[DOWN])
    with writer(home) as made:
        entry = made.ledger.by_document("b.txt")
        assert entry
        with pytest.raises(VectorStoreError):
            made.permit(replace(entry, principals=("group:x",)))
        for gone in ("a.txt", "c.txt"):
            with pytest.raises(VectorStoreError):
                made.remove(gone)
        assert made.ledger.by_document("a.txt") is not None, "the ledger comes last"
    for target in (0, 1):
        with store(home, target) as own:
            assert [name for name, _ in own.versions()] == ["b.txt"]
            assert own.principals("b.txt") == ("group:x",)
    pinecone.set(faults=[])
    for target in (0, 1):
        with store(home, target) as own:
            assert own.settle() == 3
            assert found(pinecone, own.folder, "group:x") == passage_ids(own.folder)
            assert found(pinecone, own.folder) == set()


def test_uploads_wait_for_pinecone_and_say_so(home: Path, pinecone: Standin) -> None:
    before = len(pinecone.requests())
    pinecone.set(faults=[DOWN])
    with serving(home) as served:
        job, behind = served.put("up.txt", b"The new pile."), Job.from_dict(served.ask("DELETE", "/documents/never.txt")[1])
        until = time.monotonic() + 60
        while (told := served.ask("GET", f"/jobs/{job.job_id}")[1]).get("code") is None:
            assert time.monotonic() < until
            time.sleep(0.02)
        assert (told["state"], told["code"], told["detail"]) == ("queued", "waiting", "the vector store fails; tried 1 times, again in 1 s")
        assert served.ask("GET", f"/jobs/{behind.job_id}")[1]["state"] == "queued"
        assert served.ask("GET", "/readyz")[0] == 503
        assert "up.txt" not in documents(home)
        served.stop()
        assert 1 <= len(pinecone.requests()) - before <= 3, "it is left alone between the tries"
    pinecone.set(faults=[])
    with serving(home) as served:
        done = served.ended(job)
        assert (done.state, done.code, done.detail, done.passages) == ("done", None, None, 1)
        assert served.ended(behind).state == "done"
        assert served.ask("GET", "/readyz")[0] == 200
    assert equal(home, pinecone)
