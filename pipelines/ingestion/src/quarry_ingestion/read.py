"""One item's bytes to a Document: copied into a working folder of QUARRY_HOME, digested, extracted in a child process with limits."""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePosixPath

from .blocks import Document
from .extract import Limits, Skipped, extract, preload

MAX_NAME_BYTES = 200


@contextmanager
def copied(work: Path, uri: str, fetch: Callable[[Path], object]) -> Iterator[Path]:
    """Where `fetch` put the bytes. The folder is emptied before, too: a run that was killed may have left something."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        name = PurePosixPath(uri)
        suffix = name.suffix if len(name.suffix.encode()) <= MAX_NAME_BYTES // 2 else ""
        stem = name.name.removesuffix(suffix).encode()[: MAX_NAME_BYTES - len(suffix.encode())].decode(errors="ignore")
        path = work / (stem + suffix)
        fetch(path)
        yield path
    finally:
        shutil.rmtree(work, ignore_errors=True)


def digest(path: Path) -> str:
    """SHA-256 of a file, hex: a document's version."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(path: Path) -> Document | Skipped:
    """The document in a file. Never raises for what is in the file."""
    _preload(path.suffix.lower())
    return extract(path, path.parent)


def too_large(size: int) -> str | None:
    """Why a file of so many bytes is not even fetched."""
    limit = Limits().input_bytes
    return f"over {limit} bytes" if size > limit else None


_preload = cache(preload)
