import itertools
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quarry_contract.errors import QuarryError
from quarry_runtime.session import open_tokenizer

from quarry_reader.windows import WindowMaker

TRICKY = st.one_of(
    st.text(),
    st.text(alphabet=st.sampled_from("ae\u0301\u0308n\u0303 \u200d\ufe0f👩🏽🚒🏗️🇩🇪\r\n\x00\u05d0\u05d1\u0627\u0644\u202e日本.,-İßﬁ½①")),
    st.lists(st.sampled_from(["alpha", "café", "cafe\u0301", "שלום", "مرحبا", "👩‍🚒", "\r\n", "\x00", " ", "word3", "C32/40", "ﬁre"])).map("".join),
)


@pytest.fixture(scope="module")
def maker(artefact: Path) -> WindowMaker:
    return WindowMaker(open_tokenizer(artefact / "tokenizer.json"), 64, 16, 16)


@settings(max_examples=400, deadline=None)
@given(TRICKY)
def test_offsets_are_within_the_text_in_order_and_never_split_a_character_from_its_marks(maker: WindowMaker, text: str) -> None:
    for window in maker.windows("who", [text]):
        assert len(window.ids) == len(window.types) <= 64
        assert window.first + len(window.offsets) + 1 == len(window.ids)
        previous = 0
        for a, b in window.offsets:
            assert 0 <= a <= b <= len(text)
            assert a >= previous
            previous = a
            if b < len(text) and b > a and unicodedata.category(text[b]) in ("Mn", "Me"):
                assert any(x == b for x, _ in window.offsets), "a mark left behind without a token of its own"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("in the cafe\u0301 alpha", "cafe\u0301"),
        ("😀😀 café is", "café"),
        ("שלום alpha", "alpha"),
        ("a\r\nb\x00 alpha\r\n", "alpha"),
        ("👩🏽‍🚒 alpha", "alpha"),
    ],
)
def test_tokens_stand_for_the_original_characters(maker: WindowMaker, text: str, word: str) -> None:
    [window] = maker.windows("who", [text])
    assert any(text[a:b] == word for a, _ in window.offsets for _, b in window.offsets if a < b)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 30))
def test_windows_cover_every_token_and_overlap_by_the_stride(maker: WindowMaker, words: int, asked: int) -> None:
    text = " ".join(f"word{i % 40}" for i in range(words))
    windows = maker.windows("who " * asked, [text])
    room = 64 - min(asked, 16) - 3
    starts = [w.offsets[0][0] for w in windows]
    assert starts == sorted(set(starts))
    assert {o for w in windows for o in w.offsets} == {o for w in windows for o in w.offsets if text[o[0] : o[1]].startswith("word")}
    assert len({o for w in windows for o in w.offsets}) == words
    for left, right in itertools.pairwise(windows):
        assert len(left.offsets) == room
        assert left.offsets[-16:] == right.offsets[:16] or len(right.offsets) < 16


def test_a_question_of_nothing_readable_is_refused(maker: WindowMaker) -> None:
    with pytest.raises(QuarryError, match="no readable characters"):
        maker.windows("\u200b\u200b", ["alpha"])


def test_an_empty_passage_gives_no_window(maker: WindowMaker) -> None:
    assert [w.passage for w in maker.windows("who", ["", "alpha", "\x00"])] == [1]


def test_the_heading_stands_with_the_question_and_is_no_part_of_the_passage(artefact: Path) -> None:
    tokenizer = open_tokenizer(artefact / "tokenizer.json")
    maker = WindowMaker(tokenizer, 64, 16, 16, max_heading_tokens=2)
    [with_heading, without] = maker.windows("who", ["alpha word3", "alpha"], ["word1 word2 word5", ""])
    first = tokenizer.encode("who | word1 word2", add_special_tokens=False).ids
    assert with_heading.ids[1 : with_heading.first - 1] == first, "cut to two tokens, after the question"
    assert with_heading.offsets == [(0, 5), (6, 11)]
    assert without.ids[1 : without.first - 1] == tokenizer.encode("who", add_special_tokens=False).ids
    untrained = WindowMaker(tokenizer, 64, 16, 16)
    assert untrained.windows("who", ["alpha"], ["word1"]) == untrained.windows("who", ["alpha"])


def test_special_tokens_in_a_document_are_text(maker: WindowMaker) -> None:
    [window] = maker.windows("who", ["alpha [SEP] [CLS] word3"])
    special = {maker.tokenizer.token_to_id(name) for name in ("[SEP]", "[CLS]")}
    assert not special & set(window.ids[window.first : -1])
