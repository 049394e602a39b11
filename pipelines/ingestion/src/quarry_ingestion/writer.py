"""One change of one document: to every target, then to the ledger. Whoever changes something (sources, uploads, forgetting) does it here."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from quarry_contract.vector_store import VectorStoreError

from .blocks import Document
from .ledger import REPLACED, UPLOADS, Entry, Ledger
from .locks import writing
from .store import IndexStore
from .targets import Passages, Target, Targets, cut, encoded


class Writer:
    """Index and ledger of one QUARRY_HOME. `encoded` counts the passages it had to encode, per target."""

    def __init__(self, home: Path) -> None:
        """Open them; close with `close`."""
        self.home = home
        self.ledger = Ledger(home)
        self.targets = Targets(home)
        self.encoded = 0

    def close(self) -> None:
        """Let go of the files."""
        self.targets.close()
        self.ledger.close()

    def put(self, entry: Entry, document: Document, made: Mapping[str, Passages] | None = None) -> Entry:
        """The document's new version in place of what there was; what the ledger says of it, which is that it is replaced where an upload has its id.

        `made` are its passages, by generation, where they were made already.

        Raises:
            ManifestError, sqlite3.Error: a target cannot be written; the next try does it all again.
        """
        with writing(self.home):
            if self.ledger.is_forgotten(entry.source, entry.uri):  # while it was read
                return entry
            entry = self._claimed(entry)
            if entry.code:
                self.ledger.save(entry)
                return entry
            document = replace(document, document_id=entry.document_id, source=entry.uri, principals=entry.principals)
            for target in self.targets.now():
                self.copy(target, document, (made or {}).get(target.generation))
            self.ledger.save(entry)
        return entry

    def copy(self, target: Target, document: Document, made: Passages | None = None) -> None:
        """Put a document into one target, cut and encoded here unless it was elsewhere. The caller holds `writing`."""
        chunker = target.store.manifest.chunker
        made = made or encoded(document, target.encoder, chunker)
        named = all(chunk.document_id == document.document_id for chunk in made.chunks)  # the ids of passages depend on the document's, vectors do not
        target.store.put(document, made.chunks if named else cut(document, target.encoder, chunker), made.vectors)
        self.encoded += len(made.chunks)

    def permit(self, entry: Entry) -> None:
        """The same document, to be read by `entry.principals`; or only seen with another fingerprint."""
        with writing(self.home):
            known = self.ledger.get(entry.source, entry.uri)
            if known is None or known.code == REPLACED:  # since it was read: forgotten, or an upload has its id
                return
            self.each(lambda store: _permit(store, entry))
            self.ledger.save(entry)

    def skip(self, entry: Entry) -> Entry:
        """The item gives no document (`entry.code` says why): what it gave before goes."""
        with writing(self.home):
            if self.ledger.is_forgotten(entry.source, entry.uri):
                return entry
            entry = self._claimed(entry)
            self._delete(entry.document_id)
            self.ledger.save(entry)
        return entry

    def expire(self, entry: Entry, code: str, why: Callable[[Entry], str | None]) -> bool:
        """The item's document goes, if `why` still gives a reason for what the ledger says of it now; the item stays. Whether it went."""
        with writing(self.home):
            found = self.ledger.get(entry.source, entry.uri)
            detail = why(found) if found and found.code is None else None
            if found is None or detail is None:
                return False
            self._delete(found.document_id)
            self.ledger.save(replace(found, code=code, detail=detail))
        return True

    def remove(self, document_id: str) -> None:
        """Document and item are no more."""
        with writing(self.home):
            self._delete(document_id)
            self.ledger.remove(document_id)

    def remove_item(self, source: str, uri: str) -> None:
        """An item is no more, nor its document."""
        with writing(self.home):
            known = self.ledger.get(source, uri)
            if known is not None:
                self._delete(known.document_id)
                self.ledger.remove(known.document_id)

    def settle(self) -> None:
        """Finish, in vector stores beside the targets, what an earlier change was stopped in.

        Raises:
            VectorStoreError: one fails.
        """
        with writing(self.home):
            self.each(lambda store: store.settle())

    def each(self, change: Callable[[IndexStore], object]) -> None:
        """Do it in every target, also when one's vector store fails, and tell that after. The caller holds `writing`.

        Raises:
            VectorStoreError: of the first that failed.
        """
        failed = []
        for target in self.targets.now():
            try:
                change(target.store)
            except VectorStoreError as error:
                failed.append(error)
        if failed:
            raise failed[0]

    def _delete(self, document_id: str) -> None:
        self.each(lambda store: store.delete(document_id))

    def _claimed(self, entry: Entry) -> Entry:
        """With the id that its document has or is to have. An upload takes its id, whoever has it: to refuse it would tell that there is such a
        document, also to who may not read it. A source's item does not: to have it under another id would tell that there is such an upload.
        """
        if entry.source == UPLOADS:
            holder = self.ledger.by_document(entry.document_id)
            if holder is not None and holder.source != UPLOADS:
                self.ledger.save(holder.replaced())
            return entry
        known = self.ledger.get(entry.source, entry.uri)
        fresh = known is None or known.code == REPLACED
        document_id = self.ledger.new_id(entry.source, entry.uri) if known is None or fresh else known.document_id
        if fresh and self.ledger.is_upload(document_id):
            return replace(entry, fingerprint=known.fingerprint if known else "").replaced()
        return replace(entry, document_id=document_id)


def _permit(store: IndexStore, entry: Entry) -> None:
    found = store.principals(entry.document_id)
    if found is not None and found != entry.principals:
        store.set_principals(entry.document_id, entry.principals)


@contextmanager
def writer(home: Path) -> Iterator[Writer]:
    """A Writer, closed at the end."""
    made = Writer(home)
    try:
        yield made
    finally:
        made.close()
