"""Random sequences of changes, crashes, resumptions and repairs, each against a dict: `python -m tests.sequences FOLDER FIRST LAST MODEL MODEL`.

A process of its own, since it forks thousands of times, and a fork costs what there is in memory: a fifth more in a pytest that has imported
the libraries of every file of tests. It prints the number of each sequence, and stops at the first that fails.
"""

import json
import random
import shutil
import sqlite3
import sys
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

from quarry_contract.index_store import INDEX_DATABASE, connect
from quarry_contract.manifests import INDEX_MANIFEST
from quarry_contract.messages import Job
from quarry_contract.releases import index_dir
from quarry_runtime.encode import Encoder

from quarry_ingestion import jobs
from quarry_ingestion.blocks import Document
from quarry_ingestion.ledger import LEDGER_DATABASE, now
from quarry_ingestion.pipeline import reindex, sync
from quarry_ingestion.reconcile import reconcile
from quarry_ingestion.sources import Folder, SourceError
from quarry_ingestion.targets import cut, embed, read_targets
from quarry_ingestion.uploads import work

from .crash import full_at, in_child, kill_at, kill_in

LOAD = Encoder.load
NAMES = ("a.txt", "b.txt", "sub/c.txt", "sub/d.txt", "e.txt")
UPLOADED = ("up/x", "up/y")
STEPS = ("IndexStore.put", "IndexStore.delete", "Ledger.save", "Ledger.remove", "Ledger.mark_seen", "_level", "finish")
WORDS = ("crane", "pile", "wall", "wind", "hook", "mast")


@cache
def encoder(folder: Path) -> Encoder:
    """A model never changes here, and a session of one thread runs in a forked child too: loading it in every run would be a third of the time."""
    return LOAD(folder)


@cache
def expected(model: Path, name: str, text: str, source: str) -> frozenset[tuple[Any, ...]]:
    """The passages and vectors of a document, from first principles: no store, no ledger."""
    document = Document(name, "", Path(name).stem, source, "text/plain", text, (), ())
    chunks = cut(document, encoder(model))
    return frozenset((c.document_id, c.start, c.end, c.text, v.tobytes()) for c, v in zip(chunks, embed(document, chunks, encoder(model)), strict=True))


class Follower:
    """Catches up by revisions alone, as index_store says; at any time it must hold what the index holds."""

    def __init__(self) -> None:
        self.revision = 0
        self.rows: dict[int, str] = {}

    def catch_up(self, database: sqlite3.Connection) -> None:
        database.execute("BEGIN")
        revision, oldest = database.execute("SELECT revision, oldest FROM state").fetchone()
        assert revision >= self.revision >= oldest
        for (row,) in database.execute("SELECT row FROM removed WHERE revision > ?", (self.revision,)):
            self.rows.pop(row, None)
        self.rows.update(database.execute("SELECT row, passage_id FROM passages WHERE revision > ?", (self.revision,)))
        self.revision = revision
        assert self.rows == dict(database.execute("SELECT row, passage_id FROM passages"))
        mixed = database.execute('SELECT 1 FROM passages p JOIN documents d USING (document_id) WHERE substr(d.text, p.start + 1, p."end" - p.start) <> p.text')
        assert mixed.fetchone() is None, "a passage of another version than its document"
        database.execute("COMMIT")


