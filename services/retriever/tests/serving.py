"""Starts the real servers as processes and calls them."""

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

# Without it, httpx reads the certificates of all authorities for each call, which takes longer than the call.
PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
WRAPPER = Path(__file__).parents[1] / "seldon" / ".venv" / "bin"


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _until_ready(process: subprocess.Popen[bytes], url: str) -> None:
    limit = time.monotonic() + 120
    while time.monotonic() < limit:
        assert process.poll() is None, "the server ended"
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health/status", timeout=5, verify=PLAIN).status_code == 200:
                return
        time.sleep(0.1)
    raise AssertionError("not ready in time")


@contextlib.contextmanager
def _running(command: list[str], url: str, **environment: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        _until_ready(process, url)
        yield url, process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def lean(model_dir: Path, index_dir: Path, **environment: str) -> "contextlib.AbstractContextManager[tuple[str, subprocess.Popen[bytes]]]":
    """Our own server: its address and process."""
    port = free_port()
    paths = {"QUARRY_RETRIEVER_MODEL_DIR": str(model_dir), "QUARRY_RETRIEVER_INDEX_DIR": str(index_dir), "QUARRY_RETRIEVER_PORT": str(port)}
    return _running([sys.executable, "-m", "quarry_retriever"], f"http://127.0.0.1:{port}", **paths, **environment)


def wrapped(model_dir: Path, index_dir: Path) -> "contextlib.AbstractContextManager[tuple[str, subprocess.Popen[bytes]]]":
    """The stock seldon-core wrapper around the same core."""
    port, metrics = free_port(), free_port()
    environment = {
        "QUARRY_RETRIEVER_MODEL_DIR": str(model_dir),
        "QUARRY_RETRIEVER_INDEX_DIR": str(index_dir),
        "PREDICTIVE_UNIT_HTTP_SERVICE_PORT": str(port),
        "PREDICTIVE_UNIT_METRICS_SERVICE_PORT": str(metrics),
        "GUNICORN_WORKERS": "1",
        "GUNICORN_THREADS": "16",
        "GRPC_WORKERS": "0",
    }
    command = [str(WRAPPER / "seldon-core-microservice"), "quarry_retriever.seldon_model.RetrieverModel", "--service-type", "MODEL"]
    return _running(command, f"http://127.0.0.1:{port}", **environment)
