"""A run that is late: the real scheduler finds the passed deadline and has us tell a wire-level stand-in of Alertmanager."""

import json
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any

from .conftest import AIRFLOW, airflow_environment
from .test_dag import SET

PATIENCE_SEC = 60


def test_a_run_past_its_deadline_is_told_to_alertmanager(tmp_path: Path, database: Path) -> None:
    told: Queue[tuple[str, Any]] = Queue()

    class Alertmanager(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.put((self.path, json.loads(self.rfile.read(int(self.headers["content-length"])))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    shutil.copy(database, tmp_path / "airflow.db")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Alertmanager)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    late = {"QUARRY_AIRFLOW_DEADLINE_SEC": "1", "QUARRY_AIRFLOW_ALERTMANAGER": f"http://127.0.0.1:{server.server_port}"}
    environment = airflow_environment(tmp_path) | SET | late | {"AIRFLOW__CORE__PARALLELISM": "1", "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": "0"}
    for command in (["reserialize"], ["trigger", "quarry_ingest", "--run-id", "late"]):  # the DAG is paused: its run stays queued
        subprocess.run([AIRFLOW, "dags", *command], env=environment, check=True, capture_output=True)
    with (tmp_path / "scheduler.log").open("wb") as log:
        scheduler = subprocess.Popen([AIRFLOW, "scheduler", "--skip-serve-logs"], env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        path, [alert] = told.get(timeout=PATIENCE_SEC)
    finally:
        scheduler.terminate()
        scheduler.wait(PATIENCE_SEC)
        server.shutdown()
        server.server_close()
    assert path == "/api/v2/alerts"
    assert alert["labels"] == {"alertname": "QuarryIngestLate", "severity": "warning", "dag_id": "quarry_ingest", "run_id": "late"}
    assert alert["annotations"]["summary"].startswith("quarry_ingest, run late, has not succeeded by 20")
