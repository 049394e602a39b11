"""A source into the index: list, compare with the ledger, have an engine read what changed, write it, delete what vanished. One document at a time."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from quarry_contract.releases import index_dir

from .engine import Engine, Local, Outcome, Task
from .extract import VERSION, Skipped
from .forget import READING
from .graphs import tend_graphs
from .ledger import REPLACED, Entry
from .locks import only_one, writing
from .reconcile import drop_orphans, fill, find_gaps
from .retention import EXPIRED, Retention, expire
from .sources import Item, Source, SourceError
from .store import IndexStore
from .targets import add_target
from .writer import Writer, writer

SEEN_AT_ONCE = 1000
ASKED_FOR = {REPLACED, "deleted", "forgotten", EXPIRED}  # by requests and rules: no fault of the source's


@dataclass
class Counts:
    """What a run did, in documents."""

    added: int = 0
    updated: int = 0
    removed: int = 0
    unchanged: int = 0


@dataclass
class Run:
    """One run over a source."""

    source: Source
    writer: Writer
    number: int
    engine: Engine
    rules: Retention
    at: float  # POSIX seconds
    seen: list[tuple[str, float]] = field(default_factory=list)  # items and when they were modified, not yet told to the ledger
    counts: Counts = field(default_factory=Counts)
    forgotten: list[str] = field(default_factory=list)

    def all(self) -> None:
        """Bring the index to what the source holds now.

        Raises:
            SourceError: it cannot be listed or read; what was done so far stays, and nothing was deleted for not being listed.
        """
        for task, outcome in self.engine.results(self.source, self.writer.targets.now(), self.tasks()):
            if outcome is not None:
                self._apply(task, outcome)
                self._saw(task.item)
        self._tell_seen()
        if not self.source.unlisted:
            while gone := self.writer.ledger.unseen(self.source.uri, self.number):
                for entry in gone:
                    self.writer.remove_item(entry.source, entry.uri)
                    self.counts.removed += entry.code is None

    def tasks(self) -> Iterator[Task]:
        """What the ledger does not know, or knows otherwise, of what the source holds."""
        ledger = self.writer.ledger
        for item in self.source.items():
            known = ledger.get(self.source.uri, item.uri)
            late = self.rules.expired(self._entry(item, known))
            if ledger.is_forgotten(self.source.uri, item.uri):
                self.forgotten.append(item.uri)
            elif late:
                self._expire(item, known, late)
            elif known and known.code == REPLACED and ledger.is_upload(ledger.new_id(self.source.uri, item.uri)):
                self._saw(item)
            elif known and known.code != EXPIRED and (known.fingerprint, known.listed, known.extractor) == (item.fingerprint, item.principals, VERSION):
                self.counts.unchanged += known.code is None
                self._saw(item)
            else:
                yield self._task(item, known)

    def _entry(self, item: Item, known: Entry | None) -> Entry:
        document_id = known.document_id if known else item.uri
        who = item.principals
        return Entry(self.source.uri, item.uri, document_id, item.fingerprint, None, VERSION, who, who, None, None, 0, self.number, item.modified, self.at)

    def _task(self, item: Item, known: Entry | None) -> Task:
        entry = self._entry(item, known)
        if known is None or known.code == REPLACED:
            return Task(item, entry, known, None, self.writer.ledger.new_id(self.source.uri, item.uri))
        version = known.version if known.extractor == VERSION and known.code != EXPIRED else None
        return Task(item, entry, known, version, known.document_id)

    def _expire(self, item: Item, known: Entry | None, why: str) -> None:
        """It is kept no longer, so it is not read either. What has no document for another reason keeps that one, until it changes."""
        if known is None or known.code is None or known.fingerprint != item.fingerprint or (known.code == EXPIRED and known.detail != why):
            self._skip(self._entry(item, known), known, EXPIRED, why)
        self._saw(item)

    def _saw(self, item: Item) -> None:
        self.seen.append((item.uri, item.modified))
        if len(self.seen) == SEEN_AT_ONCE:
            self._tell_seen()

    def _tell_seen(self) -> None:
        self.writer.ledger.mark_seen(self.source.uri, self.seen, self.number, self.at)
        self.seen.clear()

    def _apply(self, task: Task, outcome: Outcome) -> None:
        """Bring one item's document up to date."""
        entry, found, known = replace(task.entry, version=outcome.version, principals=outcome.principals), outcome.found, task.known
        if isinstance(found, Skipped):
            self._skip(entry, known, found.code, found.detail)
        elif found is not None:
            done = self.writer.put(replace(entry, words=len(found.text.split())), found, outcome.passages)
            was = known is not None and known.code is None
            self.counts.updated += was and done.code is None
            self.counts.added += not was and done.code is None
        elif known is not None:
            self._same_bytes(replace(entry, code=known.code, detail=known.detail, words=known.words), known)

    def _same_bytes(self, entry: Entry, known: Entry) -> None:
        self.writer.permit(entry)
        if entry.code is None:
            changed = entry.principals != known.principals
            self.counts.updated += changed
            self.counts.unchanged += not changed

    def _skip(self, entry: Entry, known: Entry | None, code: str, detail: str) -> None:
        self.writer.skip(replace(entry, code=code, detail=detail))
        self.counts.removed += known is not None and known.code is None


