"""Do ledger, targets and their parts agree? Every run checks the cheap half; `--reconcile` checks and repairs all of it."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from . import jobs
from .graphs import tend_graphs
from .locks import only_one, writing
from .retention import Retention, expire
from .targets import Target, cut
from .writer import Writer, writer


def differences(left: Iterable[tuple[str, str]], right: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str | None, str | None]]:
    """(id, left's version, right's version) where they differ; None = not there. Both come in the order of their ids."""
    lefts, rights = iter(left), iter(right)
    a, b = next(lefts, None), next(rights, None)
    while a or b:
        if a and b and a[0] == b[0]:
            if a[1] != b[1]:
                yield a[0], a[1], b[1]
            a, b = next(lefts, None), next(rights, None)
        elif a and (b is None or a[0] < b[0]):
            yield a[0], a[1], None
            a = next(lefts, None)
        elif b:
            yield b[0], None, b[1]
            b = next(rights, None)


def fill(made: Writer) -> list[dict[str, str]]:
    """Bring every other target to what the first one holds, which is always written first. Each document is compared again under the lock."""
    done = []
    for number in range(1, len(made.targets.now())):
        first, other = made.targets.now()[0], made.targets.now()[number]
        for document_id, *_ in list(differences(first.store.versions(), other.store.versions())):
            with writing(made.home):
                if _level(made, first, other, document_id):
                    done.append({"generation": other.generation, "document": document_id})
    return done


def _level(made: Writer, first: Target, other: Target, document_id: str) -> bool:
    """Make one document the same in both; whether it was not."""
    document = first.store.document(document_id)
    if document == other.store.document(document_id):
        return False
    if document is None:
        other.store.delete(document_id)
    else:
        made.copy(other, document)
    return True


def find_gaps(made: Writer) -> list[str]:
    """Documents that the ledger has and the index has not, or in another version: their items will be read again."""
    with writing(made.home):
        found = _differing(made)
        gaps = [document_id for document_id, ledger, _ in found if ledger is not None]
        for document_id in gaps:
            made.ledger.read_again(document_id)
    return gaps


def drop_orphans(made: Writer) -> list[str]:
    """Remove documents that no item accounts for: a run was killed after it wrote them, and their items are gone since."""
    with writing(made.home):
        orphans = [document_id for document_id, ledger, _ in _differing(made) if ledger is None]
        for document_id in orphans:
            made.each(lambda store, orphan=document_id: store.delete(orphan))  # type: ignore[misc]
    return orphans


def _differing(made: Writer) -> list[tuple[str, str | None, str | None]]:
    targets = made.targets.now()
    return list(differences(made.ledger.versions(), targets[0].store.versions())) if targets else []


def reconcile(home: Path, at: float | None = None) -> dict[str, Any]:
    """Compare everything with everything and repair what differs; what was found, so an empty report is a sound index.

    What is kept no longer goes too, which is nothing wrong; `at`: the time that counts to, POSIX seconds; now, unless it is given.

    Raises:
        SourceError: an ingest is at work, or `retention.json` is not as it must be.
        ManifestError: a retriever artefact or an index is not whole.
        VectorStoreError: Pinecone fails; what was repaired so far stays.
    """
    rules = Retention.read(home, at)
    with only_one(home), writer(home) as made:
        made.settle()
        with writing(home):
            swept = _counted((target, target.store.sweep()) for target in made.targets.now())
        orphans = drop_orphans(made)
        gaps = find_gaps(made)
        principals = [d for d in _ids(made) if _principals(made, d)]
        rewritten = [{"generation": t.generation, "document": d} for t in made.targets.now() for d in _ids(made) if _sound(made, t, d)]
        differing = fill(made) + [found for d in _ids(made) for found in _texts(made, d)]
        expired = expire(made, rules)
        vectors = _counted((target, target.store.reconcile_vectors(lambda: writing(home))) for target in made.targets.now())
        tend_graphs(home, (target.store for target in made.targets.now()))
        found = {"rows_of_nothing": swept, "documents_of_no_item": orphans, "items_without_document": gaps}
        found |= {"wrong_principals": principals, "damaged_documents": rewritten, "differing_targets": differing, "differing_vectors": vectors}
        return found | {"uploads_of_no_job": jobs.sweep(home), "sound": not any(found.values()), "expired": expired, "encoded": made.encoded}


def _counted(found: Iterable[tuple[Target, dict[str, int]]]) -> list[dict[str, Any]]:
    """What was wrong, by generation and kind."""
    return [{"generation": target.generation, "kind": kind, "rows": rows} for target, kinds in found for kind, rows in kinds.items() if rows]


def _ids(made: Writer) -> Iterator[str]:
    """The documents of the first target; changes meanwhile do not disturb it."""
    targets = made.targets.now()
    after: str | None = ""
    while targets and (after := targets[0].store.next_id(after or "")) is not None:
        yield after


def _principals(made: Writer, document_id: str) -> bool:
    """Make the index's principals those of the ledger; whether they were not."""
    with writing(made.home):
        entry = made.ledger.by_document(document_id)
        wrong = [t for t in made.targets.now() if entry and t.store.principals(document_id) not in (None, entry.principals)]
        for target in wrong:
            target.store.set_principals(document_id, entry.principals if entry else ())
        return bool(wrong)


def _sound(made: Writer, target: Target, document_id: str) -> bool:
    """Cut the document anew: are its passages those in the index, each with its vector? If not they are written anew; whether that was so."""
    with writing(made.home):
        document = target.store.document(document_id)
        if document is None:
            return False
        found = target.store.passages(document_id)
        width = 4 * target.store.manifest.dimension
        whole = all(vector is not None and len(vector) == width for _, vector in found)
        if whole and [chunk for chunk, _ in found] == cut(document, target.encoder, target.store.manifest.chunker):
            return False
        made.copy(target, document)
        return True


def _texts(made: Writer, document_id: str) -> list[dict[str, str]]:
    """Targets whose document differs from the first one's in more than its version."""
    with writing(made.home):
        first, *others = made.targets.now()
        return [{"generation": t.generation, "document": document_id} for t in others if _level(made, first, t, document_id)]
