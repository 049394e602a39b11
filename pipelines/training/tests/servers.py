"""Real servers for the tests, each on a free port or socket of its own: MLflow, PostgreSQL, and moto's S3."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import boto3
import psycopg2
import pytest
from moto.server import ThreadedMotoServer


@contextlib.contextmanager
def mlflow(folder: Path, store: str, artefacts: str, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    stores = ["--backend-store-uri", store, "--artifacts-destination", artefacts]
    command = [sys.executable, "-m", "mlflow", "server", *stores, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true", **(environment or {})}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=os.environ | settings, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait(lambda: _answers(f"http://127.0.0.1:{port}/health"), process, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


@contextlib.contextmanager
def s3_bucket() -> Iterator[tuple[str, dict[str, str]]]:
    """(s3://bucket, the environment a client of it needs)."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    environment = {
        "AWS_ENDPOINT_URL": url,
        "MLFLOW_S3_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=url, **keys).create_bucket(Bucket="models")
        yield "s3://models/artefacts", environment
    finally:
        server.stop()


@contextlib.contextmanager
def postgresql() -> Iterator[dict[str, str]]:
    """A database cluster in a folder of its own, on a Unix socket, as the environment that libpq reads; as root, run by the account the package made."""
    bin_folder = _postgresql_programs()
    root = os.getuid() == 0
    user = "postgres" if root else pwd.getpwuid(os.getuid()).pw_name
    folder = Path(tempfile.mkdtemp(prefix="quarry-pg-"))  # a short path: sockets allow 107 bytes
    options: dict[str, str] = {"user": user} if root else {}
    if root:
        shutil.chown(folder, user)
    data, log = folder / "data", folder / "log"
    initdb = [str(bin_folder / "initdb"), "-D", str(data), "-U", "quarry", "--auth=trust", "--no-sync", "--no-locale", "-E", "UTF8"]
    subprocess.run(initdb, check=True, capture_output=True, cwd=folder, **options)  # type: ignore[call-overload]
    command = [str(bin_folder / "postgres"), "-D", str(data), "-k", str(folder), "-c", "listen_addresses=", "-c", "fsync=off"]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, cwd=folder, **options)  # type: ignore[call-overload]
    try:
        _wait(lambda: "ready to accept connections" in log.read_text(), process, log)
        yield {"PGHOST": str(folder), "PGUSER": "quarry", "PGDATABASE": "postgres"}
    finally:
        process.send_signal(signal.SIGINT)  # a fast shutdown
        process.wait(30)
        shutil.rmtree(folder)


def administer(postgresql: Mapping[str, str], *statements: str) -> str:
    """Run them; the first column of the last one's first row, if there is one."""
    with contextlib.closing(psycopg2.connect(host=postgresql["PGHOST"], user=postgresql["PGUSER"], dbname=postgresql["PGDATABASE"])) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return str(cursor.fetchone()[0]) if cursor.description else ""


def _postgresql_programs() -> Path:
    """Debian keeps them off the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    if found or on_path:
        return (found[-1] if found else Path(on_path or "")).parent
    if os.getuid() == 0:
        pytest.fail("PostgreSQL is not installed: `make packages` installs it")
    pytest.skip("PostgreSQL is not installed, and only root can: `make packages` says what is missing")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


def _wait(ready: Callable[[], bool], process: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + 900  # on a machine busy with other things
    while time.monotonic() < until and process.poll() is None:
        if ready():
            return
        time.sleep(0.2)
    raise AssertionError(f"the server did not start:\n{log.read_text()[-2000:]}")
