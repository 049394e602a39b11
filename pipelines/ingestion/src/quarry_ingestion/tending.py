"""The search graphs while uploads are served: when the queue is empty, or after many jobs, a stale one is brought up to date in a process of its own.

A thread here would have faiss's threads in a process that forks to extract, and would keep memory for all vectors; uploads go on beside it.
"""

import logging
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

from quarry_contract.manifests import ManifestError
from quarry_contract.vector_store import VectorStoreError

from .graphs import exact_up_to, is_due
from .targets import targets_of

log = logging.getLogger("quarry")
AFTER_JOBS = 1_000  # without the queue being empty in between
REST_SEC = 60.0  # after one that failed


class Tender:
    """One thread, and at most one process."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._wake, self._ended = threading.Event(), threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._changing = threading.Lock()
        self._jobs = 0
        self._thread = threading.Thread(target=self._run, name="graphs", daemon=True)

    def start(self) -> None:
        """Wait to be told."""
        self._thread.start()

    def changed(self) -> None:
        """A job is done."""
        self._jobs += 1
        if self._jobs >= AFTER_JOBS:
            self.idle()

    def idle(self) -> None:
        """There is no job: a good time."""
        self._jobs = 0
        self._wake.set()

    def stop(self) -> None:
        """End the process, if there is one; what it had begun leaves the graph as it was."""
        with self._changing:
            self._ended.set()
            if self._process:
                self._process.terminate()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while self._wake.wait() and not self._ended.is_set():
            self._wake.clear()
            if self._due() and not self._made():
                self._ended.wait(REST_SEC)

    def _due(self) -> bool:
        try:
            with targets_of(self._home) as targets:
                return any(is_due(target.store, exact_up_to()) for target in targets.now())
        except (sqlite3.Error, OSError, ManifestError, VectorStoreError) as error:
            log.warning("whether a search graph is stale cannot be told: %s", error)
            return False

    def _made(self) -> bool:
        """Whether the process ended well, or was ended by us."""
        command = [sys.executable, "-m", "quarry_ingestion", "--graphs", "--home", str(self._home)]
        with self._changing:
            if self._ended.is_set():
                return True
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        _, told = self._process.communicate()
        if self._process.returncode and not self._ended.is_set():
            log.warning("no new search graph: %s", told.decode(errors="replace").strip()[-500:])
        return self._process.returncode == 0 or self._ended.is_set()
