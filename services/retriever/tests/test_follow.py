"""Following index.db: whatever the writer does, the snapshot in memory answers as a freshly opened index does, and nobody sees a mixture."""

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

import faiss
import numpy as np
import pytest
from quarry_contract.errors import QuarryError
from quarry_contract.messages import Retrieval, SearchRequest, TextRange
from quarry_runtime.encode import Encoder

from quarry_retriever.index import Index
from quarry_retriever.search import Searcher

from .making import DIMENSION, DOCUMENTS, WORDS, Document, Writer, make_index

RETRIEVALS = get_args(Retrieval)
CALLERS: tuple[tuple[str, ...], ...] = ((), ("group:a",), ("user:x", "group:b"), ("group:a", "group:b"))
ACCESS = (("*",), ("*",), ("group:a",), ("group:b", "user:y"), ("user:x",), ())


@pytest.fixture(scope="module")
def encoder(model_dir: Path) -> Encoder:
    return Encoder.load(model_dir)


class Followed:
    """A real index folder, its writer, and an index that follows it."""

    def __init__(self, folder: Path, model_dir: Path, encoder: Encoder, documents: tuple[Document, ...], exact_up_to: int = 50_000) -> None:
        self.folder, self._encoder = make_index(folder, model_dir, documents), encoder
        self.writer = Writer(folder, encoder.encode)
        self._exact_up_to = exact_up_to
        self.index = self.open()
        self.searcher = self.searcher_of(self.index)

    def open(self) -> Index:
        return Index.open(self.folder, self._encoder.manifest.digest, self._encoder.encode, self._exact_up_to)

    def searcher_of(self, index: Index) -> Searcher:
        return Searcher(index, self._encoder.encode, "tiny@1")

    def found(self, question: str, *principals: str, retrieval: str = "bm25", **more: Any) -> list[str]:
        request = SearchRequest(question, 100, retrieval, principals=principals, **more)  # type: ignore[arg-type]
        return sorted({p.passage.document_id for p in self.searcher.search(request).passages})


Make = Callable[..., Followed]


@pytest.fixture
def make(tmp_path: Path, model_dir: Path, encoder: Encoder) -> Iterator[Make]:
    made: list[Followed] = []

    def one(*documents: Document, exact_up_to: int = 50_000) -> Followed:
        made.append(Followed(tmp_path / str(len(made)), model_dir, encoder, documents, exact_up_to))
        return made[-1]

    yield one
    for followed in made:
        followed.index.close()
        followed.writer.close()


def answer(searcher: Searcher, request: SearchRequest) -> str:
    """The whole answer, or the error, as it goes over the wire."""
    try:
        return json.dumps(searcher.search(request).to_dict())
    except QuarryError as error:
        return json.dumps(error.to_problem("r"))


def everything(searcher: Searcher, callers: tuple[tuple[str, ...], ...] = CALLERS) -> list[str]:
    """Answers to all kinds of searches by several callers."""
    filters: list[dict[str, Any]] = [{}, {"kind": ("report", "plan")}, {"secret": 1}, {"page": 1}]
    questions = ("crane wind speed", "fire plan at the gate")
    asked = [(q, r, f, p) for q in questions for r in RETRIEVALS for f in filters for p in callers]
    return [answer(searcher, SearchRequest(q, 10, r, f, p)) for q, r, f, p in asked]


def some_document(choose: random.Random, name: str) -> Document:
    texts = [" ".join(choose.choices(WORDS, k=choose.randint(3, 12))) for _ in range(choose.randint(1, 4))]
    metadata: dict[str, Any] = {"kind": choose.choice(["report", "plan", "letter"])} | ({"secret": 1} if choose.random() < 0.1 else {})
    return Document(name, choose.choice(WORDS), "\n\n".join(texts), metadata, ("Wind",), choose.choice(ACCESS))


