"""Terms, and both weightings against their formulas written out."""

import math
from collections import Counter

import numpy as np
import pytest

from quarry_retriever.lexical import Analyser, Bm25, TfIdf

TEXTS = ["crane wind wind limit", "concrete wall", "crane concrete crane crane", "", "fire plan of the crane"]


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
    assert np.allclose(Bm25(passages).scores(question), expected, rtol=1e-5)


def test_tfidf_is_the_cosine_of_damped_frequencies(analyse: Analyser) -> None:
    passages = [analyse(t) for t in TEXTS]
    question = analyse("crane crane wind")
    terms = sorted({t for p in passages for t in p})
    idf = {t: math.log((1 + len(passages)) / (1 + sum(t in p for p in passages))) + 1 for t in terms}

    def vector(words: list[str]) -> np.ndarray:
        v = np.array([(1 + math.log(words.count(t))) * idf[t] if t in words else 0.0 for t in terms])
        return v / (np.linalg.norm(v) or 1)

    assert np.allclose(TfIdf(passages).scores(question), [vector(p) @ vector(question) for p in passages], atol=1e-6)


@pytest.mark.parametrize("kind", [Bm25, TfIdf])
def test_nothing_in_common_scores_nothing(kind: type[Bm25] | type[TfIdf], analyse: Analyser) -> None:
    assert not kind([analyse(t) for t in TEXTS]).scores(["unheard"]).any()
    assert not kind([analyse(t) for t in TEXTS]).scores([]).any()
    assert kind([[], []]).scores(["crane"]).tolist() == [0, 0]
    assert kind([]).scores(["crane"]).tolist() == []
