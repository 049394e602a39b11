"""SQuAD v1/v2 files: reading, checking, repairing, splitting.

Layout: Rajpurkar et al. 2016 (v1) and 2018 (v2, `is_impossible`).
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from .leakage import EXAMPLES, Item, groups

# A leading or trailing blank is an annotation slip, not another answer: this far an offset may be moved to mend it.
MAX_OFFSET_SHIFT = 8
# Characters. A longer "paragraph" is a whole book or a broken export; every question on it would be read as hundreds of windows.
MAX_CONTEXT = 200_000
HALF_CHARACTER = re.compile("[\ud800-\udfff]")  # a lone surrogate: JSON can carry it, no tokenizer or UTF-8 file can


class DatasetError(Exception):
    """The file is not a usable dataset; the message says what is wrong and what to do, `ids` which examples have which problem."""

    def __init__(self, message: str, ids: dict[str, list[str]] | None = None) -> None:
        super().__init__(message)
        self.ids = ids or {}


@dataclass(frozen=True)
class Example:
    """One question on one context. `answers` holds (text, start) pairs in characters; empty = unanswerable."""

    id: str
    title: str
    question: str
    context: str
    answers: tuple[tuple[str, int], ...]
    heading: str = ""  # the document and section the context stands under: `heading` of the paragraph, beyond SQuAD's layout


@dataclass
class Findings:
    """Counts of each problem and the ids of the first examples that have it; never their text."""

    counts: Counter[str] = field(default_factory=Counter)
    ids: dict[str, list[str]] = field(default_factory=dict)

    def add(self, problem: str, name: str) -> None:
        self.counts[problem] += 1
        shown = self.ids.setdefault(problem, [])
        if len(shown) < EXAMPLES:
            shown.append(name)


@dataclass(frozen=True)
class Report:
    """What the check found. `digest` identifies the accepted examples, whatever their order in the file.

    `dropped` counts examples left out and `noted` what was mended or only counted; `ids` names examples of each.
    """

    examples: int
    unanswerable: int
    repaired_offsets: int
    dropped: dict[str, int]
    digest: str
    noted: dict[str, int] = field(default_factory=dict)
    ids: dict[str, list[str]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


def load(path: Path) -> list[Example]:
    """Read every question of a SQuAD file, unchecked.

    Raises:
        DatasetError: not JSON, or not the SQuAD layout.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))["data"]
        return [_example(article, paragraph, qa) for article in data for paragraph in article["paragraphs"] for qa in paragraph["qas"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DatasetError(f"{path.name}: not a SQuAD file ({reason}): expected data[].paragraphs[].qas[]") from error


def _example(article: dict[str, Any], paragraph: dict[str, Any], qa: dict[str, Any]) -> Example:
    answers = () if qa.get("is_impossible") else tuple((a["text"], int(a["answer_start"])) for a in qa["answers"])
    if not all(isinstance(text, str) for text in (paragraph["context"], *(a for a, _ in answers))):
        raise TypeError(f"question {str(qa['id'])[:40]}: its context and answers must be strings")
    return Example(str(qa["id"]), str(article.get("title", "")), qa["question"].strip(), paragraph["context"], answers, str(paragraph.get("heading", "")))


def check(examples: Iterable[Example], max_dropped: float = 0.25) -> tuple[list[Example], Report]:
    """Mend what is only shifted white space, drop what is wrong, and report both.

    Dropped: wrong offsets, empty answers, empty or over-long contexts, repeated questions, and every answer to a question that the
    file answers in contradictory ways. Overlapping answers are kept and counted: they are what several annotators marked,
    and any of them is right.

    Raises:
        DatasetError: more than `max_dropped` of the examples had to be dropped, or none is left.
    """
    given = list(examples)
    dropped, noted = Findings(), Findings()
    unreadable = {context: _unreadable(context) for context in {e.context for e in given}}
    mended = [_mend(e, unreadable[e.context], dropped, noted) for e in given]
    kept = _agreeing([e for e in mended if e is not None], dropped)
    refuse_if_broken(len(given), len(kept), dropped, max_dropped)
    repaired = noted.counts.pop("repaired_offsets", 0)
    unanswerable = sum(not e.answers for e in kept)
    return kept, Report(len(kept), unanswerable, repaired, dict(dropped.counts), digest(kept), dict(noted.counts), dropped.ids | noted.ids)


def refuse_if_broken(given: int, kept: int, dropped: Findings, max_dropped: float) -> None:
    """Raises DatasetError when nothing is left, or more than `max_dropped` of the examples had to be dropped."""
    lost = sum(dropped.counts.values())
    if not given:
        raise DatasetError("the file holds no question at all")
    if not kept or lost > max_dropped * given:
        message = f"{lost} of {given} examples are unusable {dict(dropped.counts)}: at most {max_dropped:.0%} may be; fix the file"
        raise DatasetError(message, dropped.ids)


def _mend(example: Example, unreadable: str | None, dropped: Findings, noted: Findings) -> Example | None:
    """The example with exact, trimmed answer offsets, or None if it must be dropped."""
    problem = unreadable if example.question.strip() else "empty_question_or_context"
    answers = () if problem else tuple(found for text, start in example.answers if (found := locate(example.context, text, start)) is not None)
    if problem is None and example.answers and not answers:
        problem = "answer_not_at_offset" if any(text.strip() for text, _ in example.answers) else "empty_answer"
    if problem is None and HALF_CHARACTER.search(example.question):
        problem = "broken_unicode"
    if problem is not None:
        dropped.add(problem, example.id)
        return None
    for kind in _slips(example, answers):
        noted.add(kind, example.id)
    return replace(example, answers=answers)


def _slips(example: Example, answers: Sequence[tuple[str, int]]) -> list[str]:
    """What was not quite right with answers that are kept."""
    wrong = any(not example.context.startswith(text, start) for text, start in example.answers)
    found = {
        "some_answers_dropped": len(answers) < len(example.answers),
        "repaired_offsets": len(answers) == len(example.answers) and wrong,
        "trimmed_answers": not wrong and list(answers) != list(example.answers),
        "overlapping_answers": _overlapping(answers),
    }
    return [kind for kind, is_so in found.items() if is_so]


def _unreadable(context: str) -> str | None:
    if len(context) > MAX_CONTEXT:
        return "context_too_long"
    if HALF_CHARACTER.search(context):
        return "broken_unicode"
    return None if context.strip() else "empty_question_or_context"


def _overlapping(answers: Sequence[tuple[str, int]]) -> bool:
    spans = sorted({(start, start + len(text)) for text, start in answers})
    return any(b > c for (_, b), (c, _) in pairwise(spans))


def _agreeing(examples: Sequence[Example], dropped: Findings) -> list[Example]:
    """Each question on a context once; none of those whose records contradict each other."""
    alike: dict[tuple[str, str], list[Example]] = {}
    for e in examples:
        alike.setdefault((e.question.casefold(), e.context), []).append(e)
    kept = set()
    for records in alike.values():
        if any(_contradict(records[0], e) for e in records[1:]):
            for e in records:
                dropped.add("contradictory_labels", e.id)
            continue
        kept.add(id(records[0]))
        for e in records[1:]:
            dropped.add("duplicate_question", e.id)
    return [e for e in examples if id(e) in kept]


def _contradict(a: Example, b: Example) -> bool:
    """One has an answer and the other none, or no answer of one overlaps, or says the same as, an answer of the other."""
    if not a.answers or not b.answers:
        return bool(a.answers) != bool(b.answers)
    return not any((s < v + len(u) and v < s + len(t)) or t.casefold() == u.casefold() for t, s in a.answers for u, v in b.answers)


def locate(context: str, text: str, start: int) -> tuple[str, int] | None:
    """The trimmed answer and its true offset.

    An offset off by white space alone is mended; any other is moved by at most MAX_OFFSET_SHIFT characters, and only if
    the answer stands there once. Else None.
    """
    core = text.strip()
    if not core:
        return None
    expected = start + len(text) - len(text.lstrip())
    if expected >= 0 and context.startswith(core, expected):
        return core, expected
    low, high = max(0, min(start, expected) - MAX_OFFSET_SHIFT), max(0, max(start, expected) + MAX_OFFSET_SHIFT)
    near = [i for i in range(low, high + 1) if context.startswith(core, i)]
    blank = [i for i in near if not context[min(i, start) : max(i, start)].strip()]
    candidates = blank[:1] or near
    return (core, candidates[0]) if len(candidates) == 1 else None


def digest(examples: Iterable[Example]) -> str:
    """SHA-256 over the examples' content, independent of their order."""
    contexts: dict[str, str] = {}
    lines = []
    for e in examples:
        context = contexts.get(e.context) or contexts.setdefault(e.context, _sha256(e.context))
        lines.append(_sha256(json.dumps([e.question, context, e.answers, e.heading])))
    return _sha256("\n".join(sorted(lines)))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def dump(examples: Iterable[Example], path: Path) -> None:
    """Write a SQuAD v2 file, one paragraph per context and heading."""
    paragraphs: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for e in examples:
        answers = [{"text": text, "answer_start": start} for text, start in e.answers]
        qa = {"id": e.id, "question": e.question, "answers": answers, "is_impossible": not answers}
        paragraphs.setdefault((e.title, e.context, e.heading), []).append(qa)
    articles: dict[str, list[dict[str, Any]]] = {}
    for (title, context, heading), qas in paragraphs.items():
        articles.setdefault(title, []).append({"context": context, "qas": qas} | ({"heading": heading} if heading else {}))
    data = [{"title": title, "paragraphs": found} for title, found in articles.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"version": "v2.0", "data": data}, ensure_ascii=False), encoding="utf-8")


