"""Spark, with real executors, to the same index as one process: bad documents, changes, a killed executor, failures."""

import os
import shutil
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from quarry_runtime import tiny

from quarry_ingestion.__main__ import digests
from quarry_ingestion.blocks import Document
from quarry_ingestion.engine import Local, Result, Task
from quarry_ingestion.ledger import Entry
from quarry_ingestion.pipeline import reindex, sync
from quarry_ingestion.s3 import Prefix
from quarry_ingestion.sources import Folder, Item, Source, SourceError
from quarry_ingestion.spark import Spark, partitions
from quarry_ingestion.targets import Target, encoded

from .test_ingest import command, report, run
from .test_s3 import BUCKET, Between, between, put, s3, server  # noqa: F401 - fixtures

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="no Java: install openjdk-17-jre-headless")
WORDS = ["crane", "pile", "wall", "wind"]
ENTRY = Entry("", "", "", "", None, 1, (), (), None, None, 0, 1, 0.0, 0.0)
COUNTS = ("revision", "documents", "passages", "words", "encoded", "added", "updated", "removed", "unchanged", "skipped")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    tiny.encoder(folder, WORDS)
    return folder


@pytest.fixture(autouse=True, scope="module")
def short_lived_java() -> Iterator[None]:
    """Java compiles once, quickly: its second compiler costs more than such short runs ever win by it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
        yield


def fill(docs: Path) -> None:
    """Good documents (one longer than several partitions' worth of results) and bad ones."""
    (docs / "sub").mkdir(parents=True)
    for number in range(20):
        (docs / "sub" / f"{number:02}.md").write_text(f"# Crane {number}\n\nThe crane stops in wind {number}. The wall stands.")
    (docs / "long.txt").write_text("The pile is driven into the ground by a hammer. " * 2000)
    (docs / ".quarry.json").write_text('{"principals": {"sub/1*": ["group:site"]}}')
    for name, data in {"bad.pdf": b"%PDF-1.7 no", "empty.txt": b"", "page.docx": b"<html>no</html>", "x.txt": b"\0\1\2" * 99}.items():
        (docs / name).write_bytes(data)


def change(docs: Path) -> None:
    """A text, who may read some, one that is broken now, one mended, one gone, one new, one that looks changed and is not."""
    (docs / "sub" / "00.md").write_text("# Crane\n\nAnother text.")
    (docs / ".quarry.json").write_text('{"principals": {"sub/12*": ["group:other"]}}')
    (docs / "sub" / "01.md").write_bytes(b"%PDF-1.7 broken now")
    (docs / "empty.txt").write_text("The wind.")
    (docs / "sub" / "02.md").unlink()
    (docs / "new.txt").write_text("The new wall.")
    os.utime(docs / "sub" / "03.md")


def counts(found: dict[str, Any]) -> dict[str, Any]:
    return {name: found[name] for name in COUNTS}


@needs_java
def test_spark_gives_what_one_process_gives_through_changes_bad_documents_and_two_retrievers(tmp_path: Path, model: Path) -> None:
    docs, one, many = tmp_path / "docs", tmp_path / "one", tmp_path / "many"
    fill(docs)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "new.txt").write_text("It has the id that another new.txt will want.")
    spark = Spark("local[2]", most_characters=500)  # so that partitions are cut short
    for home in (one, many):
        home.mkdir()
        sync(Folder(tmp_path / "other"), home, model)
    first = sync(Folder(docs), many, model, spark)
    assert counts(first) == counts(sync(Folder(docs), one, model))
    assert sorted(s["code"] for s in first["skipped"]) == ["damaged", "empty", "mislabelled", "not_text"]
    tiny.encoder(tmp_path / "second", WORDS, dimension=4, seed=2)
    for home in (one, many):
        reindex(home, tmp_path / "second")
    change(docs)
    second = sync(Folder(docs), many, model, spark)
    assert counts(second) == counts(sync(Folder(docs), one, model))
    assert [second[name] for name in ("added", "updated", "removed")] == [2, 11, 2]
    made = digests(many)
    assert made == digests(one)
    assert len(made["digests"]) == 2


def executors() -> list[int]:
    """The Java processes that are executors under this process."""
    found = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and b"CoarseGrainedExecutorBackend" in _about(entry, "cmdline")]
    return sorted(pid for pid in found if os.getpid() in _ancestors(pid))


def _about(process: Path, what: str) -> bytes:
    try:
        return (process / what).read_bytes()
    except OSError:
        return b""


def _ancestors(pid: int) -> Iterator[int]:
    while pid > 1:
        pid = int(_about(Path("/proc", str(pid)), "stat").rpartition(b")")[2].split()[1] or 0)
        yield pid


