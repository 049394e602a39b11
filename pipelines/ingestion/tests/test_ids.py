"""An upload and the document that has its id already: whose it is, or whether there is one, shows to nobody who may not read it."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from quarry_contract.messages import Job
from quarry_runtime import tiny

from quarry_ingestion import jobs
from quarry_ingestion.ledger import now
from quarry_ingestion.pipeline import sync
from quarry_ingestion.reconcile import reconcile
from quarry_ingestion.sources import Folder
from quarry_ingestion.targets import read_targets
from quarry_ingestion.uploads import work

from .crash import KILLED, in_child, kill_in
from .test_ingest import rows

HOLDERS: dict[str, bytes | None] = {"nobody": None, "folder": b"The crane stops.", "folder, unreadable": b"\x00\x01\x02", "upload": None}
BROKEN, GOOD = b"%PDF-1.7 broken", b"Mine now."
ASKED: dict[str, list[tuple[str, bytes | None]]] = {
    "put, unreadable": [("put", BROKEN), ("put", GOOD), ("delete", None), ("put", GOOD)],
    "put": [("put", GOOD), ("put", BROKEN), ("delete", None), ("forget", None)],
    "delete": [("delete", None), ("put", GOOD), ("forget", None), ("put", GOOD)],
    "forget": [("forget", None), ("delete", None), ("put", GOOD)],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    tiny.encoder(folder, ["crane", "pile", "wall", "wind"], dimension=4)
    return folder


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory, model: Path) -> dict[str, Path]:
    """The same index, but for who has the id `x.txt`, if anybody; each with its folder beside it."""
    made = {}
    for holder, data in HOLDERS.items():
        made[holder] = tmp_path_factory.mktemp("home")
        (made[holder] / "docs").mkdir()
        (made[holder] / "docs" / "b.txt").write_text("The beam holds.")
        if data:
            (made[holder] / "docs" / "x.txt").write_bytes(data)
        sync(Folder(made[holder] / "docs"), made[holder], model)
        if holder == "upload":
            done(made[holder], "put", b"Of another.", submitter="another")
    return made


numbers: Iterator[int] = iter(range(1_000_000))


def done(home: Path, action: str, data: bytes | None = None, name: str = "x.txt", submitter: str = "me") -> Job:
    """A job to its end, as its submitter sees it, without its own name and time."""
    job = Job(f"job-{next(numbers)}", name, action, "queued", now())  # type: ignore[arg-type]
    jobs.enqueue(home, job, data, media_type="text/plain", submitter=submitter)
    ended = work(home)
    assert ended is not None
    return replace(ended, job_id="", created="", finished=None)


def found(home: Path) -> dict[str, str]:
    texts = rows(home, read_targets(home)[0][0], "SELECT document_id, text FROM documents")
    return {str(name): str(text) for name, text in texts}


@pytest.mark.parametrize("asked", ASKED)
def test_no_job_tells_whether_its_id_was_anyones(homes: dict[str, Path], tmp_path: Path, asked: str) -> None:
    told = {}
    for holder, home in homes.items():
        own = Path(shutil.copytree(home, tmp_path / holder))
        told[holder] = [done(own, action, data) for action, data in ASKED[asked]]
        assert found(own) == {"b.txt": "The beam holds."} | ({"x.txt": "Mine now."} if ASKED[asked][-1][1] else {})
        assert reconcile(own)["sound"]
    assert all(jobs_told == told["nobody"] for jobs_told in told.values())


def test_an_upload_takes_the_place_of_a_sources_document_until_that_changes(tmp_path: Path, model: Path) -> None:
    home, docs, name = tmp_path / "home", tmp_path / "docs", "x.txt"
    home.mkdir()
    docs.mkdir()
    (docs / "x.txt").write_text("The crane stops.")

    def skipped() -> list[tuple[str, str]]:
        return [(s["source"], s["code"]) for s in sync(Folder(docs), home, model)["skipped"]]

    assert skipped() == []
    before = found(home)
    assert done(home, "put", BROKEN, name).code == "damaged"
    assert found(home) == before, "what cannot be read takes no place"
    done(home, "put", GOOD, name)
    assert (skipped(), found(home)[name]) == ([("x.txt", "replaced")], "Mine now.")
    (docs / "x.txt").write_text("The source has changed.")
    assert skipped() == []
    moved = "docs/x.txt"
    assert found(home) == {name: "Mine now.", moved: "The source has changed."}
    done(home, "delete", name=moved)
    assert (skipped(), moved in found(home)) == ([("x.txt", "deleted")], False)
    (docs / "x.txt").write_text("The source has changed again.")
    assert (skipped(), found(home)[moved]) == ([], "The source has changed again.")
    assert reconcile(home)["sound"]


@pytest.mark.parametrize("step", ["Ledger.save", "IndexStore.put", "finish"])
def test_taking_a_place_survives_a_kill(homes: dict[str, Path], tmp_path: Path, step: str) -> None:
    home = Path(shutil.copytree(homes["folder"], tmp_path / "home"))
    jobs.enqueue(home, Job("job", "x.txt", "put", "queued", now()), GOOD, media_type="text/plain")
    assert in_child(lambda: work(home), kill_in(step)) == KILLED
    ended = work(home)
    assert ended is not None and (ended.state, ended.passages) == ("done", 1)
    assert found(home) == {"b.txt": "The beam holds.", "x.txt": "Mine now."}
    assert reconcile(home)["sound"]
