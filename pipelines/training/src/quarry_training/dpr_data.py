"""Retriever training data in DPR's layout (Karpukhin et al. 2020): read, checked, written, and made from SQuAD files.

A file is a list of {question, answers, positive_ctxs, negative_ctxs, hard_negative_ctxs}; a context is {title, text, passage_id}.
We add `document`, by which files are split. `negative_ctxs` are not read: in training the rest of the batch stands for them.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from . import squad
from .leakage import Item
from .passages import MAX_WORDS, Bm25, Ctx, cut, passage
from .scoring import normalise
from .squad import DatasetError, Example, Findings, Report

HARD_NEGATIVES = 4


@dataclass(frozen=True)
class DprExample:
    """One question with passages that answer it and similar ones that do not."""

    question: str
    answers: tuple[str, ...]
    positives: tuple[Ctx, ...]
    hard_negatives: tuple[Ctx, ...]
    document: str


def load(path: Path) -> list[DprExample]:
    """Read a DPR file, unchecked.

    Raises:
        DatasetError: not JSON, or not DPR's layout.
    """
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(records, list):
            raise TypeError("not a list")
        return [_example(record) for record in records]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        expected = "expected a list of {question, answers, positive_ctxs, hard_negative_ctxs}"
        raise DatasetError(f"{path.name}: not a DPR file ({type(error).__name__}: {error}): {expected}") from error


def _example(record: dict[str, Any]) -> DprExample:
    positives = tuple(_ctx(c) for c in record["positive_ctxs"])
    negatives = tuple(_ctx(c) for c in record.get("hard_negative_ctxs", []))
    document = record.get("document") or next((c.title or c.passage_id for c in positives), "")
    return DprExample(record["question"].strip(), tuple(map(str, record.get("answers", []))), positives, negatives, str(document))


def _ctx(record: dict[str, Any]) -> Ctx:
    title, text = (record.get("title") or "").strip(), record["text"].strip()
    given = record.get("passage_id") or record.get("psg_id")  # DPR's own files have both spellings
    return Ctx(str(given), title, text) if given else passage(title, text)


def dump(examples: Iterable[DprExample], path: Path) -> None:
    """Write a DPR file."""
    records = [
        {
            "question": e.question,
            "answers": list(e.answers),
            "positive_ctxs": [vars(c) for c in e.positives],
            "negative_ctxs": [],
            "hard_negative_ctxs": [vars(c) for c in e.hard_negatives],
            "document": e.document,
        }
        for e in examples
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")


def digest(examples: Iterable[DprExample]) -> str:
    """SHA-256 over the examples' content, independent of their order."""
    lines = sorted(hashlib.sha256(repr(e).encode("utf-8", "surrogatepass")).hexdigest() for e in examples)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def passages(examples: Iterable[Example], max_words: int = MAX_WORDS) -> list[Ctx]:
    """Every passage of the examples' contexts, each once, in order: what a retriever is measured on."""
    contexts = dict.fromkeys((e.heading or e.title, e.context) for e in examples)
    return list(dict.fromkeys(passage(title, context[a:b]) for title, context in contexts for a, b in cut(context, max_words)))


def from_squad(examples: Sequence[Example], negatives: int = HARD_NEGATIVES, max_words: int = MAX_WORDS) -> list[DprExample]:
    """Answerable questions with the passage that holds the answer, and the best BM25 passages that do not.

    Give one side of a split at a time: negatives come from these examples' contexts alone. A question whose answer
    lies across two passages has no positive and is left out.
    """
    texts = passages(examples, max_words)
    found = [(e, d, held) for e, d in zip(examples, squad.documents(examples), strict=True) if (held := _positives(e, max_words))]
    if not found:
        raise DatasetError("no question has its answer within one passage: nothing to train a retriever on")
    normal = [f" {normalise(c.text)} " for c in texts]
    ranked = Bm25([c.text for c in texts]).best([e.question for e, _, _ in found], 16 + 4 * negatives)
    made = []
    for (e, document, positives), row in zip(found, ranked, strict=True):
        answers = tuple(dict.fromkeys(text for text, _ in e.answers))
        said = _padded(answers)
        hard = [texts[i] for i in row if texts[i] not in positives and not any(a in normal[i] for a in said)]
        made.append(DprExample(e.question, answers, positives, tuple(hard[:negatives]), document))
    return made


def _padded(answers: Iterable[str]) -> list[str]:
    """Normalised answers between blanks, to be found as whole words in a text treated alike; those that are nothing then, left out."""
    return [f" {n} " for a in answers if (n := normalise(a))]


def _positives(e: Example, max_words: int) -> tuple[Ctx, ...]:
    spans = cut(e.context, max_words) if e.answers else []
    title = e.heading or e.title
    return tuple(dict.fromkeys(passage(title, e.context[a:b]) for t, s in e.answers for a, b in spans if a <= s and s + len(t) <= b))


