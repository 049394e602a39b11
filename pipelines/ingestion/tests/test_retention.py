"""Retention: what is kept no longer goes, by every way there is, and nothing else; the clock is the test's."""

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from quarry_contract.messages import Job
from quarry_runtime import tiny

from quarry_ingestion import jobs
from quarry_ingestion.ledger import LEDGER_DATABASE, Entry, Ledger
from quarry_ingestion.pipeline import sync
from quarry_ingestion.reconcile import reconcile
from quarry_ingestion.retention import DAY_SEC, RETENTION, Retention, Rule, expire_all
from quarry_ingestion.sources import Folder, SourceError
from quarry_ingestion.uploads import work

from .crash import KILLED, in_child, kill_in
from .test_ingest import command, report
from .test_serve import documents

START = 1_700_000_000.0  # when the files were modified, and the first run is


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    tiny.encoder(folder, ["crane", "pile", "wall", "wind"], dimension=4)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "docs" / "minutes").mkdir(parents=True)
    (tmp_path / "home").mkdir()
    for name in ("a.txt", "b.txt", "minutes/c.txt"):
        write(tmp_path / "docs" / name, f"The crane of {name}.", 0)
    return tmp_path / "docs"


@pytest.fixture
def home(root: Path) -> Path:
    return root.parent / "home"


def write(path: Path, text: str, day: float) -> None:
    path.write_text(text)
    os.utime(path, (START + day * DAY_SEC, START + day * DAY_SEC))


def rules(home: Path, *found: dict[str, Any]) -> None:
    (home / RETENTION).write_text(json.dumps(found))


def at(day: float) -> float:
    return START + day * DAY_SEC


def ledger(home: Path) -> dict[str, tuple[str | None, str | None]]:
    with closing(sqlite3.connect(home / LEDGER_DATABASE)) as database:
        return {name: (code, detail) for name, code, detail in database.execute("SELECT document_id, code, detail FROM items")}


def test_an_ingest_lets_go_of_what_is_too_old_and_never_reads_it(root: Path, home: Path, model: Path) -> None:
    rules(home, {"documents": "*", "days": 30, "since": "modified"}, {"documents": "minutes/*", "days": 10, "since": "modified"})
    assert sync(Folder(root), home, model, at=at(9))["documents"] == 3
    write(root / "b.txt", "The crane of b.txt, again.", 25)
    write(root / "minutes" / "late.txt", "The pile.", 2)
    found = sync(Folder(root), home, model, at=at(20))
    assert (found["added"], found["updated"], found["removed"], found["encoded"]) == (0, 1, 1, 1)
    assert set(documents(home)) == {"a.txt", "b.txt"}
    told = "not modified for more than 10 days"
    assert [(s["source"], s["code"], s["detail"]) for s in found["skipped"]] == [(f"minutes/{name}.txt", "expired", told) for name in ("c", "late")]
    assert ledger(home)["minutes/c.txt"] == ("expired", told)
    found = sync(Folder(root), home, model, at=at(31))
    assert (found["removed"], found["encoded"], found["unchanged"]) == (1, 0, 1)
    assert set(documents(home)) == {"b.txt"}
    assert ledger(home)["a.txt"] == ("expired", "not modified for more than 30 days")
    assert reconcile(home, at(31))["sound"]


def test_what_is_kept_again_or_modified_again_comes_back(root: Path, home: Path, model: Path) -> None:
    rules(home, {"days": 10, "since": "modified"})
    write(root / "b.txt", "The wall.", 15)
    sync(Folder(root), home, model, at=at(20))
    assert set(documents(home)) == {"b.txt"}
    write(root / "a.txt", "The crane of a.txt.", 19)  # the same words
    assert sync(Folder(root), home, model, at=at(20))["added"] == 1
    assert set(documents(home)) == {"a.txt", "b.txt"}
    rules(home, {"days": 10, "since": "modified"}, {"documents": "minutes/*", "days": None, "since": "modified"})
    found = sync(Folder(root), home, model, at=at(20))
    assert (found["added"], found["unchanged"], found["skipped"]) == (1, 2, [])
    assert set(documents(home)) == {"a.txt", "b.txt", "minutes/c.txt"}


