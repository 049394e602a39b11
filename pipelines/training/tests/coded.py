"""Questions whose words are not the passages': a code that only training can teach, so an untrained encoder finds nothing."""

from itertools import product

from quarry_training.dpr_data import DprExample
from quarry_training.passages import passage
from quarry_training.squad import Example

PEOPLE = {"a": "anna", "b": "ben", "c": "cara"}
PLACES = {"d": "dover", "e": "leeds", "f": "york"}
DAYS = {"g": "monday", "h": "tuesday", "i": "friday"}


def coded() -> list[tuple[str, str, str]]:
    """(question, passage, answer) of all 27 combinations."""
    return [(f"{p} {q} {d}", f"{PEOPLE[p]} built the wall in {PLACES[q]} on {DAYS[d]} .", PEOPLE[p]) for p, q, d in product(PEOPLE, PLACES, DAYS)]


def dpr_examples() -> list[DprExample]:
    """Each with its passage and another of the same person as its hard negative."""
    found = coded()
    made = []
    for i, (question, text, answer) in enumerate(found):
        other = found[i // 9 * 9 + (i + 1) % 9][1]
        made.append(DprExample(question, (answer,), (passage("", text),), (passage("", other),), f"d{i}"))
    return made


def squad_examples() -> list[Example]:
    """The same in SQuAD's layout, one document each."""
    return [Example(str(i), f"t{i}", question, text, ((answer, text.index(answer)),)) for i, (question, text, answer) in enumerate(coded())]
