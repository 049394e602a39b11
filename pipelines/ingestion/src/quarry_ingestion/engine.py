"""What is done with an item whose bytes must be looked at, wherever that is: fetched, compared, extracted. The local engine does it here, one by one."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from .blocks import Document
from .extract import Skipped
from .ledger import Entry
from .read import copied, digest, read, too_large
from .sources import Folder, Forbidden, Item, Source, Vanished
from .targets import Passages, Target


@dataclass(frozen=True)
class Task:
    """An item that is new or looks changed."""

    item: Item
    entry: Entry  # what the ledger will say of it, but for what its bytes tell
    known: Entry | None  # what it says now
    version: str | None  # bytes of this digest give what is in the index already
    document_id: str  # the id that its document will have, unless an upload has it by then


@dataclass(frozen=True)
class Outcome:
    """What an item's bytes gave."""

    version: str | None  # their digest; None = they were not read
    principals: tuple[str, ...]
    found: Document | Skipped | None  # None = they are those of the task's version
    passages: Mapping[str, Passages] = field(default_factory=dict)  # by generation; those of others are still to be made


Result = tuple[Task, Outcome | None]  # None = the item is there no more


class Engine(Protocol):
    """Where the tasks of one run are done."""

    def results(self, source: Source, targets: Sequence[Target], tasks: Iterable[Task]) -> Iterator[Result]:
        """Each task's outcome, in the order of the tasks, which are taken a bounded number ahead.

        Raises:
            SourceError: the source, or the engine, does not answer.
            ManifestError: a target's retriever is not whole.
        """


class Local:
    """This process, one item at a time. It makes no passages: the writer does."""

    def __init__(self, folder: Path) -> None:
        """`folder` is where an item's bytes are read; it goes with them."""
        self._folder = folder

    def results(self, source: Source, targets: Sequence[Target], tasks: Iterable[Task]) -> Iterator[Result]:  # noqa: ARG002 - the writer encodes
        """Each task's outcome when the next one is asked for."""
        for task in tasks:
            yield task, look(source, task, self._folder)


def look(source: Source, task: Task, folder: Path) -> Outcome | None:
    """Fetch an item's bytes into `folder`, and extract them if they are new; None = it is there no more.

    Raises:
        SourceError: the source does not answer.
        OSError: there is no room for the copy.
    """
    item = task.item
    reason = too_large(item.size)
    if reason:
        return Outcome(None, item.principals, Skipped(item.uri, "too_large", reason))
    principals: list[tuple[str, ...]] = []
    try:
        with copied(folder, item.uri, lambda into: principals.append(source.fetch(item, into))) as path:
            version = digest(path)
            return Outcome(version, principals[0], None if version == task.version else read(path))
    except Vanished:
        return None
    except Forbidden as error:
        return Outcome(None, item.principals, Skipped(item.uri, "unreadable", str(error)))


def open_source(address: str) -> Source:
    """A folder, or a prefix in S3.

    Raises:
        SourceError: it is neither.
    """
    if not address.startswith("s3:"):
        return Folder(Path(address))
    from .s3 import Prefix  # boto3, which no folder needs

    return Prefix(address)
