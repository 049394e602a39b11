"""A backup made while ingestion writes, restored into a fresh home, reconciled and asked: real index, real services, tiny models."""

import hashlib
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from e2e.machine import NEEDED, WORDS, Machine, bind_parts, environment_of, ingest, make_models

from quarry_delivery.workflows import CLONE

from .conftest import SCRIPTS, needs_environments

DOCUMENTS = 40
PYTHON = str(CLONE / "pipelines/ingestion/.venv/bin/python")
DRILL = str(SCRIPTS / "restore_drill.py")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A home with one release live, and its services not started."""
    needs_environments(*NEEDED)
    home = tmp_path_factory.mktemp("home")
    make_models(home)
    write(home / "documents", 5)
    ingest(home, str(home / "documents"))
    made = Machine(home, environment_of(home), {"a": bind_parts(home, 1, 1)})
    made.stack("promote", made.ids["a"])
    return made


def write(folder: Path, how_many: int) -> None:
    folder.mkdir(exist_ok=True)
    for i in range(how_many):
        (folder / f"{i}.txt").write_text(f"It is {WORDS[i % len(WORDS)]} {WORDS[(i * 7 + 3) % len(WORDS)]}, number {i}.")


def run(*command: str) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def drill(backup: Path, machine: Machine) -> "subprocess.CompletedProcess[str]":
    return run(sys.executable, DRILL, str(backup), "--models", str(machine.home / "models"), "--documents", "5")


def back_up(home: Path, to: Path) -> "subprocess.CompletedProcess[str]":
    return run(PYTHON, "-m", "quarry_ingestion.backup", str(home), str(to))


@pytest.fixture(scope="module")
def backup(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Made while an ingestion of more documents runs."""
    to = tmp_path_factory.mktemp("backups") / "latest"
    write(machine.home / "documents", DOCUMENTS)
    source = [str(machine.home / "documents"), "--home", str(machine.home), "--model-dir", str(machine.home / "models/retriever/1")]
    with subprocess.Popen([PYTHON, "-m", "quarry_ingestion", *source], stdout=subprocess.PIPE, text=True) as writing:
        while indexed(machine.home) <= 5 and writing.poll() is None:
            pass
        made = back_up(machine.home, to)
        assert made.returncode == 0, made.stderr
        writing.communicate()
    assert indexed(machine.home) == DOCUMENTS
    yield to


def indexed(home: Path) -> int:
    [database] = home.glob("index/*/index.db")
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT count(*) FROM documents").fetchone()[0])


def test_the_backup_answers_in_a_fresh_home(machine: Machine, backup: Path) -> None:
    assert 5 < indexed(backup) <= DOCUMENTS
    done = drill(backup, machine)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["asked"] == 5
    assert report["files"] == len(json.loads((backup / "backup.json").read_text())["files"])
    assert machine.running() == []


def damaged(backup: Path, folder: Path) -> Path:
    return Path(shutil.copytree(backup, folder / "copy"))


def test_a_backup_without_a_whole_file_is_told(machine: Machine, backup: Path, tmp_path: Path) -> None:
    copy = damaged(backup, tmp_path)
    ledger = copy / "ledger.db"
    ledger.write_bytes(ledger.read_bytes()[:-1])
    assert "ledger.db is missing in the backup, or is not what was copied" in drill(copy, machine).stderr
    ledger.unlink()
    assert "ledger.db is missing" in drill(copy, machine).stderr
    (copy / "backup.json").unlink()
    assert "is no whole backup" in drill(copy, machine).stderr


def rewritten(copy: Path, name: str) -> None:
    """The manifest says that this is what was copied."""
    manifest = json.loads((copy / "backup.json").read_text())
    manifest["files"][name] = hashlib.sha256((copy / name).read_bytes()).hexdigest()
    (copy / "backup.json").write_text(json.dumps(manifest))


def test_models_that_are_not_the_releases_are_told(machine: Machine, backup: Path, tmp_path: Path) -> None:
    models = Path(shutil.copytree(machine.home / "models", tmp_path / "models"))
    shutil.rmtree(models / "reader/1")
    shutil.copytree(models / "reader/2", models / "reader/1")
    told = run(sys.executable, DRILL, str(backup), "--models", str(models))
    assert told.returncode == 1
    assert "the restore drill failed: the stack does not start: " in told.stderr


def test_documents_that_are_not_found_are_told(machine: Machine, backup: Path, tmp_path: Path) -> None:
    """Whole by every digest, and nobody may read what is in it: ledger and index agree on that, so there is nothing to repair."""
    copy = damaged(backup, tmp_path)
    [index] = copy.glob("index/*/index.db")
    for database, statement in ((index, "UPDATE documents SET principals = '[]'"), (copy / "ledger.db", "UPDATE items SET principals = '[]', listed = '[]'")):
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute(statement)
        rewritten(copy, str(database.relative_to(copy)))
    assert "the backup holds no document that everyone may read" in drill(copy, machine).stderr


def test_a_backup_of_no_release_is_told(machine: Machine, backup: Path, tmp_path: Path) -> None:
    copy = damaged(backup, tmp_path)
    (copy / "releases/history.jsonl").write_text("")
    rewritten(copy, "releases/history.jsonl")
    assert "the stack does not start: nothing is released yet" in drill(copy, machine).stderr


def test_a_backup_is_not_written_over_another_nor_of_nothing(machine: Machine, backup: Path, tmp_path: Path) -> None:
    assert "is there already" in back_up(machine.home, backup).stderr
    assert "has no ledger.db" in back_up(tmp_path, tmp_path / "b").stderr
