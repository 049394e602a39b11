"""Following index.db: whatever the writer does, the snapshot in memory answers as a freshly opened index does, and nobody sees a mixture."""

import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from quarry_contract.errors import QuarryError
from quarry_contract.messages import SearchRequest, TextRange
from quarry_runtime.encode import Encoder

from .following import ACCESS, QUESTIONS, RETRIEVALS, Make, everything, some_document, until
from .making import DOCUMENTS, WORDS, Document, Writer


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
    for turn in range(25):
        for _ in range(choose.choice([1, 1, 2, 8])):
            change(choose, followed.writer)
        followed.index.refresh()
        if seed == 3:
            followed.index.tend_graphs()
        layouts.add(len(followed.index.snapshot.parts))
        anew = followed.open()
        assert (followed.index.snapshot.revision, followed.index.snapshot.passages) == (anew.snapshot.revision, anew.snapshot.passages)
        assert followed.index.snapshot.documents == anew.snapshot.documents
        questions = QUESTIONS[turn % 2 :][:1]  # what went wrong stays wrong: the other one is asked next time
        assert everything(followed.searcher, questions=questions) == everything(followed.searcher_of(anew), questions=questions)
    assert everything(followed.searcher) == everything(followed.searcher_of(followed.open()))
    assert len(layouts) > 1 and bool(followed.index.snapshot.graphs) == (seed == 3)


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
