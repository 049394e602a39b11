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
    with (home / "ingest.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SourceError("another ingest is writing to this index: wait for its end and try again") from None
        yield


@contextmanager
def writing(home: Path) -> Iterator[None]:
    """Hold index and ledger for one change; whoever else writes (an ingest, a reindex, the uploads) waits for its end."""
    with (home / "write.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