def test_reconcile_and_the_command_apply_it_to_every_source(root: Path, home: Path, model: Path) -> None:
    """Uploads count from when they were taken; a source that nobody looks at any more, from its last run."""
    sync(Folder(root), home, model, at=at(0))
    for day in (0, 50):
        job = Job(f"job-{day}", f"up/{day}.txt", "put", "queued", f"{['2023-11-14', '2024-01-03'][day // 50]}T22:13:20+00:00")
        jobs.enqueue(home, job, b"The wind of an upload.", media_type="text/plain")
    while work(home):
        pass
    rules(home, {"source": "upload", "days": 30, "since": "modified"}, {"source": f"{root}*", "documents": "a*", "days": 60, "since": "seen"})
    assert reconcile(home, at(30))["expired"] == []
    found = reconcile(home, at(30.01))
    assert (found["expired"], found["sound"]) == (["up/0.txt"], True)
    assert ledger(home)["up/0.txt"] == ("expired", "not modified for more than 30 days")
    sync(Folder(root), home, model, at=at(40))
    assert expire_all(home, at(99))["expired"] == ["up/50.txt"]
    assert expire_all(home, at(101))["expired"] == ["a.txt"]
    assert ledger(home)["a.txt"] == ("expired", "not seen for more than 60 days")
    assert set(documents(home)) == {"b.txt", "minutes/c.txt"}
    assert reconcile(home, at(101))["sound"]
    assert sync(Folder(root), home, model, at=at(101))["added"] == 1, "seen again"
    rules(home, {"days": 1, "since": "modified"})
    assert report(command("--expire", "--home", home))["expired"] == ["a.txt", "b.txt", "minutes/c.txt"], "by the real clock"


def test_an_upload_of_the_same_name_begins_anew(root: Path, home: Path, model: Path) -> None:
    sync(Folder(root), home, model, at=at(0))
    rules(home, {"source": "upload", "days": 30, "since": "modified"})
    for number, day in enumerate(("2023-11-14", "2023-12-20")):
        jobs.enqueue(home, Job(f"job-{number}", "up.txt", "put", "queued", f"{day}T00:00:00+00:00"), b"The wall.", media_type="text/plain")
        work(home)
        assert expire_all(home, at(31))["expired"] == (["up.txt"] if number == 0 else [])
    assert "up.txt" in documents(home)
    assert sync(Folder(root), home, model, at=at(67))["expired"] == ["up.txt"], "an ingest sees to all sources"


def test_what_a_request_deleted_does_not_come_back_by_a_rule(root: Path, home: Path, model: Path) -> None:
    sync(Folder(root), home, model, at=at(0))
    jobs.enqueue(home, Job("job", "a.txt", "delete", "queued", "2023-11-14T00:00:00+00:00"), None)
    work(home)
    for days, there in ((10, set()), (100, {"b.txt", "minutes/c.txt"})):
        rules(home, {"days": days, "since": "modified"})
        sync(Folder(root), home, model, at=at(20))
        assert set(documents(home)) == there
        assert ledger(home)["a.txt"][0] == "deleted"
    write(root / "a.txt", "The crane, changed.", 1)
    sync(Folder(root), home, model, at=at(20))
    assert "a.txt" in documents(home)


def test_expiring_that_is_killed_is_finished_by_the_next(root: Path, home: Path, model: Path) -> None:
    sync(Folder(root), home, model, at=at(0))
    rules(home, {"days": 10, "since": "modified"})
    for function in ("Ledger.save", "IndexStore.delete"):
        assert in_child(lambda: expire_all(home, at(11)), kill_in(function, 2)) == KILLED
    expire_all(home, at(11))
    assert documents(home) == {}
    assert {code for code, _ in ledger(home).values()} == {"expired"}
    assert reconcile(home, at(11))["sound"]


