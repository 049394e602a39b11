"""A hidden document costs no work by which it could be told from one that is not there: steps are counted, time is not.

Steps are the calls of Python and C functions, in their order, and SQLite's instructions. In both worlds something else is hidden, and the
indexes are opened anew: how large an index is altogether, and that it changed, may be guessed from time (docs/security.md).
"""

import gc
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from quarry_contract.errors import QuarryError
from quarry_contract.messages import SearchRequest, TextRange

from .following import RETRIEVALS, Followed, Make, some_document
from .making import Document

SECRET = Document("vault/secret.md", "Vault", "\n\n".join(["The zyzzyva fund is crane wind."] * 40), {"secret": 1, "kind": "fund"}, principals=("group:z",))
OTHER = Document("other.md", "Other", "Wind at the other gate.", {"kind": "letter"}, principals=("group:z",))


def steps(followed: Followed, work: Callable[..., Any], *arguments: Any) -> list[str]:
    """All calls that work(*arguments) makes, and how many instructions SQLite takes."""
    found, instructions = [], 0

    def called(frame: Any, event: str, function: Any) -> None:
        if event == "call":
            found.append(frame.f_code.co_qualname)
        elif event == "c_call":
            found.append(str(getattr(function, "__qualname__", "")))

    def instruction() -> int:
        nonlocal instructions
        instructions += 1
        return 0

    connection = followed.index.store.connection()
    connection.set_progress_handler(instruction, 1)
    gc.disable()  # a collection calls what others hung into it
    sys.setprofile(called)
    try:
        work(*arguments)
    except QuarryError as error:
        found.append(error.detail)
    finally:
        sys.setprofile(None)
        gc.enable()
        connection.set_progress_handler(None, 1)
    return [*(name for name in found if not name.startswith("steps.")), f"{instructions} instructions"]


@pytest.fixture
def worlds(make: Make) -> tuple[Followed, Followed]:
    """With the secret document, and without."""
    choose = random.Random(8)
    seen = [replace(some_document(choose, f"d{n}"), principals=("*",)) for n in range(20)]
    return make(*seen[:10], OTHER, SECRET, *seen[10:]), make(*seen[:10], OTHER, *seen[10:])


@pytest.mark.parametrize("retrieval", RETRIEVALS)
def test_searches_take_the_same_steps(worlds: tuple[Followed, Followed], retrieval: Any) -> None:
    filters: list[dict[str, Any]] = [{}, {"document_id": SECRET.document_id}, {"title": "Vault", "page": 40}, {"kind": "fund"}, {"secret": 1}]
    for question in ("crane wind speed", "zyzzyva", "vault secret fund", "unheard words"):
        for asked in filters:
            request = SearchRequest(question, 9, retrieval, asked, ("group:a",))
            with_it, without = (steps(world, world.searcher.search, request) for world in worlds)
            assert with_it == without and len(without) > 10, (question, asked)
    insider = SearchRequest("zyzzyva", 9, retrieval, {}, ("group:z",))
    with_it, without = (steps(world, world.searcher.search, insider) for world in worlds)
    assert with_it != without, "for who may read it there is work"


def test_words_met_before_take_the_same_steps_as_new_ones(worlds: tuple[Followed, Followed]) -> None:
    request = SearchRequest("zyzzyva", 9, "bm25")
    _, again, never = (steps(worlds[0], worlds[0].searcher.search, replace(request, question=q)) for q in ("zyzzyva", "zyzzyva", "qwertzu"))
    assert again == never


def test_a_hidden_documents_words_take_the_same_steps_as_an_absent_ones(worlds: tuple[Followed, Followed]) -> None:
    def asked(document_id: str, *principals: str, version: str | None = None) -> list[str]:
        ranges = [TextRange("d1", 0, 5), TextRange(document_id, 0, 5, version), TextRange(document_id, 3, 9)]
        return steps(worlds[0], worlds[0].index.texts, ranges, principals)

    asked("d2")  # what is looked up once for all
    for version in (None, SECRET.version):
        assert asked(SECRET.document_id, version=version) == asked("absent.md", version=version)
    asked("d2", "group:z")
    assert asked(SECRET.document_id, "group:z") != asked("absent.md", "group:z"), "who may read it is served"


def test_words_of_a_document_that_came_just_now_are_found_at_once(make: Make) -> None:
    followed = make(OTHER)
    followed.writer.put(SECRET)
    ranges = [TextRange("other.md", 0, 4), TextRange(SECRET.document_id, 0, 3), TextRange("absent", 0, 1), TextRange(SECRET.document_id, 4, 11)]
    found = [text and text.text for text in followed.index.texts(ranges, ("group:z",))]
    assert found == ["Wind", "The", None, "zyzzyva"]
    followed.writer.update(SECRET.document_id, principals='["group:y"]')
    assert followed.index.texts(ranges[1:2], ("group:z",)) == (None,), "and hidden at once"
