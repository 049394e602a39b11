"""What a vector store holds and is asked: a filter never leaves out a passage that matches."""

from quarry_contract.vector_store import BUILT_IN, MAX_TERMS, Sparse, filter_of, metadata_of, passage_terms, question_terms, weighted

PLACE = dict.fromkeys(BUILT_IN) | {"document_id": "a.md", "version": "v", "title": "A"}


def test_a_documents_own_metadata_never_pass_for_built_in_ones() -> None:
    own = {"document_id": "b.md", "principals": "*", "page": 7}
    made = metadata_of(PLACE, own, ["user:x"])
    assert made == {
        "principals": ["user:x"],
        "document_id": "a.md",
        "version": "v",
        "title": "A",
        "own.document_id": "b.md",
        "own.principals": "*",
        "own.page": 7,
    }


def test_who_asks_is_always_in_the_filter() -> None:
    assert filter_of((), {}) == {"principals": {"$in": ["*"]}}
    both = [{"principals": {"$in": ["*", "user:x"]}}, {"own.kind": {"$in": ["a", 1, True]}}, {"page": {"$in": [3]}}]
    assert filter_of(["user:x"], {"kind": ("a", 1, True), "page": 3}) == {"$and": both}


def test_values_that_are_not_held_exactly_are_neither_stored_nor_asked_for() -> None:
    for value in (2**53 + 1, -(2**60), "x" * 501):
        assert metadata_of(PLACE, {"n": value}, []).keys() == {"principals", "document_id", "version", "title"}
        assert filter_of((), {"n": (1, value)}) == filter_of((), {})
    assert filter_of((), {"n": tuple(range(10_001))}) == filter_of((), {})
    assert filter_of((), {"n": 2**53}) != filter_of((), {})


def test_terms_have_the_same_indices_on_both_sides() -> None:
    passage, question = passage_terms(["crane", "crane", "wind"]), question_terms({"wind": 2.0, "crane": 1.0, "absent": 0.0})
    assert set(passage.indices) == set(question.indices)
    weights = dict(zip(passage.indices, passage.values, strict=True))
    wind, crane = question.indices
    assert weights[crane] > weights[wind] > 0
    assert len(passage_terms([str(n) for n in range(3 * MAX_TERMS)]).indices) == MAX_TERMS
    assert weighted([1.0, 2.0], Sparse((7,), (4.0,)), 0.75) == ([0.75, 1.5], Sparse((7,), (1.0,)))


def test_a_list_of_principals_too_long_for_metadata_narrows_nothing_down() -> None:
    many = [f"group:{n:0250}" for n in range(100)]
    assert metadata_of(PLACE, {}, many)["principals"] == ["*"]
    assert metadata_of(PLACE, {}, many[:70])["principals"] == many[:70]
