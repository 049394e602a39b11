"""A real Airflow, not `dags test`: API server, DAG processor and scheduler, which runs a backfill and tells a wire-level Alertmanager who is late."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from .conftest import AIRFLOW, World, end

PATIENCE_SEC = 240
DAY = "2026-05-01T00:00:00"


class Alertmanager(BaseHTTPRequestHandler):
    """Takes alerts."""

    told: list[tuple[str, Any]] = []  # noqa: RUF012 - of all requests

    def do_POST(self) -> None:
        self.told.append((self.path, json.loads(self.rfile.read(int(self.headers["content-length"])))))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def alertmanager() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Alertmanager)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def settings(world: World, alertmanager: str) -> dict[str, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    airflow = {
        "API__HOST": "127.0.0.1",
        "API__PORT": str(port),
        "API__WORKERS": "1",
        "API_AUTH__JWT_SECRET": "x" * 64,
        "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "CORE__PARALLELISM": "2",
    }
    late = {"QUARRY_AIRFLOW_DEADLINE_SEC": "1", "QUARRY_AIRFLOW_ALERTMANAGER": alertmanager}
    return world.environment | late | {f"AIRFLOW__{name}": value for name, value in airflow.items()}


@contextmanager
def component(world: World, environment: dict[str, str], *command: str) -> Iterator[None]:
    with (
        (world.folder / f"{command[0]}.log").open("wb") as log,
        subprocess.Popen([AIRFLOW, *command], env=environment, stdout=log, stderr=log, start_new_session=True) as process,
    ):
        try:
            yield
        finally:
            end(process)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what it started


def wait_for(world: World, what: str, seen: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE_SEC
    while not seen():
        if time.monotonic() > until:
            logs = {path.name: path.read_text(errors="replace")[-2000:] for path in world.folder.glob("*.log")}
            pytest.fail(f"{what} did not come\n" + "\n".join(f"== {name}\n{text}" for name, text in logs.items()))
        time.sleep(0.5)


def test_a_backfill_beside_a_scheduled_run_does_the_work_once_and_late_runs_are_told(world: World, alertmanager: str) -> None:
    started, environment = len(world.kubeflow.runs()), settings(world, alertmanager)
    with ExitStack() as stack:
        for command in (["api-server", "--apps", "execution"], ["dag-processor"], ["scheduler", "--skip-serve-logs"]):
            stack.enter_context(component(world, environment, *command))
        wait_for(world, "the DAG", lambda: world.rows("SELECT 1 FROM serialized_dag"))
        backfill = [AIRFLOW, "backfill", "create", "--dag-id", "quarry_ingest", "--from-date", DAY, "--to-date", DAY]
        subprocess.run(backfill, env=environment, check=True, capture_output=True, timeout=PATIENCE_SEC)
        query = "SELECT run_type, state FROM dag_run WHERE state NOT IN ('queued', 'running') ORDER BY run_type"
        wait_for(world, "the end of both runs", lambda: len(world.rows(query)) >= 2)
        wait_for(world, "an alert", lambda: Alertmanager.told)
        assert world.rows(query) == [("backfill", "success"), ("scheduled", "success")]
    made = [json.loads(value) for (value,) in world.rows("SELECT value FROM xcom WHERE task_id = 'index'")]
    assert sorted(found["encoded"] for found in made) == [0, 2]
    assert len({found["digest"] for found in made}) == 1
    assert len(world.kubeflow.runs()) == started + 1
    path, [alert] = Alertmanager.told[0]
    assert (path, alert["labels"]["alertname"], alert["labels"]["dag_id"]) == ("/api/v2/alerts", "QuarryIngestLate", "quarry_ingest")
    runs = {run for (run,) in world.rows("SELECT run_id FROM dag_run")}
    assert alert["labels"]["run_id"] in runs
    assert f"{alert['labels']['run_id']}, has not succeeded by 20" in alert["annotations"]["summary"]
