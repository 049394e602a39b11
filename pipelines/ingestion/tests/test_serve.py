"""Uploads over HTTP: the real process, with a tiny real encoder."""

import http.client
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from quarry_contract.index_store import INDEX_DATABASE, connect
from quarry_contract.messages import Job
from quarry_runtime import tiny

from quarry_ingestion import jobs
from quarry_ingestion.ledger import now
from quarry_ingestion.locks import writing
from quarry_ingestion.pipeline import sync
from quarry_ingestion.sources import Folder

EVERYONE = {"X-Quarry-Principals": "*"}
TEXT = b"# Piles\n\nThe piles are 14 metres deep."


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    tiny.encoder(folder, ["crane", "pile", "wall", "wind"])
    return folder


@pytest.fixture
def home(tmp_path: Path, model: Path) -> Path:
    """An index of one document of a folder."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "wall.txt").write_text("The wall stands.")
    (tmp_path / "home").mkdir()
    sync(Folder(tmp_path / "docs"), tmp_path / "home", model)
    return tmp_path / "home"


class Served:
    """A process that serves uploads."""

    def __init__(self, home: Path, before: str = "", **variables: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        environment = os.environ | {f"QUARRY_INGESTION_{k}": v for k, v in ({"PORT": str(self.port)} | variables).items()}
        code = f"import sys; {before or 'pass'}; sys.argv[1:] = ['serve', '--home', {str(home)!r}]; from quarry_ingestion.__main__ import main; main()"
        self.process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        until = time.monotonic() + 60
        while self.process.poll() is None and time.monotonic() < until:
            try:
                if self.ask("GET", "/healthz")[0] == 200:
                    return
            except OSError:
                time.sleep(0.05)
        raise AssertionError("never up")

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any, dict[str, str]]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as line:
            line.request(method, path, body, headers or {})
            reply = line.getresponse()
            content = reply.read()
            told = json.loads(content) if "json" in reply.headers.get("content-type", "") else content.decode()
            return reply.status, told, dict(reply.headers)

    def put(self, document_id: str, body: Any = TEXT, **headers: str) -> Job:
        status, told, _ = self.ask("PUT", f"/documents/{document_id}", body, {**EVERYONE, **{k.replace("_", "-"): v for k, v in headers.items()}})
        assert status == 202, told
        return Job.from_dict(told)

    def ended(self, job: Job, **headers: str) -> Job:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            status, told, _ = self.ask("GET", f"/jobs/{job.job_id}", headers={k.replace("_", "-"): v for k, v in headers.items()})
            assert status == 200, told
            if told["state"] in ("done", "failed"):
                return Job.from_dict(told)
            time.sleep(0.05)
        raise AssertionError("the job never ends")

    def stop(self, sign: int = signal.SIGTERM) -> str:
        self.process.send_signal(sign)
        return self.process.communicate(timeout=60)[0].decode()


@contextmanager
def serving(home: Path, before: str = "", **variables: str) -> Iterator[Served]:
    made = Served(home, before, **variables)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.communicate()


def documents(home: Path) -> dict[str, tuple[str, str]]:
    """Document id -> (text, principals), in the only generation."""
    [path] = (home / "index").glob(f"*/{INDEX_DATABASE}")
    with closing(connect(path)) as database:
        return {i: (text, principals) for i, text, principals in database.execute("SELECT document_id, text, principals FROM documents")}


def test_a_document_is_put_replaced_and_deleted(home: Path) -> None:
    with serving(home) as served:
        job = served.put("plans/pile 1%2F2.md".replace(" ", "%20"), Content_Type="text/markdown", X_Quarry_Principals="group:b,group:a")
        assert (job.document_id, job.action, job.version) == ("plans/pile 1/2.md", "put", sha256(TEXT).hexdigest())
        done = served.ended(job)
        assert (done.state, done.passages, done.version) == ("done", 1, job.version)
        assert documents(home)["plans/pile 1/2.md"] == ("Piles\n\nThe piles are 14 metres deep.", '["group:a", "group:b"]')
        assert served.ended(served.put("plans/pile%201/2.md", b"Other words.")).state == "done"
        assert documents(home)["plans/pile 1/2.md"] == ("Other words.", '["*"]')
        status, told, _ = served.ask("DELETE", "/documents/plans/pile%201/2.md")
        assert (status, told["action"]) == (202, "delete")
        assert served.ended(Job.from_dict(told)).state == "done"
        absent = served.ask("DELETE", "/documents/never.txt?forget=true")[1]
        assert (absent["action"], served.ended(Job.from_dict(absent)).state) == ("forget", "done")
        assert set(documents(home)) == {"wall.txt"}
        assert not list((home / "uploads").iterdir())
        bad = served.ended(served.put("bad.pdf", b"%PDF-1.7 nothing"))
        assert (bad.state, bad.code) == ("failed", "damaged")
        counted = served.ask("GET", "/metrics")[1]
        assert 'quarry_ingestion_finished_total{code="damaged",state="failed"} 1.0' in counted


def test_what_cannot_be_taken_is_said(home: Path) -> None:
    with serving(home, MAX_UPLOAD_BYTES="1000") as served:
        wrong: list[tuple[str, str, Any, dict[str, str], int]] = [
            ("PUT", "/documents/a", b"x", {}, 400),
            ("PUT", "/documents/a", b"x", {"X-Quarry-Principals": "a,,b"}, 400),
            ("PUT", "/documents/%2e%2e/a", b"x", EVERYONE, 400),
            ("PUT", "/documents/", b"x", EVERYONE, 400),
            ("PUT", "/documents/a", b"x" * 1_001, EVERYONE, 413),
            ("PUT", "/documents/a", iter([b"x" * 600] * 3), EVERYONE, 413),
            ("PUT", "/documents/a", b"x", {**EVERYONE, "X-Quarry-Submitter": "%ff"}, 400),
            ("DELETE", "/documents/a?forget=maybe", None, {}, 400),
            ("POST", "/documents/a", b"x", EVERYONE, 405),
            ("GET", "/nothing", None, {}, 404),
            ("GET", "/jobs/..%2f..%2fledger.db", None, {}, 404),
        ]
        for method, path, body, headers, status in wrong:
            found, told, given = served.ask(method, path, body, headers)
            assert (found, told["status"], given["content-type"]) == (status, status, "application/problem+json"), path
        assert not list((home / "uploads").iterdir())
        assert served.ask("GET", "/readyz")[0] == 200


def test_a_job_is_told_to_its_submitter_alone(home: Path) -> None:
    with serving(home) as served:
        anna = {"X_Quarry_Submitter": "J%C3%B6rg"}
        job = served.put("a.txt", **anna)
        for headers in ({}, {"X-Quarry-Submitter": "ben"}):
            assert served.ask("GET", f"/jobs/{job.job_id}", headers=headers)[0] == 404
        assert served.ended(job, **anna).state == "done"
        assert served.ask("GET", f"/jobs/{served.put('b.txt').job_id}", headers={"X-Quarry-Submitter": "ben"})[0] == 404


def test_kill_9_loses_nothing_that_was_accepted(home: Path) -> None:
    with serving(home) as served, writing(home):  # so that nothing is done before the end
        accepted = [served.put(f"{n}.txt", b"The crane number %d." % n) for n in range(8)]
        accepted += [served.put("0.txt", b"The last word."), Job.from_dict(served.ask("DELETE", "/documents/1.txt")[1])]
        served.stop(signal.SIGKILL)
    (home / "uploads" / "broken-off").write_bytes(b"half")
    with serving(home) as served:
        assert [served.ended(job).state for job in accepted] == ["done"] * 10
        served.stop()
    found = documents(home)
    assert found["0.txt"][0] == "The last word.", "in the order they came"
    assert set(found) == {"wall.txt", "0.txt", *(f"{n}.txt" for n in range(2, 8))}
    assert not list((home / "uploads").iterdir())


def test_a_body_that_breaks_off_is_no_job(home: Path) -> None:
    with serving(home) as served:
        with socket.create_connection(("127.0.0.1", served.port)) as line:
            line.sendall(b"PUT /documents/a HTTP/1.1\r\nHost: a\r\nX-Quarry-Principals: *\r\nContent-Length: 500\r\n\r\nhalf a document")
        until = time.monotonic() + 30
        while list((home / "uploads").glob("*")) or not (home / "uploads").exists():
            assert time.monotonic() < until
            time.sleep(0.05)
        assert jobs.next_job(home) is None


def test_a_full_disk_is_told_and_takes_nothing(home: Path) -> None:
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))"
    with serving(home, limited) as served:
        status, told, headers = served.ask("PUT", "/documents/a", b"x" * 300_000, EVERYONE)
        assert (status, told["code"], headers["retry-after"]) == (429, "overloaded", "60")
        assert not list((home / "uploads").iterdir())
        assert jobs.next_job(home) is None
        assert served.ask("GET", "/healthz")[0] == 200


def test_a_job_that_cannot_be_done_now_waits_and_those_behind_it_too(home: Path, model: Path) -> None:
    away = model.rename(model.with_name("away"))
    try:
        with serving(home) as served:
            queued = [served.put("a.txt"), served.put("b.txt")]
            until = time.monotonic() + 60
            while served.ask("GET", "/readyz")[0] != 503:
                assert time.monotonic() < until
                time.sleep(0.05)
            assert served.ask("GET", f"/jobs/{queued[1].job_id}")[1]["state"] == "queued"
            away.rename(model)
            assert [served.ended(job).state for job in queued] == ["done", "done"]
            assert served.ask("GET", "/readyz")[0] == 200
    finally:
        if away.exists():
            away.rename(model)


def test_a_job_whose_bytes_are_lost_ends_and_those_behind_it_go_on(home: Path) -> None:
    lost, good = (Job(name, f"{name}.txt", "put", "queued", now()) for name in ("lost", "good"))
    for job in (lost, good):
        jobs.enqueue(home, job, TEXT)
    jobs.upload_path(home, "lost").unlink()
    with serving(home) as served:
        assert (served.ended(lost).state, served.ended(lost).code) == ("failed", "internal")
        assert served.ended(good).state == "done"


def test_a_mistake_of_ours_ends_one_job_and_not_those_behind_it(home: Path) -> None:
    mistaken = "import quarry_ingestion.uploads as u; read = u.read; u.read = lambda path: 1 / 0 if path.name == 'boom.txt' else read(path)"
    with serving(home, mistaken) as served:
        boom, good = served.put("boom.txt"), served.put("good.txt")
        assert (served.ended(boom).state, served.ended(boom).code) == ("failed", "internal")
        assert served.ended(good).state == "done"
        assert "ZeroDivisionError" in served.stop()


def test_sigterm_ends_after_the_job_at_hand(home: Path) -> None:
    with serving(home) as served:
        job = served.put("a.txt")
        log = served.stop()
        assert served.process.returncode == 0, log
    found = jobs.get(home, job.job_id)
    assert found is not None
    assert found.job.state in ("queued", "done"), "never half"


def graph(home: Path) -> tuple[int, str] | None:
    """Vectors and file of the saved one, which is what index.db says."""
    [path] = (home / "index").glob(f"*/{INDEX_DATABASE}")
    with closing(connect(path)) as database:
        found = database.execute("SELECT vectors, file, sha256 FROM graphs").fetchone()
    try:
        return (int(found[0]), str(found[1])) if found and sha256((path.parent / found[1]).read_bytes()).hexdigest() == found[2] else None
    except FileNotFoundError:  # another one came between
        return None


def until(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_search_graph_follows_uploads_and_what_is_forgotten(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUARRY_RETRIEVER_EXACT_UP_TO", "2")
    with serving(home) as served:
        last = [served.put(f"{n}.txt", b"The crane number %d." % n) for n in range(3)][-1]
        assert served.ended(last).state == "done"
        until(lambda: (graph(home) or (0,))[0] == 4)  # with the folder's
        assert served.ended(served.put("another.txt", b"The pile.")).state == "done"
        until(lambda: (graph(home) or (0,))[0] == 5)
        before = graph(home)
        assert served.ended(Job.from_dict(served.ask("DELETE", "/documents/another.txt?forget=true")[1])).state == "done"
        until(lambda: graph(home) not in (None, before))
        assert graph(home) is not None and graph(home)[0] == 4  # type: ignore[index]
        served.stop()
        assert served.process.returncode == 0


def test_jobs_go_on_beside_a_graph_that_is_being_made_and_sigterm_ends_it(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QUARRY_RETRIEVER_EXACT_UP_TO", "2")
    code = f"import os, pathlib, time; pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); time.sleep(600)"
    (tmp_path / "python").write_text(f"#!/bin/sh\nexec {sys.executable} -c {shlex.quote(code)}\n")  # where its interpreter is, one that takes long
    (tmp_path / "python").chmod(0o755)
    with serving(home, f"import quarry_ingestion.work; sys.executable = {str(tmp_path / 'python')!r}") as served:
        for n in range(3):
            assert served.ended(served.put(f"{n}.txt")).state == "done"
        until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
        assert served.ended(served.put("more.txt")).state == "done"
        served.stop()
        assert served.process.returncode == 0
        assert not Path(f"/proc/{(tmp_path / 'pid').read_text()}").exists()


def test_two_do_not_serve_one_home(home: Path) -> None:
    with serving(home):
        again = subprocess.run([sys.executable, "-m", "quarry_ingestion", "serve", "--home", str(home)], capture_output=True, text=True, check=False)
    assert (again.returncode, again.stderr) == (2, "not serving: uploads into this index are served already\n")
