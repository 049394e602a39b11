from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from quarry_training import features, predict
from quarry_training.squad import Example

from .conftest import WORDS


@pytest.fixture(scope="module")
def tokenizer(tiny_reader: Path) -> Tokenizer:
    return features.load_tokenizer(tiny_reader, max_tokens=48)


def test_short_contexts_give_one_window_with_the_answer(tokenizer: Tokenizer) -> None:
    [feature] = features.features(tokenizer, Example("1", "", "who", "anna built the wall", (("anna", 0),)), np.random.default_rng(0))
    assert tokenizer.decode(feature.input_ids[feature.start : feature.end + 1]) == "anna"


def test_unanswerable_questions_point_at_the_first_token(tokenizer: Tokenizer) -> None:
    [feature] = features.features(tokenizer, Example("1", "", "who", "the wall", ()), np.random.default_rng(0))
    assert (feature.start, feature.end) == (0, 0)


@settings(max_examples=60, deadline=None)
@given(words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=200), data=st.data())
def test_every_window_that_says_so_holds_the_answer(tiny_reader: Path, words: list[str], data: st.DataObject) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_reader / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(48, stride=16, strategy="only_second")
    at = data.draw(st.integers(0, len(words) - 1))
    context = " ".join(words)
    start = len(" ".join(words[:at])) + (at > 0)
    made = features.features(tokenizer, Example("1", "", "who", context, ((words[at], start),)), np.random.default_rng(0))
    holding = [f for f in made if f.end]
    assert holding, "the answer is in at least one window"
    for feature in holding:
        assert tokenizer.decode(feature.input_ids[feature.start : feature.end + 1]) == words[at]


def test_batches_hold_every_window_once_and_pad_little() -> None:
    rng = np.random.default_rng(0)
    items = [features.Feature(list(range(n)), [0] * n, 0, 0) for n in rng.integers(5, 200, 3000)]
    made = list(features.batches(items, 16, rng))
    assert sorted(id(f) for b in made for f in b) == sorted(id(f) for f in items)
    padded = sum(len(b) * max(len(f.input_ids) for f in b) for b in made)
    assert padded < 1.1 * sum(len(f.input_ids) for f in items)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 90), st.integers(0, 10_000))
def test_best_span_agrees_with_trying_every_span(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    start, end, allowed = rng.normal(size=n).astype(np.float32), rng.normal(size=n).astype(np.float32), rng.random(n) < 0.8
    allowed[rng.integers(n)] = True
    segments = np.cumsum(rng.random(n) < 0.2)
    near = [(i, j) for i in range(n) for j in range(i, min(n, i + predict.MAX_ANSWER_TOKENS))]
    spans = [(i, j) for i, j in near if allowed[i] and allowed[j] and segments[i] == segments[j]]
    found = predict.best_spans(start, end, allowed, segments)
    score, first, last = found[0]
    assert [s for s, _, _ in found] == sorted((s for s, _, _ in found), reverse=True)
    assert {(i, j) for _, i, j in found} <= set(spans)
    assert score == pytest.approx(max(float(start[i] + end[j]) for i, j in spans), abs=1e-5)
    assert (first, last) in spans


def test_the_heading_stands_with_the_question_as_the_reader_service_reads_it(tiny_reader: Path) -> None:
    tokenizer = features.load_tokenizer(tiny_reader, max_tokens=48)
    heading = " ".join(WORDS[:3] * 20)
    [window, *_] = features.encode_pair(tokenizer, Example("1", "", "who", "the wall", (), heading="anna built"))
    assert window.ids[1 : window.ids.index(tokenizer.token_to_id("[SEP]"))] == tokenizer.encode("who | anna built", add_special_tokens=False).ids
    assert [window.offsets[i] for i, s in enumerate(window.sequence_ids) if s == 1] == [(0, 3), (4, 8)]
    tokenizer.enable_truncation(200, stride=16, strategy="only_second")
    [window, *_] = features.encode_pair(tokenizer, Example("1", "", "who", "the wall", (), heading=heading))
    assert sum(s == 0 for s in window.sequence_ids) == 2 + features.MAX_HEADING_TOKENS