class World:
    """One QUARRY_HOME, one folder, and what must come of them."""

    def __init__(self, base: Path, seed: int, models: list[Path]) -> None:
        self.random = random.Random(seed)
        self.models = models
        self.root, self.home = base / "docs", base / "home"
        (self.root / "sub").mkdir(parents=True)
        self.home.mkdir()
        (self.root / "always.txt").write_text("The mast stands always.")
        self.files: dict[str, str | None] = {"always.txt": "The mast stands always."}  # None = cannot be read
        self.uploads: dict[str, tuple[str, tuple[str, ...]]] = {}
        self.rule: tuple[str, ...] = ("*",)
        self.targets = 2 if seed % 5 == 0 else 1
        self.number = 0
        self.followers: dict[str, Follower] = {}

    # --- operations ---

    def write(self) -> None:
        name = self.random.choice(NAMES)
        self.files[name] = " ".join(self.random.choice(WORDS) for _ in range(self.random.choice((3, 8, 250)))).capitalize() + "."
        (self.root / name).write_text(self.files[name] or "")

    def delete(self) -> None:
        name = self.random.choice(NAMES)
        if self.files.pop(name, None) is not None or (self.root / name).exists():
            (self.root / name).unlink()

    def half_written(self) -> None:
        """A file that is a truncated PDF by its content, until somebody writes it anew."""
        name = self.random.choice(NAMES)
        (self.root / name).write_bytes(b"%PDF-1.7 half a file")
        self.files[name] = None

    def permit(self) -> None:
        self.rule = tuple(sorted(self.random.choice((["*"], ["group:a"], ["group:a", "user:jo"], []))))
        (self.root / ".quarry.json").write_text(json.dumps({"principals": {"*": list(self.rule)}}))

    def upload(self) -> None:
        self.number += 1
        name, put = self.random.choice(UPLOADED), self.random.random() < 0.7
        job = Job(f"job-{self.number}", name, "put" if put else self.random.choice(("delete", "forget")), "queued", now())
        text = f"Upload {self.number} of the {self.random.choice(WORDS)}."
        if put:
            principals = self.random.choice((("*",), ("user:up",)))
            jobs.enqueue(self.home, job, text.encode(), principals, "text/plain")
            self.uploads[name] = (text, principals)
        else:
            jobs.enqueue(self.home, job, None)
            self.uploads.pop(name, None)

    def second_target(self) -> None:
        self.targets = 2

    def damage(self) -> None:
        """Rows that no program of ours leaves behind."""
        for generation, _ in read_targets(self.home):
            path = index_dir(self.home, generation) / INDEX_DATABASE
            if not (path.parent / INDEX_MANIFEST).exists():
                return
            with closing(sqlite3.connect(path)) as database, database:
                database.execute(
                    self.random.choice((
                        "DELETE FROM vectors WHERE row IN (SELECT row FROM vectors ORDER BY row LIMIT 1)",
                        "INSERT INTO vectors VALUES (100000, x'00')",
                        "UPDATE vectors SET vector = x'0000' WHERE row IN (SELECT row FROM vectors ORDER BY row DESC LIMIT 1)",
                        "UPDATE documents SET principals = '[\"user:thief\"]'",
                        "DELETE FROM documents WHERE document_id = (SELECT max(document_id) FROM documents WHERE document_id NOT LIKE 'up/%')",
                        "INSERT INTO documents VALUES ('stray', 'v', 't', 's', 'text/plain', 'x', '[]', '[]', '{}', '[\"*\"]', 1)",
                    ))
                )  # fmt: skip
        self.repair()

    # --- steps ---

    def steps(self) -> None:
        """All that there is to do."""
        with_nothing = len(self.files) == sum(text is None for text in self.files.values())
        try:
            sync(Folder(self.root), self.home, self.models[0])
        except SourceError:
            if not with_nothing:
                raise
        if len(read_targets(self.home)) < self.targets:  # one that was killed is finished by the next sync
            reindex(self.home, self.models[1])
        while work(self.home) is not None:
            pass

    def crash(self) -> None:
        """Some of it, killed somewhere or on a full disk; twice, with or without a change between, so that a resumption is killed too."""
        for _ in range(2):
            where = (kill_at(self.random.randrange(1, 120)), kill_in(self.random.choice(STEPS), self.random.randrange(1, 4)))
            in_child(self.steps, self.random.choice((*where, where[1], full_at(self.random.randrange(0, 150_000)))))
            self.follow()
            self.random.choice((self.write, self.delete, self.delete, self.level, lambda: None))()

    def repair(self) -> None:
        if read_targets(self.home):
            in_child(lambda: reconcile(self.home), kill_at(self.random.randrange(1, 60)))
            self.level()

    def level(self) -> None:
        """Reconciliation alone, before any run mends what it should: targets hold the same, and nothing that the ledger does not account for."""
        if not read_targets(self.home):
            return
        reconcile(self.home)
        held = []
        for generation, _ in read_targets(self.home):
            with closing(connect(index_dir(self.home, generation) / INDEX_DATABASE)) as database:
                held.append(set(database.execute("SELECT document_id, version, text, principals FROM documents")))
        assert held.count(held[0]) == len(held), "targets differ"
        with closing(sqlite3.connect(self.home / LEDGER_DATABASE)) as database:
            versions = dict(database.execute("SELECT document_id, version FROM items WHERE code IS NULL"))
        found = {name: version for name, version, *_ in held[0]}
        assert found.keys() <= versions.keys(), "a document of no item"
        again = {name for name, version in versions.items() if version is None}  # to be read again by the next run
        assert {name: found.get(name) for name in versions.keys() - again} == {name: versions[name] for name in versions.keys() - again}, "a gap"

    def follow(self) -> None:
        for generation, _ in read_targets(self.home):
            with closing(connect(index_dir(self.home, generation) / INDEX_DATABASE)) as database:
                self.followers.setdefault(generation, Follower()).catch_up(database)

    # --- what must be ---

    def check(self) -> None:
        self.steps()
        self.follow()
        documents = {name: (text, self.rule, name) for name, text in self.files.items() if text is not None}
        documents |= {name: (text, principals, name) for name, (text, principals) in self.uploads.items()}
        targets = read_targets(self.home)
        assert len(targets) == self.targets
        for generation, model in targets:
            with closing(connect(index_dir(self.home, generation) / INDEX_DATABASE)) as database:
                rows = database.execute("SELECT document_id, text, principals, source FROM documents")
                found = {name: (text, tuple(json.loads(principals)), source) for name, text, principals, source in rows}
                assert found == documents
                passages = database.execute('SELECT document_id, start, "end", text, vector FROM passages LEFT JOIN vectors USING (row)').fetchall()
                wanted = frozenset().union(*(expected(model, name, text, source) for name, (text, _, source) in documents.items()))
                assert len(passages) == len(wanted)
                assert frozenset(passages) == wanted
                assert database.execute("SELECT count(*) FROM vectors").fetchone() == (len(passages),)
        assert list((self.home / "uploads").glob("*")) == []
        assert reconcile(self.home)["sound"]


OPERATIONS = (
    [World.write] * 5 + [World.delete] * 2 + [World.half_written, World.second_target, World.damage, World.repair] + [World.permit] * 2
    + [World.upload] * 3 + [World.crash] * 4 + [World.steps] * 2
)  # fmt: skip


def play(base: Path, seed: int, models: list[Path]) -> None:
    """One sequence."""
    world = World(base, seed, models)
    done = [world.random.choice(OPERATIONS) for _ in range(world.random.randrange(3, 9))]
    try:
        for operation in done:
            operation(world)
        world.check()
    except BaseException as error:
        raise AssertionError(f"sequence {seed}: {[operation.__name__ for operation in done]}: {error!r}") from error
    shutil.rmtree(base)


def main() -> None:
    """Some of them, by their numbers."""
    folder, first, last, *models = sys.argv[1:]
    Encoder.load = encoder  # type: ignore[assignment,method-assign]
    for seed in range(int(first), int(last)):
        print(seed, flush=True)
        play(Path(folder, str(seed)), seed, [Path(model) for model in models])


if __name__ == "__main__":
    main()
