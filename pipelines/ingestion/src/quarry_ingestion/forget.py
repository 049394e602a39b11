"""Forget a document: text, vectors, search graphs, ledger, jobs and uploads; and look for what is left of it in the raw files."""

import contextlib
import mmap
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quarry_contract.manifests import INDEX_MANIFEST
from quarry_contract.vector_store import VectorStoreError

from .blocks import Document
from .jobs import UPLOADS_FOLDER, upload_path
from .locks import only_one, writing
from .sources import SourceError
from .store import checkpoint
from .writer import Writer, writer

MAX_WORDS = 200  # that are looked for: the longest
MAX_VECTORS = 20
VECTOR_BYTES = 32  # of a vector, enough to tell it from others
READING = "reading"  # where a run over a source keeps the bytes of the item it is at

_WORD = re.compile(r"\w{6,}")


def forget(home: Path, document_id: str) -> dict[str, Any]:
    """Remove every trace of a document; the item it came from is not taken again. A forget that was killed is finished by another.

    The proof: `searched` files with their sizes, `looked_for` (words, names and vectors that no other document has) and `found` in them, which
    must be empty. When a follower read for so long that the files could not be emptied, `emptied` is false: do it again.

    Raises:
        SourceError: there is no such document.
        ManifestError: a target is not whole.
        VectorStoreError: Pinecone fails; the rest is done.
    """
    with writer(home) as made:
        with writing(home):
            wanted = _traces(made, document_id)
            passages = {target.generation: target.store.passage_ids(document_id) for target in made.targets.now()}
            entry = made.ledger.by_document(document_id)
            if entry is not None:
                made.ledger.forget(entry.source, entry.uri)  # first, so that no run brings it back in between
            vectors = _drop(made, document_id, passages)
            made.ledger.remove(document_id)
        with contextlib.suppress(SourceError), only_one(home):
            shutil.rmtree(home / READING, ignore_errors=True)
        databases = [target.store.database for target in made.targets.now()] + [made.ledger.database]
        emptied = not [database for database in databases if not checkpoint(database)]
        return {"document": document_id, "emptied": emptied, **_proof(made, document_id, wanted, vectors)}


def _drop(made: Writer, document_id: str, passages: dict[str, list[str]]) -> list[dict[str, Any]]:
    """Out of every target, and out of jobs and uploads; what vector stores say of it. All that needs no vector store is done when one fails.

    Raises:
        VectorStoreError: one fails, or does not show in time what was deleted.
    """
    failed: list[VectorStoreError] = []
    with _collected(failed):
        made.each(lambda store: store.delete(document_id))
    made.each(lambda store: store.drop_graphs())
    _drop_jobs(made, document_id)
    found: list[dict[str, Any] | None] = []
    with _collected(failed):
        made.each(lambda store: found.append(store.forget_vectors(document_id, passages[store.manifest.generation])))
    if failed:
        raise VectorStoreError(f"{document_id} is out of index and answers, but that its vectors are gone cannot be said; forget it again: {failed[0]}")
    return [told for told in found if told is not None]


@contextlib.contextmanager
def _collected(failed: list[VectorStoreError]) -> Iterator[None]:
    try:
        yield
    except VectorStoreError as error:
        failed.append(error)


def _traces(made: Writer, document_id: str) -> dict[str, list[bytes]]:
    """What would tell of it: kind -> bytes as they would stand in a file.

    Raises:
        SourceError: nothing knows of it.
    """
    entry = made.ledger.by_document(document_id)
    found: dict[str, list[bytes]] = {"words": [], "names": [], "vectors": []}
    known = entry is not None or bool(_jobs_of(made, document_id))
    for target in made.targets.now():
        document = target.store.document(document_id)
        if document is None:
            continue
        known = True
        passages = target.store.passages(document_id)
        found["vectors"] += [vector[:VECTOR_BYTES] for _, vector in passages[:MAX_VECTORS] if vector and any(vector)]
        found["names"] = [document.version.encode(), *(chunk.passage_id.encode() for chunk, _ in passages[:MAX_VECTORS])]
        found["words"] = [word.encode() for word in _longest(document)]
    if not known and not any(target.store.vectors_of(document_id) for target in made.targets.now()):
        raise SourceError(f"there is no document {document_id}")
    return found | {"names": [*found["names"], document_id.encode()]}