def documents(examples: Sequence[Example]) -> list[str]:
    """The document of each example: its title if titles tell documents apart, else its context's digest."""
    titled = len({e.title for e in examples}) > 1
    digests = {c: _sha256(c)[:16] for c in {e.context for e in examples}}
    return [e.title if titled and e.title else digests[e.context] for e in examples]


def items(examples: Iterable[Example]) -> list[Item]:
    """The examples as leakage sees them."""
    return [Item(e.id, e.question, tuple(text for text, _ in e.answers), (e.context,)) for e in examples]


def split(examples: Iterable[Example], held_out_percent: int) -> tuple[list[Example], list[Example]]:
    """(train, held out), by document, on every machine alike; documents with contexts near each other fall on one side."""
    given = list(examples)
    held_out = sides([(document, (e.context,)) for document, e in zip(documents(given), given, strict=True)], held_out_percent)
    return [e for e, held in zip(given, held_out, strict=True) if not held], [e for e, held in zip(given, held_out, strict=True) if held]


def sides(keys: Sequence[tuple[str, tuple[str, ...]]], held_out_percent: int) -> list[bool]:
    """Whether each (document, contexts) is held out: by the hash of its group's first context in the order of the alphabet.

    If chance would hold out nothing, or all, the smallest group goes to the other side.
    """
    label_of = dict.fromkeys((context, document) for document, contexts in keys for context in contexts)
    group_of = dict(zip(label_of, groups([c for c, _ in label_of], [d for _, d in label_of]), strict=True))
    first: dict[int, str] = {}
    for (context, _), group in group_of.items():
        first[group] = min(context, first.get(group, context))
    held = {group for group, context in first.items() if int(_sha256(context)[:8], 16) % 100 < held_out_percent}
    of = [group_of[contexts[0], document] for document, contexts in keys]
    size = Counter(of)
    smallest = min(size, key=lambda g: (size[g], first[g]), default=None)
    if len(size) > 1 and smallest is not None and 0 < held_out_percent < 100 and len(held) in (0, len(size)):
        held ^= {smallest}
    return [group in held for group in of]
