"""An upload and the document that has its id already: whose it is, or whether there is one, shows to nobody who may not read it."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from quarry_contract.index_store import connect
from quarry_contract.messages import Job
from quarry_runtime import tiny

from quarry_ingestion import jobs
from quarry_ingestion.ledger import LEDGER_DATABASE, now
from quarry_ingestion.pipeline import sync
from quarry_ingestion.reconcile import reconcile
from quarry_ingestion.sources import Folder, SourceError
from quarry_ingestion.targets import read_targets
from quarry_ingestion.uploads import work
from quarry_ingestion.writer import Writer

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


def test_an_upload_takes_the_place_of_a_sources_document(tmp_path: Path, model: Path) -> None:
    """Which does not come under another id: who may read that, and not the upload, would know of it."""
    home, docs, name = tmp_path / "home", tmp_path / "docs", "x.txt"
    home.mkdir()
    docs.mkdir()
    (docs / "always.txt").write_text("The pile stands.")
    (docs / "x.txt").write_text("The crane stops.")

    def skipped() -> list[tuple[str, str]]:
        return [(s["source"], s["code"]) for s in sync(Folder(docs), home, model)["skipped"]]

    assert skipped() == []
    before = found(home)
    assert done(home, "put", BROKEN, name).code == "damaged"
    assert found(home) == before, "what cannot be read takes no place"
    done(home, "put", GOOD, name)
    for text in ("The source has changed.", "And again."):
        assert (skipped(), found(home)) == ([("x.txt", "replaced")], {"always.txt": "The pile stands.", name: "Mine now."})
        (docs / "x.txt").write_text(text)
    (docs / "x.txt").write_text("The crane stops.")
    assert skipped() == [("x.txt", "replaced")]
    done(home, "delete", name=name)
    assert found(home) == {"always.txt": "The pile stands."}
    assert (skipped(), found(home)[name]) == ([], "The crane stops."), "it has changed since it was replaced"
    done(home, "delete", name=name)
    assert (skipped(), name in found(home)) == ([("x.txt", "deleted")], False)
    (docs / "x.txt").write_text("The source has changed once more.")
    assert (skipped(), found(home)[name]) == ([], "The source has changed once more.")
    assert reconcile(home)["sound"]


def test_a_replaced_item_that_does_not_change_is_like_a_deleted_one(homes: dict[str, Path], tmp_path: Path, model: Path) -> None:
    home = Path(shutil.copytree(homes["folder"], tmp_path / "home"))
    folder = Folder(homes["folder"] / "docs")
    for steps in ([("put", GOOD), ("delete", None)], [("delete", None)]):
        for action, data in steps:
            done(home, action, data)
        for _ in range(2):
            assert len(sync(folder, home, model)["skipped"]) == 1 and found(home) == {"b.txt": "The beam holds."}
    (homes["folder"] / "docs" / "x.txt").touch()
    assert sync(folder, home, model)["skipped"] == [] and found(home)["x.txt"] == "The crane stops."
    assert reconcile(home)["sound"]


def test_a_file_whose_id_an_upload_has_waits_for_it_to_go(homes: dict[str, Path], tmp_path: Path, model: Path) -> None:
    home = Path(shutil.copytree(homes["upload"], tmp_path / "home"))
    docs = homes["upload"] / "docs"
    (docs / "x.txt").write_text("The folder's.")
    for _ in range(2):
        told = sync(Folder(docs), home, model)
        assert ([s["code"] for s in told["skipped"]], told["documents"], found(home)["x.txt"]) == (["replaced"], 2, "Of another.")
    done(home, "forget")
    assert sync(Folder(docs), home, model)["skipped"] == [] and found(home)["x.txt"] == "The folder's."
    (docs / "x.txt").unlink()
    sync(Folder(docs), home, model)
    assert found(home) == {"b.txt": "The beam holds."} and reconcile(home)["sound"]


def test_an_upload_that_comes_while_the_file_is_read_stays(homes: dict[str, Path], tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the file's bytes changed, only its readers, or it went."""
    docs = tmp_path / "docs"
    for way in ("bytes", "readers", "gone"):
        shutil.rmtree(docs, ignore_errors=True)
        shutil.copytree(homes["folder"] / "docs", docs)
        home = tmp_path / way
        home.mkdir()
        sync(Folder(docs), home, model)
        if way == "bytes":
            (docs / "x.txt").write_text("Changed.")
        elif way == "readers":
            (docs / ".quarry.json").write_text('{"principals": {"*": ["group:a"]}}')
        else:
            (docs / "x.txt").unlink()
        hook = {"bytes": "put", "readers": "permit", "gone": "remove_item"}[way]
        real, came = getattr(Writer, hook), []

        def first(self: Writer, *arguments: Any, real: Any = real, came: list[int] = came, home: Path = home) -> Any:
            if not came:
                came.append(1)
                done(home, "put", GOOD)
            return real(self, *arguments)

        with monkeypatch.context() as patched:
            patched.setattr(Writer, hook, first)  # only to be there at that moment
            sync(Folder(docs), home, model)
        [(text, principals)] = rows(home, read_targets(home)[0][0], "SELECT text, principals FROM documents WHERE document_id = 'x.txt'")
        assert came and (text, principals) == ("Mine now.", '["*"]')
        assert reconcile(home)["sound"]


