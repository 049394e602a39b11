import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quarry_contract.manifests import Chunker

from quarry_ingestion.blocks import Block, Document, assemble
from quarry_ingestion.chunk import CHUNKER, chunk, sentence_spans

TEXTS = st.text(alphabet=st.one_of(st.characters(exclude_categories=("Cs",)), st.sampled_from("ab .!?\n👩‍🚒\u0301שم日.")), max_size=300)


def words(texts: list[str]) -> list[int]:
    return [len(t.split()) for t in texts]


def document(*blocks: Block) -> Document:
    text, pages, sections = assemble(blocks)
    return Document("d", "v", "t", "s", "text/plain", text, pages, sections)


def prose(sentences: int, tag: str = "s") -> str:
    return " ".join(f"{tag.upper()} sentence number {i} has exactly eight words." for i in range(sentences))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.builds(Block, st.sampled_from(["heading", "paragraph", "row"]), TEXTS, st.none()), max_size=6))
def test_passages_are_exact_in_order_and_leave_no_word_out(blocks: list[Block]) -> None:
    made = document(*blocks)
    small = Chunker("sentences", 1, 12, 1)
    passages = chunk(made, words, small)
    covered = set()
    for passage in passages:
        assert made.text[passage.start : passage.end] == passage.text == passage.text.strip()
        covered.update(range(passage.start, passage.end))
    assert all(made.text[i].isspace() for i in set(range(len(made.text))) - covered)
    assert [p.start for p in passages] == sorted(p.start for p in passages)
    assert len({p.passage_id for p in passages}) == len(passages)
    assert passages == chunk(made, words, small)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One. Two! Three? Four", 4),
        ("See cl. 4.2 and Fig. 3, e.g. the mast. It weighs 2.4 t.", 2),
        ("Dr. Adeyemi and Mr. A. Moore agreed. They left.", 2),
        ("4.2.1. The contractor pays. 5. It ends.", 2),
        ("He said: “Stop.” Then he left.", 2),
        ("row | one\nrow | two", 2),
        ("", 0),
        ("No stop at all", 1),
    ],
)
def test_sentences(text: str, count: int) -> None:
    spans = sentence_spans(text)
    assert len(spans) == count, [text[a:b] for a, b in spans]


def test_a_wikipedia_sized_paragraph_is_one_passage() -> None:
    assert len(chunk(document(Block("paragraph", prose(18))), words)) == 1


def test_long_sections_are_cut_evenly_between_sentences_with_one_repeated() -> None:
    passages = chunk(document(Block("paragraph", prose(80))), words)
    sizes = [len(p.text.split()) for p in passages]
    assert max(sizes) <= CHUNKER.max_tokens + 10
    assert min(sizes) > 60
    for left, right in itertools.pairwise(passages):
        assert left.text.rsplit(". ", 1)[-1] in right.text
        assert right.text.startswith("S sentence")


def test_sections_are_kept_apart_unless_tiny() -> None:
    made = document(Block("heading", "A"), Block("paragraph", prose(10, "a")), Block("heading", "B"), Block("paragraph", prose(10, "b")))
    assert [p.section for p in chunk(made, words)] == ["A", "B"]
    tiny = document(Block("heading", "A"), Block("paragraph", "Short."), Block("heading", "B"), Block("paragraph", prose(10, "b")))
    assert len(chunk(tiny, words)) == 1


def test_a_monstrous_sentence_is_cut() -> None:
    passages = chunk(document(Block("paragraph", "word " * 3_000)), words)
    assert len(passages) >= 3_000 // CHUNKER.max_tokens
    assert max(len(p.text.split()) for p in passages) <= 2 * CHUNKER.max_tokens


def test_text_without_tokens_is_no_failure() -> None:
    made = document(Block("heading", "A"), Block("paragraph", prose(10)), Block("heading", "\u0301"))
    assert "".join(p.text for p in chunk(made, lambda texts: [0] * len(texts))) == made.text


def test_pages_come_from_where_the_passage_begins() -> None:
    made = document(Block("paragraph", prose(30), 1), Block("heading", "B", 2), Block("paragraph", prose(30), 2))
    assert [p.page for p in chunk(made, words)] == [1, 1, 2, 2]


def table(rows: int, words_each: int = 8) -> list[Block]:
    return [Block("row", "Part | Mass | Where")] + [Block("row", f"P{i} | {i} t | " + "word " * (words_each - 5)) for i in range(rows)]


def test_a_table_that_fits_is_never_cut() -> None:
    made = document(Block("heading", "A"), Block("paragraph", prose(18, "a")), *table(15), Block("paragraph", prose(18, "b")))
    whole = made.text[made.text.index("Part |") : made.text.index("B sentence") - 2]
    passages = chunk(made, words)
    assert sum(whole in p.text for p in passages) == 1
    assert [p.section for p in passages] == ["A"] * len(passages)
    assert not any("|" in p.text for p in passages if whole not in p.text), "no stray row of it stands elsewhere"


def test_a_longer_table_is_cut_between_rows_and_its_pieces_say_its_columns() -> None:
    made = document(Block("heading", "Loads"), *table(100), Block("paragraph", prose(10)))
    passages = chunk(made, words)
    rows = set(made.text.split("\n"))
    assert len(passages) >= 4
    for i, passage in enumerate(passages):
        assert made.text[passage.start : passage.end] == passage.text
        assert set(passage.text.split("\n")) <= rows, "whole rows only"
        continued = i > 0 and passage.text.startswith("P")
        assert passage.section == ("Loads | columns: Part, Mass, Where" if continued else "Loads")
    assert sum("columns" in (p.section or "") for p in passages) >= 3


def test_sentences_in_a_row_do_not_cut_it_unless_it_is_over_the_budget() -> None:
    row = Block("row", "Mast | Lift it. Then wait. Then go. | 2 t")
    passages = chunk(document(*[row] * 100), words)
    assert all(p.text.startswith("Mast") and p.text.endswith("2 t") for p in passages)
    page_in_a_cell = document(Block("row", "Menu | Home"), Block("row", prose(100)))
    assert max(len(p.text.split()) for p in chunk(page_in_a_cell, words)) <= CHUNKER.max_tokens + 10


def test_a_first_row_that_is_no_header_is_not_repeated() -> None:
    one_column = document(*[Block("row", f"From: {'name ' * 20}{i}") for i in range(20)])
    long_header = document(Block("row", " | ".join(f"column number {i}" for i in range(60))), *[Block("row", "a b | c d | e f")] * 60)
    for made in (one_column, long_header):
        passages = chunk(made, words)
        assert len(passages) > 1
        assert {p.section for p in passages} == {None}


def test_many_small_tables_stay_whole() -> None:
    blocks = [b for i in range(2_000) for b in (Block("row", f"a{i} | b"), Block("row", "c | d"), Block("paragraph", "Between."))]
    passages = chunk(document(*blocks), words)
    assert all(p.text.count("| b") == p.text.count("c | d") for p in passages)
