"""Where documents come from. A folder now; S3 will be another function that yields the same."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class SourceError(Exception):
    """The source cannot be read at all; the message says what to do."""


def files(root: Path) -> Iterator[Path]:
    """Every file under `root`, hidden ones and links left out, in a stable order.

    Raises:
        SourceError: it is not a folder.
    """
    if str(root).startswith("s3:/"):
        raise SourceError("s3:// prefixes are not read yet: copy the objects into a folder and give that")
    if not root.is_dir():
        raise SourceError(f"{root} is not a folder")
    found = sorted(p for p in root.rglob("*") if p.is_file() and not p.is_symlink())
    yield from (p for p in found if not any(part.startswith(".") for part in p.relative_to(root).parts))


def readable(name: str) -> str:
    """A file name as text that can be stored and sent: its bytes that are not UTF-8 are written as escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


@contextmanager
def only_one(home: Path, wait: bool = False) -> Iterator[None]:
    """Hold `home` against another ingest for as long as this lasts; a process that dies lets go. `wait` for it rather than fail.

    Raises:
        SourceError: another one is at work.
    """
    with (home / "ingest.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise SourceError("another ingest is writing to this index: wait for its end and try again") from None
        yield


def folders(home: Path, added: Path) -> list[Path]:
    """All folders in the index, `added` among them: one generation holds what every `ingest` so far brought.

    In the order they first came in, since documents of one name are named by that order.
    """
    return list(dict.fromkeys([*known_folders(home), added]))


def known_folders(home: Path) -> list[Path]:
    """The folders ingested so far that are still there."""
    register = home / "sources.json"
    known = [Path(p) for p in json.loads(register.read_text())] if register.exists() else []
    return [p for p in known if p.is_dir()]


def remember(home: Path, roots: list[Path]) -> None:
    """Keep the list of folders for the next time."""
    partial = home / "sources.tmp"
    partial.write_text(json.dumps([str(p) for p in roots], indent=1))
    partial.replace(home / "sources.json")
