"""Who may write: one run over a source at a time, and one change of a document at a time, whoever makes it."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .sources import SourceError


@contextmanager
def only_one(home: Path) -> Iterator[None]:
    """Hold `home` against another run over a source for as long as this lasts; a process that dies lets go.

    Raises:
        SourceError: another one is at work.
    """
    with _held(home / "ingest.lock", "another ingest is writing to this index: wait for its end and try again"):
        yield


@contextmanager
def only_server(home: Path) -> Iterator[None]:
    """Hold `home` against another server of uploads: two would do each job twice.

    Raises:
        SourceError: there is one.
    """
    with _held(home / "serve.lock", "uploads into this index are served already"):
        yield


@contextmanager
def writing(home: Path) -> Iterator[None]:
    """Hold index and ledger for one change; whoever else writes (an ingest, a reindex, the uploads) waits for its end."""
    with (home / "write.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _held(path: Path, taken: str) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SourceError(taken) from None
        yield
