"""The kinds a question is reported under: answerable or not, question word, format, lengths, age of its document."""

import json
import re
from datetime import date
from pathlib import Path
from typing import Any

from .squad import Example

# The first of these in a question, "how many" before "how", says what kind of answer it wants.
_WORDS = re.compile(r"\b(how\s+(?:many|much)|who(?:m|se)?|when|where|how|which|what|why)\b", re.IGNORECASE)
_FORMATS = re.compile(r"\.(pdf|docx?|html?|md|markdown|txt|rtf|odt|pptx?|xlsx?|csv|epub)$", re.IGNORECASE)
_SAME = {"htm": "html", "markdown": "md", "how much": "how_many", "how many": "how_many", "whom": "who", "whose": "who"}
_YEAR = 365.25


def slices_of(example: Example, modified: date | None = None, newest: date | None = None) -> dict[str, str]:
    """Kind -> value; a kind that the example does not have (an answer, a format, a date) is absent.

    Age counts from `newest`, the newest document of the set and not today, so that a set is sliced alike on every day.
    """
    found = {
        "answerable": "yes" if example.answers else "no",
        "question_word": question_word(example.question),
        "context_length": _bucket(len(example.context.split()), (100, 300), ("short", "medium", "long")),
    }
    if example.answers:
        found["answer_length"] = _bucket(len(example.answers[0][0].split()), (2, 5), ("one_word", "short", "long"))
    if extension := _FORMATS.search(example.title):
        suffix = extension[1].lower()
        found["format"] = _SAME.get(suffix, suffix)
    if modified and newest:
        years = (newest - modified).days / _YEAR
        found["document_age"] = _bucket(years, (1, 3), ("under_1_year", "1_to_3_years", "over_3_years"))
    return found


def question_word(question: str) -> str:
    """who, when, where, how_many, how, which, what, why, or other."""
    if word := _WORDS.search(question):
        said = " ".join(word[1].lower().split())
        return _SAME.get(said, said)
    return "other"


def _bucket(value: float, limits: tuple[float, float], names: tuple[str, str, str]) -> str:
    return names[sum(value >= limit for limit in limits)]


def dates(path: Path) -> dict[str, date]:
    """Question id -> the `date` or `modified` (ISO 8601) of its paragraph, else of its article; those without one are absent."""
    found: dict[str, date] = {}
    for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            stamp = _date(paragraph) or _date(article)
            found |= {str(qa["id"]): stamp for qa in paragraph["qas"] if stamp}
    return found


def _date(holder: dict[str, Any]) -> date | None:
    try:
        return date.fromisoformat(str(holder.get("modified") or holder.get("date"))[:10])
    except ValueError:
        return None
