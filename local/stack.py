"""The stack on one machine: MLflow, retriever, reader and gateway as processes in their own environments.

    stack.py up NAME...     start those that are not running, wait until each is ready
    stack.py down [NAME...] stop them (all by default); SIGTERM first, so requests in flight are answered
    stack.py status

State (pids, logs, models, index, registry) lives under QUARRY_HOME. Standard library only.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

CLONE = Path(__file__).resolve().parents[1]
HOME = Path(os.environ.get("QUARRY_HOME", CLONE / ".quarry")).resolve()
RUN = HOME / "run"
PORTS = {
    "mlflow": int(os.environ.get("QUARRY_MLFLOW_PORT", "5500")),
    "reader": int(os.environ.get("QUARRY_READER_PORT", "9001")),
    "retriever": int(os.environ.get("QUARRY_RETRIEVER_PORT", "9002")),
    "gateway": int(os.environ.get("QUARRY_GATEWAY_PORT", "8080")),
}
READY_TIMEOUT_SEC = 180
STOP_TIMEOUT_SEC = 15


@dataclass(frozen=True)
class Service:
    """How one process is started, and the address that answers 200 when it is ready."""

    command: list[str]
    ready: str
    environment: dict[str, str] = field(default_factory=dict)


def url(name: str) -> str:
    """Base address of a service."""
    return f"http://127.0.0.1:{PORTS[name]}"


def python(project: str) -> str:
    """The interpreter of a project's environment."""
    return str(CLONE / project / ".venv" / "bin" / "python")


def release() -> tuple[Path, dict[str, str]]:
    """Path and content of the current release.

    Raises:
        SystemExit: nothing was released yet.
    """
    pointer = HOME / "current"
    if not pointer.exists():
        sys.exit("nothing is released yet: run `make demo`, or `make train` and `make ingest`, first")
    path = HOME / "releases" / pointer.read_text().strip() / "release.json"
    return path, json.loads(path.read_text())


def mlflow() -> Service:
    """The registry: SQLite and a folder, artefacts served by the server."""
    store = HOME / "mlflow"
    store.mkdir(parents=True, exist_ok=True)
    backend = ["--backend-store-uri", f"sqlite:///{store}/mlflow.db", "--artifacts-destination", str(store / "artefacts")]
    command = [python("pipelines/training"), "-m", "mlflow", "server", *backend, "--host", "127.0.0.1", "--port", str(PORTS["mlflow"]), "--workers", "1"]
    # Without the first, seven job workers start that nothing here uses.
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return Service(command, "/health", quiet)


def reader() -> Service:
    """The released reader."""
    _, manifest = release()
    settings = {"MODEL_DIR": str(model_dir(manifest["reader"])), "MODEL_REF": manifest["reader"], "PORT": str(PORTS["reader"])}
    return Service([python("services/reader"), "-m", "quarry_reader"], "/health/status", prefixed("QUARRY_READER_", settings))


def retriever() -> Service:
    """The released retriever on the released index generation."""
    _, manifest = release()
    index = HOME / "index" / manifest["index_generation"]
    model = {"MODEL_DIR": str(model_dir(manifest["retriever"])), "MODEL_REF": manifest["retriever"]}
    settings = {**model, "INDEX_DIR": str(index), "PORT": str(PORTS["retriever"])}
    return Service([python("services/retriever"), "-m", "quarry_retriever"], "/health/status", prefixed("QUARRY_RETRIEVER_", settings))


def gateway() -> Service:
    """The gateway in front of both."""
    path, _ = release()
    settings = {"PORT": str(PORTS["gateway"]), "READER_URL": url("reader"), "RETRIEVER_URL": url("retriever"), "RELEASE": str(path)}
    return Service([python("services/gateway"), "-m", "quarry_gateway"], "/readyz", prefixed("QUARRY_GATEWAY_", settings))