@needs_java
def test_an_executor_that_is_killed_changes_nothing_and_no_secret_is_told(
    s3: Any,  # noqa: F811
    between: type[Between],  # noqa: F811
    tmp_path: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    docs = tmp_path / "docs"
    fill(docs)
    for path in sorted(docs.rglob("*")):
        if path.is_file():
            put(s3, f"docs/{path.relative_to(docs).as_posix()}", path.read_bytes())
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "never-to-be-told")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "nor-this-one")
    monkeypatch.setenv("SPARK_WORKER_DIR", str(tmp_path / "workers"))
    killed: list[int] = []
    answer = between.do_GET

    def kill_and_answer(request: Between) -> None:
        """At the first question for this document, one executor dies."""
        if request.path.endswith("07.md") and not killed:
            killed.extend(executors()[:1])
            os.kill(killed[0], signal.SIGKILL)
        answer(request)

    monkeypatch.setattr(between, "do_GET", kill_and_answer)
    address = f"s3://{BUCKET}/docs"
    done = command(address, "--home", tmp_path / "spark", "--model-dir", model, "--engine", "spark", "--spark-master", "local-cluster[2,1,1024]")
    found = report(done)
    assert len(killed) == 1
    assert "Lost executor" in done.stderr
    assert not [secret for secret in ("never-to-be-told", "nor-this-one") if secret in done.stdout + done.stderr]
    for name, source in {"s3": Prefix(address), "folder": Folder(docs)}.items():
        (tmp_path / name).mkdir()
        assert counts(sync(source, tmp_path / name, model)) == counts(found)
        assert digests(tmp_path / name) == digests(tmp_path / "spark")


@needs_java
def test_when_executors_cannot_read_the_source_nothing_is_deleted(s3: Any, between: type[Between], tmp_path: Path, model: Path) -> None:  # noqa: F811
    put(s3, "gone.txt", "The crane.")
    sync(Prefix(f"s3://{BUCKET}"), tmp_path, model)
    before = digests(tmp_path)
    s3.delete_object(Bucket=BUCKET, Key="gone.txt")
    put(s3, "b.txt", "The wall.")
    between.harm = {"b.txt": "flip"}
    with pytest.raises(SourceError, match="on an executor: s3://"):
        sync(Prefix(f"s3://{BUCKET}"), tmp_path, model, Spark("local[2]"))
    assert digests(tmp_path) == before


def test_spark_starts_for_changes_only_and_says_when_it_does_not_start(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, docs = tmp_path / "home", tmp_path / "docs"
    docs.mkdir()
    (docs / "a.txt").write_text("The crane.")
    report(run(docs, home, model))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    arguments = (docs, "--home", home, "--model-dir", model, "--engine", "spark", "--spark-master", "local[1]")
    assert report(command(*arguments))["unchanged"] == 1
    (docs / "a.txt").write_text("The pile and the wall.")
    done = command(*arguments)
    assert (done.returncode, "needs Java 17" in done.stderr, "Traceback" in done.stderr) == (2, True, False)


class Misnaming(Local):
    """Makes passages as executors do, for an id that another item took meanwhile."""

    def results(self, source: Source, targets: Sequence[Target], tasks: Iterable[Task]) -> Iterator[Result]:
        for task, outcome in super().results(source, targets, tasks):
            assert outcome is not None
            assert isinstance(outcome.found, Document)
            document = replace(outcome.found, document_id="other.txt")
            made = {target.generation: encoded(document, target.encoder, target.store.manifest.chunker) for target in targets}
            yield task, replace(outcome, passages=made)


def test_passages_made_for_an_id_that_is_taken_meanwhile_get_the_ids_of_the_other(tmp_path: Path, model: Path) -> None:
    docs, one, many = tmp_path / "docs", tmp_path / "one", tmp_path / "many"
    for folder in (docs, one, many):
        folder.mkdir()
    (docs / "a.txt").write_text("The crane stops in wind.")
    sync(Folder(docs), one, model)
    assert sync(Folder(docs), many, model, Misnaming(tmp_path / "reading"))["passages"] == 1
    assert digests(one) == digests(many)


def test_partitions_are_bounded_by_documents_and_bytes_and_keep_their_order(tmp_path: Path) -> None:
    sizes = [100] * 20 + [1 << 21] + [600_000] * 3
    tasks = [Task(Item(str(n), str(n), "", size, (), 0.0), ENTRY, None, None, "") for n, size in enumerate(sizes)]
    made = list(partitions(tasks))
    assert [len(part) for part in made] == [16, 4, 1, 1, 1, 1]
    assert [task for part in made for task in part] == tasks