def change(choose: random.Random, writer: Writer) -> None:
    """One change of any kind, of one of 40 documents."""
    name, kind = f"d{choose.randrange(40)}", choose.random()
    if kind < 0.5:
        writer.put(some_document(choose, name))
    elif kind < 0.7:
        writer.delete(name)
    elif kind < 0.85:
        writer.update(name, principals=json.dumps(sorted(choose.choice(ACCESS))))
    elif kind < 0.95:
        writer.update(name, title=choose.choice(WORDS), metadata=json.dumps({"kind": "letter", choose.choice(["secret", "open"]): 1}))
    else:
        writer.forget()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_followed_index_answers_as_one_opened_anew(make: Make, seed: int) -> None:
    choose = random.Random(seed)
    followed = make(*[some_document(choose, f"d{n}") for n in range(25 * (seed - 1))], exact_up_to=20 if seed == 3 else 50_000)
    layouts = set()
    for _ in range(25):
        for _ in range(choose.choice([1, 1, 2, 8])):
            change(choose, followed.writer)
        followed.index.refresh()
        if seed == 3:
            followed.index.tend_graph()
        layouts.add(len(followed.index.snapshot.parts))
        anew = followed.open()
        assert (followed.index.snapshot.revision, followed.index.snapshot.passages) == (anew.snapshot.revision, anew.snapshot.passages)
        assert followed.index.snapshot.documents == anew.snapshot.documents
        assert everything(followed.searcher) == everything(followed.searcher_of(anew))
    assert len(layouts) > 1 and (followed.index.snapshot.graph is not None) == (seed == 3)


def test_what_is_hidden_leaves_no_trace(make: Make) -> None:
    choose = random.Random(5)
    documents = [replace(some_document(choose, f"d{n}"), principals=choose.choice([("*",), ("group:a",), ("group:z",)])) for n in range(40)]
    documents.append(Document("d40", "crane", "crane wind wind speed limit", {"secret": 1, "kind": "plan"}, principals=("group:z",)))
    seen = [d for d in documents if d.principals != ("group:z",)]
    everybody, without = make(*documents), make(*seen)
    for callers in (((),), (("group:a",),), (("group:b", "group:a"),)):
        assert everything(everybody.searcher, callers) == everything(without.searcher, callers)
    assert everything(everybody.searcher, (("group:z",),)) != everything(without.searcher, (("group:z",),))
    ranges = [TextRange(d.document_id, 0, 50, version) for d in documents for version in (None, d.version, "other")]
    for caller in ((), ("group:a",)):
        assert everybody.index.store.texts(ranges, caller) == without.index.store.texts(ranges, caller)
    assert everybody.index.store.texts(ranges[-3:-2], ("group:z",)) != (None,)
    for name in ("d41", "d7"):  # changes of what is hidden, taken up one by one, show as little
        everybody.writer.put(replace(some_document(choose, name), principals=("group:z",)))
        without.writer.delete(name)
        everybody.index.refresh()
        without.index.refresh()
        assert everything(everybody.searcher, (("group:a",),)) == everything(without.searcher, (("group:a",),))


def test_filter_errors_name_only_fields_of_visible_documents(make: Make) -> None:
    followed = make(Document("a", "t", "crane", {"open": 1}), Document("b", "t", "crane", {"hidden": 1}, principals=("group:b",)))
    for field in ("hidden", "never"):
        with pytest.raises(QuarryError, match=r"it knows document_id, open, page, section, title, version\Z"):
            followed.found("crane", filters={field: 1})
    assert followed.found("crane", "group:b", filters={"hidden": 1}) == ["b"]


@pytest.mark.parametrize("retrieval", RETRIEVALS)
def test_who_may_no_longer_read_finds_nothing(make: Make, retrieval: str) -> None:
    followed = make(*DOCUMENTS[:2], Document("secret", "Plan", "The crane plan.", principals=("group:a",)))
    assert "secret" in followed.found("crane plan", "group:a", retrieval=retrieval)
    assert "secret" not in followed.found("crane plan", retrieval=retrieval)
    followed.writer.update("secret", principals='["group:b"]')
    before = followed.index.snapshot.revision
    assert "secret" not in followed.found("crane plan", "group:a", retrieval=retrieval)  # at once: the words are fetched for this caller
    assert followed.index.snapshot.revision == before + 1  # that it was stale was noticed
    assert "secret" in followed.found("crane plan", "group:b", retrieval=retrieval)


def test_words_are_fetched_for_the_caller_alone(make: Make) -> None:
    store = make(Document("secret", "Plan", "The crane plan.", principals=("group:a", 'user:é"x'))).index.store
    for principals, there in [(["group:a"], True), (['user:é"x'], True), ([], False), (["group:A", "group:", "a", "*"], False)]:
        assert [p is not None for p in store.passages([1, 2], 1, principals)] == [there, False]
        assert [t is not None for t in store.texts([TextRange("secret", 0, 3)], principals)] == [there]