def ids(home: Path) -> list[str]:
    return sorted(found(home))


def test_ids_tell_of_no_other_document(tmp_path: Path, model: Path) -> None:
    """A later source's documents have the same ids whatever the first one holds, also where a folder of it has the later one's name."""
    told = []
    for world, hidden in (("with", ("x.txt", "docs/x.txt", "docs/sub/y.txt", "a.txt")), ("without", ("a.txt",))):
        base = tmp_path / world
        (base / "home").mkdir(parents=True)
        for name, files in (("first", hidden), ("docs", ("x.txt", "sub/y.txt")), ("other/docs", ("x.txt",))):
            for file in files:
                path = base / name / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"The {file} of {name}.")
        for name in ("first", "docs", "other/docs", "docs"):
            sync(Folder(base / name), base / "home", model)
        told.append([i for i in ids(base / "home") if i not in hidden])
        assert len(ids(base / "home")) == len(hidden) + 3 and reconcile(base / "home")["sound"]
    assert told[0] == told[1] == [".docs-2/x.txt", ".docs/sub/y.txt", ".docs/x.txt"]


def test_a_first_source_that_was_a_mistake_takes_no_name(tmp_path: Path, model: Path) -> None:
    for name in ("empty", "docs", "home"):
        (tmp_path / name).mkdir()
    (tmp_path / "docs" / "x.txt").write_text("The crane stops.")
    with pytest.raises(SourceError, match="holds no files"):
        sync(Folder(tmp_path / "empty"), tmp_path / "home", model)
    sync(Folder(tmp_path / "docs"), tmp_path / "home", model)
    assert ids(tmp_path / "home") == ["x.txt"]


def test_documents_of_before_sources_had_names_keep_their_ids(tmp_path: Path, model: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for name, files in (("first", ("x.txt", "y.txt")), ("docs", ("x.txt", "z.txt"))):
        for file in files:
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text(f"The {file} of {name}.")
        sync(Folder(tmp_path / name), home, model)
    before = {".docs/x.txt": "docs/x.txt", ".docs/z.txt": "z.txt"}  # as they were: only where another had the path
    with closing(connect(home / LEDGER_DATABASE, writing=True)) as ledger:
        for now_named, named in before.items():
            ledger.execute("UPDATE items SET document_id = ? WHERE document_id = ?", (named, now_named))
        ledger.execute("DROP TABLE sources")
    for name in ("first", "docs"):  # which puts them right in the index
        sync(Folder(tmp_path / name), home, model)
    assert ids(home) == ["docs/x.txt", "x.txt", "y.txt", "z.txt"]
    (tmp_path / "first" / "docs").mkdir()
    (tmp_path / "first" / "docs" / "x.txt").write_text("One whose id another has from before.")
    (tmp_path / "docs" / "x.txt").write_text("Changed.")
    (tmp_path / "docs" / "new.txt").write_text("New.")
    for name in ("first", "docs"):
        assert sync(Folder(tmp_path / name), home, model)["skipped"] == []
    assert ids(home) == [".docs/new.txt", ".first/docs/x.txt", "docs/x.txt", "x.txt", "y.txt", "z.txt"]
    assert found(home)["docs/x.txt"] == "Changed." and reconcile(home)["sound"]


@pytest.mark.parametrize("step", ["Ledger.save", "IndexStore.put", "finish"])
def test_taking_a_place_survives_a_kill(homes: dict[str, Path], tmp_path: Path, step: str) -> None:
    home = Path(shutil.copytree(homes["folder"], tmp_path / "home"))
    jobs.enqueue(home, Job("job", "x.txt", "put", "queued", now()), GOOD, media_type="text/plain")
    assert in_child(lambda: work(home), kill_in(step)) == KILLED
    ended = work(home)
    assert ended is not None and (ended.state, ended.passages) == ("done", 1)
    assert found(home) == {"b.txt": "The beam holds.", "x.txt": "Mine now."}
    assert reconcile(home)["sound"]
