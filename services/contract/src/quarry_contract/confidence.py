"""How sure an answer is: three signals of the reader's spans, weighed by the calibration that stands in `model.json`.

Platt scaling (Platt 1999) over more than the margin: that the best other answer is far behind says as much as that "no answer" is.
Here, so that the reader serves exactly what calibration fitted.
"""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from .manifests import Calibration

_WORD = re.compile(r"\w+")
_ARTICLES = {"a", "an", "the"}
FURTHEST = 12.0  # logits; nobody is further ahead of the next answer than this


class FoundSpan(NamedTuple):
    """A span of one passage; scores are raw start + end logits."""

    text: str
    score: float
    null_score: float  # of its passage: the lowest over its windows


class Signals(NamedTuple):
    """What confidence is made of, in logits."""

    margin: float  # over its passage's null score
    score: float
    lead: float  # over the best span that shares no word with it, at most FURTHEST either way


def words(text: str) -> frozenset[str]:
    """The words that tell one answer from another: lower case, without articles; of a text without any, the text itself."""
    return frozenset(_WORD.findall(text.lower())) - _ARTICLES or frozenset([text])


def signals(span: FoundSpan, ranked: Sequence[FoundSpan]) -> Signals:
    """The signals of one span among all of its question, `ranked` by score, the best first."""
    own = words(span.text)
    other = next((s.score for s in ranked if own.isdisjoint(words(s.text))), -math.inf)
    lead = min(FURTHEST, max(-FURTHEST, span.score - other))
    return Signals(span.score - span.null_score, span.score, lead)


def confidence(found: Signals, calibration: Calibration) -> float:
    """The calibrated probability that a span with these signals is right."""
    c = calibration
    z = c.slope * found.margin + c.score * found.score + c.lead * found.lead + c.bias
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))