def test_a_snapshot_that_is_behind_is_renewed_by_the_question(make: Make) -> None:
    followed = make(*DOCUMENTS)
    followed.writer.put(Document("crane.md", "Tower crane", "The crane is gone."))
    [only] = followed.searcher.search(SearchRequest("tower crane", 9, "bm25", {"document_id": "crane.md"})).passages
    assert only.passage.text == "The crane is gone."
    followed.writer.delete("crane.md")
    assert followed.found("tower crane") == []


def test_the_last_documents_can_go_and_come_back(make: Make) -> None:
    followed = make(DOCUMENTS[0])
    followed.writer.delete("crane.md")
    followed.index.refresh()
    assert (followed.index.snapshot.passages, followed.index.snapshot.documents) == (0, 0)
    assert all(followed.found("crane", retrieval=r) == [] for r in RETRIEVALS)
    followed.writer.put(DOCUMENTS[0])
    followed.index.refresh()
    assert all(followed.found("crane", retrieval=r) == ["crane.md"] for r in RETRIEVALS)


def until(true: Callable[[], bool]) -> None:
    limit = time.monotonic() + 60
    while not true():
        assert time.monotonic() < limit, "did not happen in time"
        time.sleep(0.02)


@pytest.mark.parametrize("metadata", ["[]", "[" * 99_999])
def test_what_cannot_be_read_is_counted_and_what_was_there_is_served(make: Make, metadata: str) -> None:
    followed = make(*DOCUMENTS)
    followed.index.follow()
    with followed.writer.change() as (database, revision):
        database.execute("UPDATE documents SET metadata = ?, revision = ? WHERE document_id = 'crane.md'", (metadata, revision))
    until(lambda: followed.index.follow_errors > 1)
    assert followed.found("concrete scaffold crane") == ["scaffold.txt", "wall.md"]  # of what was there, all that did not change
    followed.writer.update("crane.md", metadata="{}")
    until(lambda: followed.index.snapshot.revision == revision + 1)
    assert followed.found("concrete scaffold crane") == ["crane.md", "scaffold.txt", "wall.md"]


def test_questions_while_the_index_changes_see_one_version_of_each_document(make: Make, encoder: Encoder) -> None:
    def version(name: str, number: int) -> Document:
        return Document(name, "Plan", "\n\n".join(f"crane plan {number} part {part} of {name}" for part in range(1 + number % 3)))

    names, done = [f"d{n}" for n in range(6)], threading.Event()
    followed = make(*[version(name, 0) for name in names], *DOCUMENTS[:2])
    followed.index.follow()

    def write() -> None:
        writer = Writer(followed.folder, encoder.encode)
        for number in range(1, 151):
            writer.put(version(names[number % 6], number)) if number % 7 else writer.delete(names[number % 6])
        writer.close()

    def ask(seed: int) -> int:
        choose, answers = random.Random(seed), 0
        while not done.is_set():
            request = SearchRequest("crane plan part", 40, choose.choice(RETRIEVALS))
            by_document: dict[str, set[str]] = {}
            for scored in followed.searcher.search(request).passages:
                by_document.setdefault(scored.passage.document_id, set()).add(scored.passage.version)
                if scored.passage.document_id in names:
                    assert version(scored.passage.document_id, int(scored.passage.text.split()[2])).version == scored.passage.version
            assert all(len(versions) == 1 for versions in by_document.values())
            texts = followed.index.store.texts([TextRange(name, at, at + 5) for name in names for at in (0, 5)], ())
            assert all((a is None) == (b is None) and (a is None or b is None or a.version == b.version) for a, b in zip(texts[::2], texts[1::2], strict=True))
            answers += bool(by_document)
        return answers

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask, seed) for seed in range(3)]
        try:
            write()
        finally:
            done.set()
        assert all(a.result() > 5 for a in asking)
    assert followed.index.follow_errors == 0


