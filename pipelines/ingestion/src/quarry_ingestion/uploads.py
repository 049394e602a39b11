"""One queued job: an uploaded document into the index, or a document out of it, by the same way as a source's."""

import os
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from quarry_contract.messages import Job

from . import jobs
from .extract import VERSION, Skipped
from .forget import forget
from .jobs import Queued, upload_path
from .ledger import UPLOADS, Entry, now
from .read import copied, digest, read, too_large
from .sources import SourceError
from .writer import Writer, writer

READING = "reading-upload"  # where the bytes of the job at hand are read
# Other formats are told by their content.
_SUFFIXES = {"text/markdown": ".md", "text/html": ".html", "text/plain": ".txt", "text/csv": ".csv", "message/rfc822": ".eml"}


def work(home: Path) -> Job | None:
    """Do the oldest open job to its end; None when there is none. Killed at any point, the next call does it again, to the same result.

    Raises:
        ManifestError, sqlite3.Error, OSError, VectorStoreError: index, disk or Pinecone cannot be written now; the job stays open.
    """
    queued = jobs.next_job(home)
    if queued is None:
        return None
    done = replace(_put(home, queued) if queued.job.action == "put" else _remove(home, queued.job), finished=now())
    jobs.finish(home, done)
    return done


def _put(home: Path, queued: Queued) -> Job:
    job = queued.job
    with writer(home) as made:
        if not made.targets.now():
            return _failed(job, "no_index", "there is no index yet: `make ingest DIR=...` first")
        path = upload_path(home, job.job_id)
        size = path.stat().st_size
        taken = datetime.fromisoformat(job.created).timestamp()
        entry = Entry(UPLOADS, job.document_id, job.document_id, "", None, VERSION, queued.principals, queued.principals, None, None, 0, 1, taken, taken)
        made.ledger.remember(UPLOADS, job.document_id)
        reason = too_large(size)
        if reason:
            return _unread(made, entry, job, Skipped(job.document_id, "too_large", reason))
        return _read(made, entry, queued, path)


def _read(made: Writer, entry: Entry, queued: Queued, path: Path) -> Job:
    suffix = _SUFFIXES.get((queued.media_type or "").partition(";")[0].strip().lower(), "")
    name = entry.uri if not suffix or entry.uri.lower().endswith(suffix) else entry.uri + suffix
    with copied(made.home / READING, name, lambda into: os.link(path, into)) as copy:
        entry = replace(entry, version=digest(copy))
        found = read(copy)
    if isinstance(found, Skipped):
        return _unread(made, entry, queued.job, found)
    made.put(replace(entry, words=len(found.text.split())), found)
    passages = len(made.targets.now()[0].store.passages(entry.document_id))
    return replace(queued.job, state="done", version=entry.version, passages=passages)


def _unread(made: Writer, entry: Entry, job: Job, found: Skipped) -> Job:
    """The upload gives no document: what an earlier one gave goes, a source's document of this id stays, and the job ends the same."""
    known = made.ledger.by_document(job.document_id)
    if known is None or known.source == UPLOADS:
        made.skip(replace(entry, code=found.code, detail=found.detail))
    return replace(job, state="failed", code=found.code, detail=found.detail, version=entry.version or job.version)


def _remove(home: Path, job: Job) -> Job:
    if job.action == "forget":
        try:
            proof = forget(home, job.document_id)
        except SourceError:
            return replace(job, state="done", passages=0)
        return replace(job, state="done", passages=0) if not proof["found"] else _failed(job, "traces", "parts of it are still on the disk: forget it again")
    with writer(home) as made:
        known = made.ledger.by_document(job.document_id)
        if known is not None and known.source != UPLOADS:
            made.skip(replace(known, code="deleted", detail="deleted by a request: it comes back when it changes"))
        else:
            made.remove(job.document_id)
    return replace(job, state="done", passages=0)


def _failed(job: Job, code: str, detail: str) -> Job:
    return replace(job, state="failed", code=code, detail=detail)
