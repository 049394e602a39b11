"""Terms; both weightings against their formulas written out, and BM25 against bm25s; what is hidden or gone counts nowhere."""

import math
import random
from collections import Counter
from collections.abc import Sequence

import bm25s
import numpy as np
import pytest
from quarry_runtime.terms import Analyser

from quarry_retriever.lexical import Collection, Postings, PostingsMaker, Vocabulary

TEXTS = ["crane wind wind limit", "concrete wall", "crane concrete crane crane", "", "fire plan of the crane"]


def postings(passages: Sequence[Sequence[str]], vocabulary: Vocabulary) -> Postings:
    maker = PostingsMaker(vocabulary)
    for terms in passages:
        maker.add(terms)
    return maker.made()


def collection(*parts: Sequence[Sequence[str]], hidden: Sequence[int] = ()) -> Collection:
    """Of parts given as their passages' terms; `hidden` counts through all of them."""
    vocabulary = Vocabulary()
    made = [postings(part, vocabulary) for part in parts]
    masks = np.split(np.isin(np.arange(sum(map(len, parts))), hidden, invert=True), np.cumsum([len(part) for part in parts])[:-1])
    return Collection(made, masks, vocabulary)


def random_passages(count: int, seed: int) -> list[list[str]]:
    choose = random.Random(seed)
    return [[f"w{int(choose.paretovariate(0.7)) % 60}" for _ in range(choose.randrange(30))] for _ in range(count)]


@pytest.fixture(scope="module")
def analyse() -> Analyser:
    return Analyser()


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("The cranes are lifting", ["crane", "lift"]),
        ("C32/40", ["c32/40", "c32", "c", "32", "40"]),
        ("TC1", ["tc1", "tc", "1"]),
        ("ms-014", ["ms-014", "ms", "014"]),
        ("3.1 m", ["3.1", "3", "1", "m"]),
        ("£9,500", ["9500"]),
        ("12,345.50", ["12345.50"]),
        ("11 m/s", ["11", "m/s", "m", "s"]),
        ("8km/h", ["8km/h", "8km", "8", "km", "h"]),
        ("Café naïve", ["cafe", "naiv"]),
        ("fire plan, Bill Sato", ["fire", "plan", "bill", "sato"]),
        ("the of and", []),
        ("How many cranes do they have?", ["crane", "have"]),
        ("🏗️ — !", []),
    ],
)
def test_terms(analyse: Analyser, text: str, terms: list[str]) -> None:
    assert analyse(text) == terms


def test_the_same_code_is_found_however_it_is_written(analyse: Analyser) -> None:
    for written in ("MS-014", "ms 014", "MS014", "ms/014"):
        assert {"ms", "014"} <= set(analyse(written)), written


def test_bm25_is_lucenes_formula(analyse: Analyser) -> None:
    passages = [analyse(t) for t in TEXTS]
    question = analyse("crane wind crane unknown")
    mean = sum(map(len, passages)) / len(passages)
    expected = []
    for terms in passages:
        counts, score = Counter(terms), 0.0
        for term in question:
            having = sum(term in p for p in passages)
            if having:
                idf = math.log(1 + (len(passages) - having + 0.5) / (having + 0.5))
                score += idf * counts[term] / (counts[term] + 1.5 * (1 - 0.75 + 0.75 * len(terms) / mean))
        expected.append(score)
    assert np.allclose(collection(passages).bm25(question)[0], expected, rtol=1e-6)


def test_tfidf_is_the_cosine_of_damped_frequencies_with_idf_on_the_questions_side(analyse: Analyser) -> None:
    passages = [analyse(t) for t in TEXTS]
    question = analyse("crane crane wind")
    terms = sorted({t for p in passages for t in p})
    idf = {t: math.log((1 + len(passages)) / (1 + sum(t in p for p in passages))) + 1 for t in terms}

    def vector(words: list[str], weight: dict[str, float]) -> np.ndarray:
        v = np.array([(1 + math.log(words.count(t))) * weight[t] if t in words else 0.0 for t in terms])
        return v / (np.linalg.norm(v) or 1)

    expected = [vector(p, dict.fromkeys(terms, 1.0)) @ vector(question, idf) for p in passages]
    assert np.allclose(collection(passages).tfidf(question)[0], expected, atol=1e-6)


def test_bm25_scores_as_bm25s_does() -> None:
    passages = random_passages(300, seed=1)
    theirs = bm25s.BM25(k1=1.5, b=0.75, method="lucene")
    theirs.index(passages, show_progress=False)
    ours = collection(passages[:170], passages[170:])
    for question in [["w1", "w2"], ["w1", "w1", "w40"], ["w3", "unheard", "w9", "w17"], ["w59"]]:
        assert np.allclose(np.concatenate(ours.bm25(question)), theirs.get_scores(question), rtol=1e-5), question


@pytest.mark.parametrize("kind", ["bm25", "tfidf"])
def test_hidden_passages_count_nowhere(kind: str) -> None:
    passages = random_passages(200, seed=2)
    hidden = random.Random(3).sample(range(200), 90)
    seen = [p for i, p in enumerate(passages) if i not in hidden]
    for question in [["w1", "w2"], ["w5", "w5", "w30", "w2"], ["w7", "w12", "w13"]]:
        some = np.concatenate(getattr(collection(passages[:50], passages[50:], hidden=hidden), kind)(question))
        alone = getattr(collection(seen), kind)(question)[0]
        assert np.delete(some, hidden).tobytes() == alone.tobytes() and alone.any()
        assert not some[hidden].any()


@pytest.mark.parametrize("kind", ["bm25", "tfidf"])
def test_merging_changes_no_score(kind: str) -> None:
    passages = random_passages(120, seed=4)
    choose = np.random.default_rng(5)
    place = np.full(120, -1)
    kept = np.sort(choose.permutation(120)[:80])
    place[kept] = choose.permutation(80)
    vocabulary = Vocabulary()
    parts = [postings(passages[:70], vocabulary), postings(passages[70:], vocabulary)]
    merged = Collection([Postings.merged(parts, [place[:70], place[70:]])], [np.ones(80, bool)], vocabulary)
    alone = collection([passages[at] for at in kept[np.argsort(place[kept])]])
    for question in [["w1", "w2"], ["w5", "w30", "w2"]]:
        assert getattr(merged, kind)(question)[0].tobytes() == getattr(alone, kind)(question)[0].tobytes()


@pytest.mark.parametrize("kind", ["bm25", "tfidf"])
def test_nothing_in_common_scores_nothing(kind: str, analyse: Analyser) -> None:
    def scores(passages: list[list[str]], question: list[str]) -> list[float]:
        return getattr(collection(passages), kind)(question)[0].tolist()  # type: ignore[no-any-return]

    assert not any(scores([analyse(t) for t in TEXTS], ["unheard"]))
    assert not any(scores([analyse(t) for t in TEXTS], []))
    assert scores([[], []], ["crane"]) == [0, 0]
    assert scores([], ["crane"]) == []
    assert getattr(Collection([], [], Vocabulary()), kind)(["crane"]) == []