def test_more_vectors_than_are_compared_get_a_graph_and_keep_it_up(make: Make) -> None:
    choose = random.Random(6)
    followed = make(*[some_document(choose, f"d{n}") for n in range(30)], exact_up_to=40)
    assert followed.index.snapshot.graph is None
    followed.index.follow()
    until(lambda: followed.index.snapshot.graph is not None)
    graph = followed.index.snapshot.graph
    assert graph is not None and followed.index.snapshot.covered(graph) == followed.index.snapshot.passages
    for n in range(30, 60):
        followed.writer.put(some_document(choose, f"d{n}"))
    until(lambda: followed.index.snapshot.revision == 60 and followed.index.snapshot.graph not in (None, graph))
    for n in range(55):
        followed.writer.delete(f"d{n}")
    until(lambda: followed.index.snapshot.revision == 115 and followed.index.snapshot.graph is None)


@pytest.mark.parametrize("damage", ["none", "digest", "missing", "elsewhere"])
def test_the_writers_graph_is_used_when_it_is_whole(make: Make, encoder: Encoder, damage: str) -> None:
    followed = make(*DOCUMENTS, exact_up_to=40)
    part = followed.index.snapshot.parts[0]
    made = faiss.IndexIDMap2(faiss.IndexHNSWFlat(DIMENSION, 16, faiss.METRIC_INNER_PRODUCT))
    made.add_with_ids(part.vectors.stored[:30], part.rows[:30])
    faiss.write_index(made, str(followed.folder / "graph"))
    digest = sha256((followed.folder / "graph").read_bytes()).hexdigest()
    if damage == "missing":
        (followed.folder / "graph").unlink()
    name = f"../{followed.folder.name}/graph" if damage == "elsewhere" else "graph"
    with followed.writer.change() as (database, revision):
        database.execute("INSERT INTO graphs VALUES (?, ?, 30, ?)", (name, revision, "0" * 64 if damage == "digest" else digest))
    exact = everything(followed.searcher)
    followed.index.tend_graph()
    graph = followed.index.snapshot.graph
    assert graph is not None and graph.size == (30 if damage == "none" else 49)
    assert np.isin(part.rows[:30], part.rows[graph.places(part.vectors)[0]]).all()
    assert everything(followed.searcher) == exact  # the nineteen others are compared one by one


@pytest.mark.parametrize("true", [True, False])
def test_a_start_takes_the_writers_graph_and_keeps_its_vectors_once(make: Make, true: bool) -> None:
    choose = random.Random(7)
    followed = make(*[some_document(choose, f"d{n}") for n in range(60)], exact_up_to=40)
    part = followed.index.snapshot.parts[0]
    stored = part.vectors.stored.copy()
    if not true:
        stored[-1] = -stored[-1]  # and a digest that says so
    made = faiss.IndexIDMap2(faiss.IndexHNSWFlat(DIMENSION, 16, faiss.METRIC_INNER_PRODUCT))
    made.add_with_ids(stored, part.rows)
    faiss.write_index(made, str(followed.folder / "graph"))
    digest = sha256((followed.folder / "graph").read_bytes()).hexdigest()
    with followed.writer.change() as (database, revision):
        database.execute("INSERT INTO graphs VALUES ('graph', ?, ?, ?)", (revision, len(stored), digest))
    followed.writer.delete("d3")
    followed.writer.put(some_document(choose, "d70"))
    followed.index.refresh()
    anew = followed.open()
    graph = anew.snapshot.graph
    assert everything(followed.searcher_of(anew)) == everything(followed.searcher)
    assert (graph is not None) == true
    assert graph is None or (graph.size == len(stored) and anew.snapshot.parts[0].vectors.stored is graph.stored)
    followed.index.tend_graph()
    anew.tend_graph()
    for index in (followed.index, anew):
        assert index.snapshot.graph is not None
        whole = index.snapshot.covered(index.snapshot.graph) == index.snapshot.passages
        assert whole != true, "the writer's, which has not the last document, or one of our own"
    assert graph is None or anew.snapshot.graph is graph


def test_a_graph_made_later_holds_the_vectors_too(make: Make) -> None:
    choose = random.Random(8)
    followed = make(*[some_document(choose, f"d{n}") for n in range(60)], exact_up_to=40)
    followed.writer.delete("d3")
    followed.index.refresh()
    exact = everything(followed.searcher)
    followed.index.tend_graph()
    graph = followed.index.snapshot.graph
    assert graph is not None and all(part.vectors.stored is graph.stored for part in followed.index.snapshot.parts)
    assert everything(followed.searcher) == exact
