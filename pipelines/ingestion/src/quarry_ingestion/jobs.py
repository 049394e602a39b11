"""The queue of uploads and deletions: a row in ledger.db, and the bytes in `uploads/` until the job is done."""

import json
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from quarry_contract.messages import Job

from .ledger import open_ledger

UPLOADS_FOLDER = "uploads"
WAITING = "waiting"  # the code of a job that could not be done now


@dataclass(frozen=True)
class Queued:
    """A job, and what its request said besides."""

    job: Job
    principals: tuple[str, ...]
    media_type: str | None
    submitter: str | None


def upload_path(home: Path, job_id: str) -> Path:
    """Where the bytes of a `put` lie."""
    return home / UPLOADS_FOLDER / job_id


def enqueue(home: Path, job: Job, data: bytes | None, principals: Sequence[str] = ("*",), media_type: str | None = None, submitter: str | None = None) -> None:
    """Accept a job: it will be done, whatever happens from the moment this returns. The bytes of a put are `data`.

    Raises:
        OSError, sqlite3.Error: it cannot be written down, so it is not accepted.
    """
    if data is not None:
        _write(upload_path(home, job.job_id), data)
    with closing(open_ledger(home)) as database:
        values = (job.job_id, job.document_id, json.dumps(job.to_dict()), json.dumps(sorted(set(principals))), media_type, submitter)
        database.execute("INSERT INTO jobs(job_id, document_id, job, open, principals, media_type, submitter) VALUES (?, ?, ?, 1, ?, ?, ?)", values)


def next_job(home: Path) -> Queued | None:
    """The oldest job that is not finished, now `running`; after a crash that is the one which was."""
    with closing(open_ledger(home)) as database:
        row = database.execute("SELECT job, principals, media_type, submitter FROM jobs WHERE open = 1 ORDER BY number LIMIT 1").fetchone()
        if row is None:
            return None
        found = _queued(row)
        found = replace(found, job=replace(found.job, state="running", code=None, detail=None))
        database.execute("UPDATE jobs SET job = ? WHERE job_id = ?", (json.dumps(found.job.to_dict()), found.job.job_id))
        return found


def wait(home: Path, why: str) -> None:
    """Tell of the oldest open job that it could not be done now, and waits for the next try."""
    with closing(open_ledger(home)) as database:
        row = database.execute("SELECT job_id, job FROM jobs WHERE open = 1 ORDER BY number LIMIT 1").fetchone()
        if row is not None:
            told = replace(Job.from_dict(json.loads(row[1])), state="queued", code=WAITING, detail=why)
            database.execute("UPDATE jobs SET job = ? WHERE job_id = ?", (json.dumps(told.to_dict()), row[0]))


def finish(home: Path, job: Job) -> None:
    """Write down how it ended (`done` or `failed`); its bytes go."""
    with closing(open_ledger(home)) as database:
        database.execute("UPDATE jobs SET job = ?, open = 0 WHERE job_id = ?", (json.dumps(job.to_dict()), job.job_id))
    upload_path(home, job.job_id).unlink(missing_ok=True)


def get(home: Path, job_id: str) -> Queued | None:
    """A job as it stands."""
    with closing(open_ledger(home)) as database:
        row = database.execute("SELECT job, principals, media_type, submitter FROM jobs WHERE job_id = ?", (job_id,)).fetchone()
        return row and _queued(row)


def sweep(home: Path) -> int:
    """Remove uploads that no open job will read (their request was broken off, or its answer was); how many."""
    with closing(open_ledger(home)) as database:
        wanted = {job_id for (job_id,) in database.execute("SELECT job_id FROM jobs WHERE open = 1")}
    left = [p for p in (home / UPLOADS_FOLDER).glob("*") if p.name not in wanted]
    for path in left:
        path.unlink(missing_ok=True)
    return len(left)


def _queued(row: Sequence[str]) -> Queued:
    return Queued(Job.from_dict(json.loads(row[0])), tuple(json.loads(row[1])), row[2], row[3])


def _write(path: Path, data: bytes) -> None:
    """On the disk, under its name, before this returns."""
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
