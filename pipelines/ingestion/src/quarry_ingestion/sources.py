"""Where documents come from: a folder here, an S3 prefix in s3.py. Both tell what they hold without reading it."""

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .rules import RULES, Rules, RulesError

SETTLED_NS = 20_000_000  # a clock tick and more: what is written after this has another time
TRIES = 3  # of a file that changes while it is read
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # for the copy: no fault of the file


class SourceError(Exception):
    """The source cannot be read at all; the message says what to do."""


class Vanished(Exception):
    """The item was listed and is there no more."""


class Forbidden(Exception):
    """The item is there and may not or cannot be read; the message says why."""


@dataclass(frozen=True)
class Item:
    """One file or object. `fingerprint` changes when its bytes or its own metadata may have."""

    uri: str  # path from the source's root, as text that can be stored; no part of it begins with a dot
    location: str  # the same as the source names it
    fingerprint: str
    size: int
    principals: tuple[str, ...]  # by the source's rules
    modified: float  # when, as the source says: POSIX seconds


class Source(Protocol):
    """A folder, an S3 prefix."""

    uri: str  # of the source
    address: str  # opens it in another process (engine.open_source)
    name: str  # goes before its documents' ids, unless it is an index's first source
    unlisted: list[tuple[str, str]]  # (uri, why) of parts that could not be listed: what they hold must not count as gone

    def items(self) -> Iterator[Item]:
        """Everything there is, in the order of the names.

        Raises:
            SourceError: it cannot be listed, or a `.quarry.json` is wrong.
        """

    def fetch(self, item: Item, into: Path) -> tuple[str, ...]:
        """Copy the item's bytes into a file; who may read it.

        Raises:
            Vanished, Forbidden: for this item.
            SourceError: the source does not answer.
        """


def listing(source: Source) -> dict[str, Any]:
    """What a source holds now, unread; its digest (SHA-256) changes when there is something to ingest.

    Raises:
        SourceError: it cannot be listed.
    """
    digest, items = hashlib.sha256(), 0
    for items, item in enumerate(source.items(), start=1):  # noqa: B007 - how many there were
        digest.update(json.dumps([item.uri, item.fingerprint, item.principals]).encode() + b"\n")
    return {"source": source.uri, "items": items, "unlisted": len(source.unlisted), "digest": digest.hexdigest()}


def readable(name: str) -> str:
    """A file name as text that can be stored and sent: its bytes that are not UTF-8 are written as escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


class Folder:
    """Every file under a folder, hidden ones and links left out."""

    def __init__(self, root: Path) -> None:
        """Look at it.

        Raises:
            SourceError: it is not a folder.
        """
        if not root.is_dir():
            raise SourceError(f"{root} is not a folder")
        self._root = root.resolve()
        self._rules = Rules(self._read_rules)
        self.address = str(self._root)
        self.uri = readable(self.address)
        self.name = readable(self._root.name)
        self.unlisted: list[tuple[str, str]] = []

    def items(self) -> Iterator[Item]:
        """Every file, in the order of the names; folders that may not be read are put in `unlisted`.

        Raises:
            SourceError: it cannot be listed, or a `.quarry.json` is wrong.
        """
        self.unlisted.clear()
        for folder, inner, names in os.walk(self._root, onerror=self._failed):
            inner[:] = sorted(name for name in inner if not name.startswith("."))
            for name in sorted(name for name in names if not name.startswith(".")):
                path = Path(folder, name)
                if not path.is_symlink() and path.is_file():
                    yield from self._item(path)

    def _failed(self, error: OSError) -> None:
        path = Path(os.fsdecode(error.filename))
        if path == self._root:
            raise SourceError(f"{path} cannot be listed: {error.strerror}")
        self.unlisted.append((readable(path.relative_to(self._root).as_posix()), error.strerror or "cannot be listed"))

    def _item(self, path: Path) -> Iterator[Item]:
        location = path.relative_to(self._root).as_posix()
        try:
            found = path.stat()
        except FileNotFoundError:
            return
        except OSError as error:
            self._failed(error)
            return
        try:
            principals = self._rules.principals(location)
        except (RulesError, OSError) as error:
            raise SourceError(f"{error}: correct it and ingest again; who may read the documents is not known") from None
        yield Item(readable(location), location, _fingerprint(found), found.st_size, principals, found.st_mtime)

    def fetch(self, item: Item, into: Path) -> tuple[str, ...]:
        """Copy the file; who may read it.

        Raises:
            Vanished: it is there no more.
            Forbidden: it cannot be read, or is being written to all the time.
            OSError: there is no room for the copy.
        """
        try:
            if not any(_copied(self._root / item.location, into) for _ in range(TRIES)):
                raise Forbidden("it is being written to: ingest again when it is whole")
        except FileNotFoundError:
            raise Vanished from None
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise
            raise Forbidden(error.strerror or "cannot be read") from None
        return item.principals

    def _read_rules(self, folder: str) -> bytes | None:
        try:
            return (self._root / folder / RULES).read_bytes()
        except FileNotFoundError:
            return None


def _copied(path: Path, into: Path) -> bool:
    """Whether the file stayed as it was while it was copied. A file of this very moment is waited for: later writes then have another time."""
    with path.open("rb") as file, into.open("wb") as copy:
        fresh = SETTLED_NS - (time.time_ns() - os.fstat(file.fileno()).st_mtime_ns)
        time.sleep(max(0, min(fresh, SETTLED_NS)) / 1e9)
        before = _fingerprint(os.fstat(file.fileno()))
        shutil.copyfileobj(file, copy, 1 << 20)
        return before == _fingerprint(os.fstat(file.fileno()))


def _fingerprint(found: os.stat_result) -> str:
    """Of size and time of change; the status time too, since programs set the other one back."""
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"
