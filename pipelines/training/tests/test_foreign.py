"""What the calibration is measured on holds nothing that the base reader was trained on, and its unanswerable questions have no answer."""

from pathlib import Path

from quarry_training import foreign, squad
from quarry_training.squad import Example


def example(name: str, document: str, context: str, answer: str, question: str = "") -> Example:
    return Example(name, document, question or f"what is {name}", context, ((answer, context.index(answer)),))


def test_a_document_with_one_question_in_the_mix_is_left_out_whole(tmp_path: Path) -> None:
    texts = {n: f"Pump {n} moves concrete. Crane {n} lifts steel beams." for n in range(12)}
    examples = [example(f"{kind}-{n}", "", text, f"{kind} {n}") for n, text in texts.items() for kind in ("Pump", "Crane")]
    squad.dump(examples, tmp_path / "covid-qa.json")
    books = foreign.covid(tmp_path, {"Pump-3", "Crane-7"})
    assert not {book[0].id.split("-")[1] for book in books} & {"3", "7"}
    assert not any(e.context in (texts[3], texts[7]) for book in books for e in book)
    unanswerable = [book for book in books if not book[0].answers]
    assert len(unanswerable) == 5  # a quarter of 20
    assert all(e.context != texts[int(e.id.split("-")[1])] for book in unanswerable for e in book)
    assert all(len(book) == 5 for book in books)


def test_a_policy_is_asked_each_question_once_and_any_of_its_answers_is_right(tmp_path: Path) -> None:
    question = "what data is kept"
    seen = example("a", "one.org", "Names of visitors are kept.", "Names", question)
    rest = [
        example(str(i), site, f"{what} of users are kept.", what, question)
        for i, (site, what) in enumerate([("one.org", "Mails"), ("one.org", "Phones"), ("two.org", "Keys")])
    ]
    squad.dump([seen, *rest], tmp_path / "policyqa-dev.json")
    one, two = foreign.policy(tmp_path, {"a"})
    assert {text for text, _ in one[0].answers} == {"Mails", "Phones"}
    assert {e.context for e in one} == {rest[0].context, rest[1].context}
    assert {e.context for e in two} == {rest[2].context}