def sync(source: Source, home: Path, model_dir: Path, engine: Engine | None = None, at: float | None = None) -> dict[str, Any]:
    """Bring the index to what the source holds now: in the generation of this retriever and in every other target. Without `engine`, in this process.

    `at` (POSIX seconds; now, unless it is given) is the time that retention counts to, for the documents of all sources.

    Raises:
        SourceError: the source cannot be listed or read, holds nothing that can be, or another ingest is at work.
        ManifestError: a retriever artefact or an index is not whole.
    """
    began, at = time.monotonic(), time.time() if at is None else at
    rules = Retention.read(home, at)
    with only_one(home), writer(home) as made:
        with writing(home):
            generation = add_target(home, model_dir.resolve())
        made.settle()
        fill(made)
        find_gaps(made)
        made.ledger.add_source(source.uri, source.name)
        run = Run(source, made, made.ledger.next_run(source.uri), engine or Local(home / READING), rules, at)
        known = run.number > 1
        run.all()
        drop_orphans(made)
        expired = expire(made, rules)
        tend_graphs(home, (target.store for target in made.targets.now()))
        skipped = list(_skipped(run))
        told = report(made, generation) | vars(run.counts)
        _check_any(source, run, known, skipped)
    return told | {"expired": expired, "skipped": skipped, "seconds": round(time.monotonic() - began, 1)}


def reindex(home: Path, model_dir: Path, first: bool = False) -> dict[str, Any]:
    """Fill the generation of another retriever with all documents there are; from its first moment, changes go to it as well.

    With `first` it may be the first generation, and empty: a retriever can open it before there are documents.

    Raises:
        SourceError: nothing was ingested yet, and this is not to be the first.
        ManifestError: a retriever artefact or an index is not whole.
    """
    began = time.monotonic()
    with writer(home) as made:
        if not first and not any(True for _ in made.ledger.versions()):
            raise SourceError("nothing was ingested yet: `make ingest DIR=...` first")
        with writing(home):
            generation = add_target(home, model_dir.resolve())
        made.settle()
        fill(made)
        tend_graphs(home, (target.store for target in made.targets.now()))
        return report(made, generation) | {"skipped": [], "seconds": round(time.monotonic() - began, 1)}


def report(made: Writer, generation: str) -> dict[str, Any]:
    """What a generation holds now, and how many passages this command encoded (in all targets)."""
    store = IndexStore(index_dir(made.home, generation))
    documents, passages = store.counts()
    told = {"generation": generation, "revision": store.revision, "documents": documents, "passages": passages}
    store.close()
    return told | {"words": made.ledger.words(), "encoded": made.encoded}


def _skipped(run: Run) -> Iterator[dict[str, str | None]]:
    for entry in run.writer.ledger.skipped(run.source.uri):
        yield {"source": entry.uri, "code": entry.code, "detail": entry.detail}
    for uri, reason in run.source.unlisted:
        yield {"source": uri, "code": "unlisted", "detail": f"{reason}: nothing was deleted in this run"}
    for uri in run.forgotten:
        yield {"source": uri, "code": "forgotten", "detail": "it was to be forgotten: give it another name to have it back"}


def _check_any(source: Source, run: Run, known: bool, skipped: list[dict[str, str | None]]) -> None:
    """A first run that finds nothing is a mistake that is told; later on a source may well be emptied."""
    if run.writer.ledger.has_documents(source.uri) or (known and {s["code"] for s in skipped} <= ASKED_FOR):
        return
    if not skipped:
        run.writer.ledger.drop_source(source.uri)
        raise SourceError(f"{source.uri} holds no files")
    raise SourceError(f"no readable document in {source.uri}: {dict(Counter(s['code'] for s in skipped))}")
