"""The thread that works off uploads: in the order they came, each until it is done."""

import contextlib
import logging
import sqlite3
import threading
import time
from dataclasses import replace
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram
from quarry_contract.manifests import ManifestError
from quarry_contract.messages import Job
from quarry_contract.vector_store import VectorStoreError

from . import jobs
from .ledger import now
from .tending import Tender
from .uploads import work

log = logging.getLogger("quarry")
# Nothing is wrong with the job: the disk is full, a model is not there, Pinecone fails. It waits for better times, and those behind it too.
WAITS: dict[type[Exception], str] = {
    OSError: "the disk cannot be written",
    sqlite3.Error: "the index cannot be written",
    ManifestError: "a model or an index is not whole",
    VectorStoreError: "the vector store fails",
}
RETRY_SEC, MAX_RETRY_SEC = 1.0, 30.0
BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """Of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.accepted = Counter("quarry_ingestion_accepted_total", "Jobs accepted, by action", ["action"], registry=self.registry)
        self.finished = Counter("quarry_ingestion_finished_total", "Jobs finished, by state and reason", ["state", "code"], registry=self.registry)
        self.retried = Counter("quarry_ingestion_retried_total", "Tries of a job that could not be made now", registry=self.registry)
        self.seconds = Histogram("quarry_ingestion_job_seconds", "Time to do a job", buckets=BUCKETS, registry=self.registry)


class Worker:
    """One thread. A job that a crash cut off is done again, to the same result (uploads.work)."""

    def __init__(self, home: Path, metrics: Metrics) -> None:
        self.metrics = metrics
        self.stuck: str | None = None  # why nothing goes on
        self._home = home
        self._graphs = Tender(home)
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="uploads", daemon=True)

    def start(self) -> None:
        """Begin with what was left."""
        self._graphs.start()
        self._thread.start()

    def wake(self) -> None:
        """There is a new job."""
        self._wake.set()

    def stop(self, timeout_sec: float) -> None:
        """Take no further job; wait for the end of the one at work. What is cut off is done by the next process."""
        self._stopping.set()
        self._graphs.stop()
        self._wake.set()
        self._thread.join(timeout_sec)

    def _run(self) -> None:
        wait, tries = RETRY_SEC, 0
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                more = self._one()
            except Exception as error:  # the thread must outlive whatever a job does
                log.error("a job could not be done yet", exc_info=error)
                self.stuck = f"a job could not be done yet ({type(error).__name__}), it is tried again"
                self.metrics.retried.inc()
                tries += 1
                self._tell(error, tries, wait)
                self._stopping.wait(wait)
                wait = min(2 * wait, MAX_RETRY_SEC)
                continue
            self.stuck, wait, tries = None, RETRY_SEC, 0
            if more:
                self._graphs.changed()
            else:
                self._graphs.idle()
                self._wake.wait()

    def _one(self) -> bool:
        """Do the oldest job; whether there was one.

        Raises:
            OSError, sqlite3.Error, ManifestError, VectorStoreError: it cannot be done now.
        """
        began = time.monotonic()
        try:
            done = work(self._home)
        except Exception as error:
            if isinstance(error, tuple(WAITS)) and not self._lost():
                raise
            done = self._give_up(error)
        if done is None:
            return False
        self.metrics.finished.labels(done.state, done.code or "").inc()
        self.metrics.seconds.observe(time.monotonic() - began)
        log.info("job finished", extra={"fields": {"quarry.job": done.job_id, "event.outcome": done.code or done.state}})
        return True

    def _tell(self, error: Exception, tries: int, wait: float) -> None:
        """Who asks for the job is told; where even that cannot be written, /readyz and the log tell it."""
        why = next((said for kind, said in WAITS.items() if isinstance(error, kind)), "an unexpected error")
        with contextlib.suppress(OSError, sqlite3.Error):
            jobs.wait(self._home, f"{why}; tried {tries} times, again in {wait:g} s")

    def _lost(self) -> bool:
        """Whether the bytes of the job at hand are gone: no time brings them back."""
        queued = jobs.next_job(self._home)
        return queued is not None and queued.job.action == "put" and not jobs.upload_path(self._home, queued.job.job_id).exists()

    def _give_up(self, error: Exception) -> Job | None:
        """The job at hand meets a mistake of ours: it ends, so that those behind it go on."""
        queued = jobs.next_job(self._home)
        if queued is None:
            return None
        log.error("a job failed", exc_info=error, extra={"fields": {"quarry.job": queued.job.job_id}})
        done = replace(queued.job, state="failed", finished=now(), code="internal", detail="an unexpected error; the log names the job")
        jobs.finish(self._home, done)
        return done
