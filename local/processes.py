"""Processes of the stack: started so that they are found again whatever happens to who started them, and stopped after draining.

A process writes its own pid file before it becomes the service, so that there is no moment in which it runs unknown.
"""

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

CLONE = Path(__file__).resolve().parents[1]
HOME = Path(os.environ.get("QUARRY_HOME", CLONE / ".quarry")).resolve()
RUN = HOME / "run"
READY_TIMEOUT_SEC = 180
STOP_TIMEOUT_SEC = 15


@dataclass(frozen=True)
class Service:
    """How one process is started, and the path that answers 200 when it is ready."""

    name: str
    port: int
    ready: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Base address."""
        return url(self.port)


@dataclass(frozen=True)
class Process:
    """A service that runs."""

    name: str
    pid: int
    port: int


def url(port: int) -> str:
    """Base address of what listens on a port here."""
    return f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Hold the stack against another command; a process that dies lets go."""
    RUN.mkdir(parents=True, exist_ok=True)
    with (RUN / "stack.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another command on this stack to end", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def running(name: str) -> Process | None:
    """A service that is still the process we started, else None."""
    try:
        pid, started, port = (RUN / f"{name}.pid").read_text().split()
        return Process(name, int(pid), int(port)) if start_time(int(pid)) == started else None
    except (OSError, ValueError):
        return None


def all_running() -> list[Process]:
    """Every process of this stack."""
    return [found for path in sorted(RUN.glob("*.pid")) if (found := running(path.stem))]


def start_time(pid: int) -> str:
    """When a process began, in the kernel's ticks: tells a reused pid from ours. Raises OSError when it is gone."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    if fields[0] == "Z":
        raise ProcessLookupError(pid)
    return fields[19]


def free_port(wanted: int) -> int:
    """`wanted` when nobody listens on it, else one that is free."""
    for port in (wanted, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    sys.exit("no free port on 127.0.0.1")


def start(service: Service) -> None:
    """Start one process, its output into its log."""

    def register() -> None:
        (RUN / f"{service.name}.pid").write_text(f"{os.getpid()} {start_time(os.getpid())} {service.port}")

    with (RUN / f"{service.name}.log").open("ab") as log:
        environment = os.environ | service.environment
        command, nothing = service.command, subprocess.DEVNULL
        subprocess.Popen(command, stdin=nothing, stdout=log, stderr=log, env=environment, cwd=HOME, start_new_session=True, preexec_fn=register)


def ensure(services: list[Service]) -> None:
    """Start what is not running, then wait until all are ready.

    Raises:
        SystemExit: a process ended or was not ready in time; its last log lines are in the message.
    """
    ours = {service.name for service in services if running(service.name) is None}
    for service in services:
        if service.name in ours:
            start(service)
    for service in services:
        if not wait_ready(service) and service.name not in ours:
            start(service)  # it was still draining from an earlier stop
            wait_ready(service)
        if running(service.name) is None:
            log = RUN / f"{service.name}.log"
            tail = log.read_text(errors="replace").splitlines()[-15:]
            sys.exit("\n".join([f"{service.name} did not get ready (is port {service.port} taken?). The end of {log}:", *tail]))


def wait_ready(service: Service) -> bool:
    """Poll until it answers 200; False when its process ended.

    Raises:
        SystemExit: it neither gets ready nor ends.
    """
    until = time.monotonic() + READY_TIMEOUT_SEC
    while time.monotonic() < until:
        if running(service.name) is None:
            return False
        with contextlib.suppress(OSError), urllib.request.urlopen(service.url + service.ready, timeout=5) as reply:
            if reply.status == 200:
                return True
        time.sleep(0.2)
    sys.exit(f"{service.name} runs but is not ready after {READY_TIMEOUT_SEC} s: see {RUN / f'{service.name}.log'}")


def stop(processes: Iterable[Process]) -> None:
    """SIGTERM to all, so that requests in flight are answered; what does not end is killed."""
    processes = list(processes)
    for process in processes:
        os.kill(process.pid, signal.SIGTERM)
    until = time.monotonic() + STOP_TIMEOUT_SEC
    for process in processes:
        while running(process.name) and time.monotonic() < until:
            time.sleep(0.1)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it may have left behind
        (RUN / f"{process.name}.pid").unlink(missing_ok=True)
        print(f"{process.name:22} stopped")
