"""SQuAD v1/v2 files: reading, checking, repairing, splitting.

Layout: Rajpurkar et al. 2016 (v1) and 2018 (v2, `is_impossible`).
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# A leading or trailing blank is an annotation slip, not another answer: this far an offset may be moved to mend it.
MAX_OFFSET_SHIFT = 8


class DatasetError(Exception):
    """The file is not a usable SQuAD dataset; the message says what is wrong and what to do."""


@dataclass(frozen=True)
class Example:
    """One question on one context. `answers` holds (text, start) pairs in characters; empty = unanswerable."""

    id: str
    title: str
    question: str
    context: str
    answers: tuple[tuple[str, int], ...]
    heading: str = ""  # the document and section the context stands under: `heading` of the paragraph, beyond SQuAD's layout


@dataclass(frozen=True)
class Report:
    """What the check found. `digest` identifies the accepted examples, whatever their order in the file."""

    examples: int
    unanswerable: int
    repaired_offsets: int
    dropped: dict[str, int]
    digest: str

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
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path.name}: not a SQuAD file ({type(error).__name__}): expected data[].paragraphs[].qas[]") from error


def _example(article: dict[str, Any], paragraph: dict[str, Any], qa: dict[str, Any]) -> Example:
    answers = () if qa.get("is_impossible") else tuple((a["text"], int(a["answer_start"])) for a in qa["answers"])
    return Example(str(qa["id"]), str(article.get("title", "")), qa["question"].strip(), paragraph["context"], answers, str(paragraph.get("heading", "")))


def check(examples: Iterable[Example], max_dropped: float = 0.25) -> tuple[list[Example], Report]:
    """Mend what is only shifted white space, drop what is wrong, and report both.

    Raises:
        DatasetError: more than `max_dropped` of the examples had to be dropped, or none is left.
    """
    kept: list[Example] = []
    dropped: Counter[str] = Counter()
    seen: set[tuple[str, str]] = set()
    repaired = total = 0
    for example in examples:
        total += 1
        mended, problem = _mend(example)
        key = (example.question.casefold(), example.context)
        if problem is None and key in seen:
            problem = "duplicate_question"
        if problem is not None:
            dropped[problem] += 1
            continue
        seen.add(key)
        repaired += mended.answers != example.answers
        kept.append(mended)
    if not kept or sum(dropped.values()) > max_dropped * total:
        raise DatasetError(f"{sum(dropped.values())} of {total} examples are unusable {dict(dropped)}: at most {max_dropped:.0%} may be; fix the file")
    unanswerable = sum(not e.answers for e in kept)
    return kept, Report(len(kept), unanswerable, repaired, dict(dropped), digest(kept))


def _mend(example: Example) -> tuple[Example, str | None]:
    """The example with exact, trimmed answer offsets, or the reason it must be dropped."""
    if not example.question or not example.context.strip():
        return example, "empty_question_or_context"
    answers = tuple(found for text, start in example.answers if (found := locate(example.context, text, start)) is not None)
    if example.answers and not answers:
        return example, "answer_not_at_offset"
    return replace(example, answers=answers), None


def locate(context: str, text: str, start: int) -> tuple[str, int] | None:
    """The trimmed answer and its true offset; None when it is not within MAX_OFFSET_SHIFT characters of `start`."""
    core = text.strip()
    if not core:
        return None
    expected = start + len(text) - len(text.lstrip())
    found = context.find(core, max(0, expected - MAX_OFFSET_SHIFT), max(0, expected + MAX_OFFSET_SHIFT) + len(core))
    return (core, found) if found >= 0 else None


def digest(examples: Iterable[Example]) -> str:
    """SHA-256 over the examples' content, independent of their order."""
    lines = sorted(json.dumps([e.question, e.context, e.answers], ensure_ascii=True) for e in examples)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def dump(examples: Iterable[Example], path: Path) -> None:
    """Write a SQuAD v2 file, one paragraph per context; headings are kept."""
    paragraphs: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for e in examples:
        answers = [{"text": text, "answer_start": start} for text, start in e.answers]
        questions = paragraphs.setdefault((e.title, e.heading, e.context), [])
        questions.append({"id": e.id, "question": e.question, "answers": answers, "is_impossible": not answers})
    articles: dict[str, list[dict[str, Any]]] = {}
    for (title, heading, context), qas in paragraphs.items():
        articles.setdefault(title, []).append({**({"heading": heading} if heading else {}), "context": context, "qas": qas})
    data = [{"title": title, "paragraphs": found} for title, found in articles.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"version": "v2.0", "data": data}, ensure_ascii=False), encoding="utf-8")


def split(examples: Iterable[Example], held_out_percent: int) -> tuple[list[Example], list[Example]]:
    """(train, held out), by document: all questions on one context fall on one side, on every machine alike."""
    train: list[Example] = []
    held_out: list[Example] = []
    for example in examples:
        bucket = int(hashlib.sha256(example.context.encode()).hexdigest()[:8], 16) % 100
        (held_out if bucket < held_out_percent else train).append(example)
    return train, held_out