def check(examples: Iterable[DprExample], max_dropped: float = 0.25) -> tuple[list[DprExample], Report]:
    """Take out contexts that contradict each other, drop examples that teach nothing, and report both; ids are record numbers from 1.

    A hard negative that is a positive of the same question, or holds one of its answers, is taken out: it would teach the wrong thing.

    Raises:
        DatasetError: more than `max_dropped` of the examples had to be dropped, or none is left.
    """
    given = list(examples)
    right: dict[str, set[str]] = {}
    for e in given:
        right.setdefault(e.question.casefold(), set()).update(normalise(c.text) for c in e.positives)
    dropped, noted = Findings(), Findings()
    kept: list[DprExample] = []
    seen: set[tuple[str, frozenset[str]]] = set()
    for number, e in enumerate(given, 1):
        clean = _clean(e, right[e.question.casefold()], str(number), noted)
        key = (e.question.casefold(), frozenset(c.text for c in clean.positives))
        if problem := _problem(clean, key in seen):
            dropped.add(problem, str(number))
            continue
        seen.add(key)
        kept.append(clean)
    squad.refuse_if_broken(len(given), len(kept), dropped, max_dropped)
    unanswered = sum(not e.answers for e in kept)
    return kept, Report(len(kept), unanswered, 0, dict(dropped.counts), digest(kept), dict(noted.counts), dropped.ids | noted.ids)


def _problem(e: DprExample, repeated: bool) -> str | None:
    if not e.question:
        return "empty_question"
    if not e.positives:
        return "no_positive"
    if any(len(c.text) > squad.MAX_CONTEXT for c in (*e.positives, *e.hard_negatives)):
        return "passage_too_long"
    return "duplicate_question" if repeated else None


def _clean(e: DprExample, right: set[str], name: str, noted: Findings) -> DprExample:
    """The example without empty answers and passages, repeated passages, and negatives that are none."""
    answers = tuple(a for a in e.answers if a.strip())
    positives = tuple(dict.fromkeys(c for c in e.positives if c.text))
    said = _padded(answers)
    negatives = []
    for c in dict.fromkeys(c for c in e.hard_negatives if c.text):
        normal = normalise(c.text)
        problem = "negative_is_positive" if normal in right else "negative_holds_answer" if any(a in f" {normal} " for a in said) else None
        if problem:
            noted.add(problem, name)
        else:
            negatives.append(c)
    if len(answers) < len(e.answers):
        noted.add("empty_answer", name)
    if len(positives) < len(e.positives) or len({c for c in e.hard_negatives if c.text}) < len(e.hard_negatives):
        noted.add("empty_or_repeated_passage", name)
    if said and not any(a in f" {normalise(c.text)} " for c in positives for a in said):
        noted.add("positive_without_answer", name)
    if not negatives:
        noted.add("no_hard_negative", name)
    return replace(e, answers=answers, positives=positives, hard_negatives=tuple(negatives))


def items(examples: Iterable[DprExample]) -> list[Item]:
    """The examples as leakage sees them: by their positives. Ids are record numbers from 1."""
    return [Item(str(n), e.question, e.answers, tuple(c.text for c in e.positives)) for n, e in enumerate(examples, 1)]


def split(examples: Iterable[DprExample], held_out_percent: int) -> tuple[list[DprExample], list[DprExample]]:
    """(train, held out) by document, as squad.split does it."""
    given = list(examples)
    held_out = squad.sides([(e.document, tuple(c.text for c in e.positives)) for e in given], held_out_percent)
    return [e for e, held in zip(given, held_out, strict=True) if not held], [e for e, held in zip(given, held_out, strict=True) if held]


def convert(checked: Path, out: Path, negatives: int, max_words: int) -> dict[str, Any]:
    """Each side of a folder that `check` wrote, as a DPR file; passages.json holds every passage of both, report.json the digest.

    Raises:
        DatasetError: a side has no question to train on.
    """
    sides = {name: squad.load(checked / f"{name}.json") for name in ("train", "dev")}
    made = {name: from_squad(examples, negatives, max_words) for name, examples in sides.items()}
    every = passages([e for examples in sides.values() for e in examples], max_words)
    for name, examples in made.items():
        dump(examples, out / f"{name}.json")
    (out / "passages.json").write_text(json.dumps([vars(c) for c in every], ensure_ascii=False), encoding="utf-8")
    report = {"digest": digest(made["train"] + made["dev"]), "squad_digest": json.loads((checked / "report.json").read_text())["digest"]}
    report |= {name: len(examples) for name, examples in made.items()} | {"passages": len(every)}
    across = {name: sum(bool(e.answers) for e in sides[name]) - len(made[name]) for name in sides}
    without = sum(not e.hard_negatives for examples in made.values() for e in examples)
    report |= {"answer_across_passages": sum(across.values()), "no_hard_negative": without, "max_words": max_words}
    (out / "report.json").write_text(json.dumps(report, indent=1))
    return report


def main() -> None:
    """`python -m quarry_training.dpr_data --data FOLDER --out FOLDER`: the folder `check` wrote for a SQuAD file, in DPR's layout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder `check` wrote: train.json, dev.json, report.json")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--hard-negatives", type=int, default=HARD_NEGATIVES, help="for each question, from BM25")
    parser.add_argument("--max-words", type=int, default=MAX_WORDS, help="of a passage")
    args = parser.parse_args()
    try:
        print(json.dumps(convert(args.data, args.out, args.hard_negatives, args.max_words)))
    except (DatasetError, OSError) as error:
        sys.exit(f"dataset refused: {error}")


if __name__ == "__main__":
    main()
