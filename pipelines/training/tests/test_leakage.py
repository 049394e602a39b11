import random

from hypothesis import given, settings
from hypothesis import strategies as st

from quarry_training import leakage, squad
from quarry_training.leakage import Item
from quarry_training.squad import Example

RNG = random.Random(3)
VOCABULARY = [f"w{i}" for i in range(5000)]


def text(words: int) -> str:
    return " ".join(RNG.choices(VOCABULARY, k=words))


def item(name: str, context: str, question: str = "", answer: str = "") -> Item:
    return Item(name, question or f"who {name}", (answer,) if answer else (), (context,))


def test_a_paragraph_with_a_word_changed_or_more_around_it_is_near() -> None:
    base = text(60)
    words = base.split()
    words[30] = "other"
    texts = [base, " ".join(words), f"{text(200)} {base} {text(90)}", text(60)]
    assert [(i, j) for i, j, _ in leakage.near_pairs(texts)] == [(0, 1), (0, 2), (1, 2)]


def test_texts_that_share_a_form_alone_are_not_near() -> None:
    form = text(15)
    assert list(leakage.near_pairs([f"{form} {text(60)}" for _ in range(300)])) == []


def test_more_copies_than_the_index_compares_in_full_are_still_one_group() -> None:
    base = text(80)
    texts = [f"{base} {text(5)}" for _ in range(3 * leakage.COMMON)] + [text(80)]
    made = leakage.groups(texts, [str(i) for i in range(len(texts))])
    assert len(set(made[:-1])) == 1
    assert made[-1] not in made[:-1]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abc"), min_size=10, max_size=30).map(" ".join), min_size=2, max_size=12))
def test_the_index_finds_what_comparing_every_pair_finds(texts: list[str]) -> None:
    def shingles(t: str) -> set[tuple[str, ...]]:
        words = t.split()
        return {tuple(words[i : i + leakage.SHINGLE]) for i in range(len(words) - leakage.SHINGLE + 1)}

    sets = [shingles(t) for t in texts]
    pairs = {(i, j) for j in range(len(texts)) for i in range(j) if len(sets[i] & sets[j]) >= leakage.NEAR * min(len(sets[i]), len(sets[j]))}
    assert {(i, j) for i, j, _ in leakage.near_pairs(texts)} == pairs


def test_leaks_are_told_apart_and_counted_once_a_question() -> None:
    a, b = text(50), text(50)
    train = [item("t1", a), item("t2", b), item("t3", text(50), "Where is it?", "Dover"), item("t4", "Short.", "Why?")]
    held_out = [
        item("h1", a.upper() + " !"),
        item("h2", b.rsplit(" ", 2)[0]),
        item("h3", text(50), "where is it", "dover"),
        item("h4", text(50), "Where is it?", "Leeds"),
        item("h5", "short", "Why?"),
        item("h6", text(50)),
    ]
    found = leakage.leaks(train, held_out)
    assert found.pairs == {"same_context": [("t1", "h1"), ("t4", "h5")], "near_context": [("t2", "h2")], "same_question_and_answer": [("t3", "h3")]}
    assert found.questions == 4


def test_a_split_keeps_documents_and_near_contexts_on_one_side() -> None:
    shared = [text(60) for _ in range(10)]
    examples = [Example(f"{d}-{p}", f"document {d}", "Who?", f"{shared[d // 4]} {d}" if p == 0 else text(60), ()) for d in range(40) for p in range(3)]
    train, held_out = squad.split(examples, 30)
    assert train and held_out
    assert {e.title for e in train}.isdisjoint(e.title for e in held_out)
    assert {int(e.title.split()[1]) // 4 for e in train}.isdisjoint(int(e.title.split()[1]) // 4 for e in held_out)
    assert leakage.leaks(squad.items(train), squad.items(held_out)).questions == 0


def test_two_documents_are_enough_to_hold_one_out() -> None:
    examples = [Example(str(i), f"d{i > 0}", "Who?", text(30), ()) for i in range(5)]
    train, held_out = squad.split(examples, 15)
    assert (len(train), len(held_out)) == (4, 1)