def test_a_document_that_changes_meanwhile_is_judged_as_it_is_now(root: Path, home: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync(Folder(root), home, model, at=at(0))
    rules(home, {"days": 10, "since": "modified"})
    real = Ledger.indexed

    def then_modified(self: Ledger) -> list[Entry]:
        due = list(real(self))
        write(root / "a.txt", "The crane, new.", 10)
        (home / RETENTION).rename(home / "away")
        sync(Folder(root), home, model, at=at(10))
        (home / "away").rename(home / RETENTION)
        return due

    monkeypatch.setattr(Ledger, "indexed", lambda self: then_modified(self) if not (monkeypatch.undo()) else [])  # only to be there at that moment
    assert expire_all(home, at(11))["expired"] == ["b.txt", "minutes/c.txt"]
    assert set(documents(home)) == {"a.txt"}


WRONG = [
    "{",
    "{}",
    "[1]",
    '[{"days": 3}]',
    '[{"days": 0, "since": "seen"}]',
    '[{"days": true, "since": "seen"}]',
    '[{"days": "3", "since": "seen"}]',
    '[{"days": 3, "since": "created"}]',
    '[{"days": 3, "since": "seen", "document": "*"}]',
    '[{"days": 3, "since": "seen", "source": 1}]',
]


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_file_removes_nothing_and_is_told(text: str, home: Path) -> None:
    (home / RETENTION).write_text(text)
    for run in (expire_all, reconcile):
        with pytest.raises(SourceError, match=r"retention\.json"):
            run(home)


def test_the_last_rule_that_matches_decides() -> None:
    entry = Entry("s3://site/docs", "minutes/a.md", "a", "", None, 1, (), (), None, None, 0, 1, START, START + DAY_SEC)
    every, minutes = Rule("*", "*", 5, "modified"), Rule("s3://site/*", "minutes/*", 9, "seen")

    def kept(day: float, *found: Rule) -> bool:
        return Retention(found, at(day)).expired(entry) is None

    assert kept(1000)
    assert (kept(5, every), kept(5.1, every)) == (True, False)
    assert (kept(10, every, minutes), kept(10.1, every, minutes)) == (True, False)
    assert not kept(6, minutes, every)
    assert kept(1000, every, Rule("*", "*.md", None, "seen"))
    assert not kept(6, every, Rule("s3://other/*", "*", None, "seen"))


def test_a_ledger_of_before_counts_from_when_it_was_written(root: Path, home: Path, model: Path) -> None:
    sync(Folder(root), home, model)
    with closing(sqlite3.connect(home / LEDGER_DATABASE)) as database, database:
        for column in ("modified", "last_seen"):
            database.execute(f"ALTER TABLE items DROP COLUMN {column}")
        database.execute("UPDATE items SET changed = '2023-11-14T22:13:20+00:00' WHERE uri <> 'b.txt'")
    rules(home, {"documents": "[ab].txt", "days": 30, "since": "modified"})
    assert expire_all(home, at(29))["expired"] == []
    assert expire_all(home, at(31))["expired"] == ["a.txt"]
    (home / RETENTION).unlink()
    sync(Folder(root), home, model)
    with closing(sqlite3.connect(home / LEDGER_DATABASE)) as database:
        assert database.execute("SELECT DISTINCT modified FROM items").fetchall() == [(START,)], "what the source says, from the next run on"


def test_the_rules_may_stand_in_a_file_elsewhere_which_must_then_be_there(root: Path, home: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules(home, {"days": None, "since": "modified"})
    monkeypatch.setenv("QUARRY_RETENTION_FILE", str(home / "elsewhere.json"))
    done = command(root, "--home", home, "--model-dir", model)
    assert (done.returncode, done.stdout) == (2, "")
    assert "elsewhere.json cannot be read" in done.stderr
    (home / "elsewhere.json").write_text('[{"documents": "b.txt", "days": 1, "since": "modified"}]')
    told = report(command(root, "--home", home, "--model-dir", model))
    assert (told["documents"], [s["code"] for s in told["skipped"]]) == (2, ["expired"])