def _longest(document: Document) -> list[str]:
    return sorted(set(_WORD.findall(document.text)), key=lambda word: (-len(word), word))[: 3 * MAX_WORDS]


def _jobs_of(made: Writer, document_id: str) -> list[str]:
    """Its finished jobs; open ones are requests that are yet to be served."""
    return [job for (job,) in made.ledger.database.execute("SELECT job_id FROM jobs WHERE document_id = ? AND open = 0", (document_id,))]


def _drop_jobs(made: Writer, document_id: str) -> None:
    for job in _jobs_of(made, document_id):
        upload_path(made.home, job).unlink(missing_ok=True)
    made.ledger.database.execute("DELETE FROM jobs WHERE document_id = ? AND open = 0", (document_id,))


def _proof(made: Writer, document_id: str, wanted: dict[str, list[bytes]], vectors: list[dict[str, Any]]) -> dict[str, Any]:
    """Search the raw files for what no other document accounts for; and what is left in vector stores."""
    own = {kind: _not_in(needles, _vectors(made) if kind == "vectors" else _texts(made)) for kind, needles in wanted.items()}
    own["words"] = own["words"][:MAX_WORDS]
    files = {path: str(path.relative_to(made.home)) for path in _files(made)}
    found = [{"file": name, "kind": kind} for path, name in files.items() for kind, needles in own.items() if _any_in(path, needles)]
    found += [{"file": f"namespace {told['namespace']}", "kind": "vectors"} for told in vectors if told["found"]]
    rows = sum(target.store.document(document_id) is not None or bool(target.store.passages(document_id)) for target in made.targets.now())
    searched = {name: path.stat().st_size for path, name in files.items()}
    counts = {kind: len(needles) for kind, needles in own.items()}
    return {"searched": searched, "looked_for": counts, "found": found, "rows": rows, "vector_stores": vectors}


def _not_in(needles: list[bytes], texts: Iterator[bytes]) -> list[bytes]:
    """Those that stand in none of what remains."""
    left = list(dict.fromkeys(needles))
    for text in texts:
        left = [needle for needle in left if needle not in text]
    return left


def _texts(made: Writer) -> Iterator[bytes]:
    """Other documents with all that is told of them, the ledger's other rows, and the words of the files' own schema."""
    tables = [(target.store.database, name) for target in made.targets.now() for name in ("documents", "sqlite_master")]
    tables += [(made.ledger.database, name) for name in ("items", "jobs", "sqlite_master")]
    for database, table in tables:
        for row in database.execute(f"SELECT * FROM {table}"):  # noqa: S608 - names of our own
            yield "\n".join(str(x) for x in row).encode("utf-8", "replace")
    for target in made.targets.now():
        yield (target.store.folder / INDEX_MANIFEST).read_bytes()


def _vectors(made: Writer) -> Iterator[bytes]:
    for target in made.targets.now():
        for (vector,) in target.store.database.execute("SELECT vector FROM vectors"):
            yield vector


def _files(made: Writer) -> list[Path]:
    """Index and ledger with their logs, and the uploads of finished jobs; of requests yet to be served nothing is asked."""
    folders = [target.store.folder for target in made.targets.now()]
    waiting = {job for (job,) in made.ledger.database.execute("SELECT job_id FROM jobs WHERE open = 1")}
    uploads = [path for path in (made.home / UPLOADS_FOLDER).glob("*") if path.name not in waiting]
    return sorted([*(p for f in folders for p in f.iterdir()), *made.home.glob("ledger.db*"), *uploads])


def _any_in(path: Path, needles: list[bytes]) -> bool:
    if path.stat().st_size == 0:  # which cannot be mapped
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return any(data.find(needle) >= 0 for needle in needles)