SERVICES: dict[str, Callable[[], Service]] = {"mlflow": mlflow, "retriever": retriever, "reader": reader, "gateway": gateway}


def model_dir(reference: str) -> Path:
    """Where `release` put models:/name/N."""
    return HOME / "models" / reference.removeprefix("models:/")


def prefixed(prefix: str, settings: dict[str, str]) -> dict[str, str]:
    """Environment variables of one service."""
    return {prefix + name: value for name, value in settings.items()}


def running(name: str) -> int | None:
    """The pid of a service that is still the process we started, else None."""
    try:
        pid, started = (RUN / f"{name}.pid").read_text().split()
        return int(pid) if start_time(int(pid)) == started else None
    except (OSError, ValueError):
        return None


def start_time(pid: int) -> str:
    """When a process began, in the kernel's ticks: tells a reused pid from ours. Raises OSError when it is gone."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    if fields[0] == "Z":
        raise ProcessLookupError(pid)
    return fields[19]


def up(names: list[str]) -> None:
    """Start what is not running, then wait until all are ready.

    Raises:
        SystemExit: a process ended or was not ready in time; its last log lines are printed.
    """
    RUN.mkdir(parents=True, exist_ok=True)
    services = {name: SERVICES[name]() for name in SERVICES if name in names}
    ours = {name for name in services if running(name) is None}
    for name in ours:
        start(name, services[name])
    for name, service in services.items():
        if not wait_ready(name, service) and name not in ours:
            start(name, service)  # it was still draining from an earlier stop
            ours.add(name)
            wait_ready(name, service)
        if running(name) is None:
            tail = (RUN / f"{name}.log").read_text(errors="replace").splitlines()[-15:]
            sys.exit("\n".join([f"{name} did not get ready (is port {PORTS[name]} taken?). The end of {RUN / f'{name}.log'}:", *tail]))
        print(f"{name:10} ready at {url(name)}")


def start(name: str, service: Service) -> None:
    """Start one process, its output into its log."""
    with (RUN / f"{name}.log").open("ab") as log:
        environment = os.environ | service.environment
        process = subprocess.Popen(service.command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, cwd=HOME, start_new_session=True)
    (RUN / f"{name}.pid").write_text(f"{process.pid} {start_time(process.pid)}")


def wait_ready(name: str, service: Service) -> bool:
    """Poll until it answers 200; False when its process ended.

    Raises:
        SystemExit: it neither gets ready nor ends.
    """
    until = time.monotonic() + READY_TIMEOUT_SEC
    while time.monotonic() < until:
        if running(name) is None:
            return False
        with contextlib.suppress(OSError), urllib.request.urlopen(url(name) + service.ready, timeout=5) as reply:
            if reply.status == 200:
                return True
        time.sleep(0.2)
    sys.exit(f"{name} runs but is not ready after {READY_TIMEOUT_SEC} s: see {RUN / f'{name}.log'}")


def down(names: list[str]) -> None:
    """Stop in reverse order: the gateway first."""
    for name in reversed(list(SERVICES)):
        pid = running(name) if name in names else None
        if pid is None:
            continue
        os.kill(pid, signal.SIGTERM)
        until = time.monotonic() + STOP_TIMEOUT_SEC
        while running(name) and time.monotonic() < until:
            time.sleep(0.1)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # what it may have left behind
        (RUN / f"{name}.pid").unlink(missing_ok=True)
        print(f"{name:10} stopped")


def main() -> None:
    """Entry point."""
    verb, *names = sys.argv[1:] or ["status"]
    if unknown := set(names) - SERVICES.keys():
        sys.exit(f"no such service: {', '.join(sorted(unknown))}; there are {', '.join(SERVICES)}")
    if verb == "up":
        up(names or list(SERVICES))
    elif verb == "down":
        down(names or list(SERVICES))
    elif verb == "status":
        for name in SERVICES:
            print(f"{name:10} {'running' if running(name) else 'stopped'} {url(name)}")
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
