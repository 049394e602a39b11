"""Logits to answers: best spans per passage, merged, joined across passages, ranked by raw logits."""

import math
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from quarry_contract.confidence import FoundSpan, confidence, signals
from quarry_contract.manifests import Calibration
from quarry_contract.messages import Evidence, ReadPassage, Span
from quarry_runtime.session import Array

from .windows import Window

_BREAKS = re.compile(r"\n\n| \| ")
_CELLS = " | "
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Candidate:
    """A span of one passage, in the passage's characters."""

    passage: int
    start: int
    end: int
    score: float
    null_score: float  # of its passage: the lowest over its windows


def separators(text: str) -> list[int]:
    """Positions that no answer spans, in order: paragraph breaks, the bars between a table's cells, and the ends of its rows.

    A bar has one on each side, so that it belongs to neither cell.
    """
    found = {at for m in _BREAKS.finditer(text) for at in (m.start(), m.end() - 1)}
    at = 0
    for line, following in pairwise(text.split("\n")):
        at += len(line)
        if _CELLS in line or _CELLS in following:
            found.add(at)
        at += 1
    return sorted(found)


def candidates(
    windows: Sequence[Window], outputs: Sequence[Sequence[Array]], texts: Sequence[str], max_answer_tokens: int, per_window: int
) -> list[Candidate]:
    """The best spans of every window. `outputs[i]` are start and end logits of window i, each (tokens,); `texts` are the passages'."""
    null: dict[int, float] = {}
    for window, (start, end) in zip(windows, outputs, strict=True):
        null[window.passage] = min(null.get(window.passage, math.inf), float(start[0] + end[0]))
    breaks = {passage: separators(texts[passage]) for passage in null}
    found = []
    for window, (start, end) in zip(windows, outputs, strict=True):
        inside = slice(window.first, window.first + len(window.offsets))
        segments = np.searchsorted(breaks[window.passage], [a for a, _ in window.offsets], side="right")
        for score, first, last in best_spans(start[inside], end[inside], segments, max_answer_tokens, per_window):
            a, b = window.offsets[first][0], window.offsets[last][1]
            if a < b:
                found.append(Candidate(window.passage, a, b, score, null[window.passage]))
    return found


def best_spans(start: Array, end: Array, segments: Array, max_tokens: int, count: int) -> list[tuple[float, int, int]]:
    """The `count` best (start[i] + end[j], i, j) with i <= j < i + max_tokens in one segment, best first; one span per first token.

    `segments` (tokens,) numbers the stretches of text between separators, in rising order.
    """
    n = len(start)
    if n == 0:
        return []
    width = min(max_tokens, n)
    padded = np.concatenate([end, np.full(width - 1, -np.inf, end.dtype)])
    numbers = np.concatenate([segments, np.full(width - 1, -1, segments.dtype)])
    same = np.lib.stride_tricks.sliding_window_view(numbers, width) == segments[:, None]
    banded = np.where(same, np.lib.stride_tricks.sliding_window_view(padded, width), -np.inf)
    totals = start + banded.max(axis=1)
    firsts = np.argsort(-totals, kind="stable")[:count]
    return [(float(totals[i]), int(i), int(i + banded[i].argmax())) for i in firsts]


def normalised(text: str) -> str:
    """The text as SQuAD compares it; when nothing is left of it, the text itself."""
    bare = " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())
    return bare or text


def answers(found: Sequence[Candidate], passages: Sequence[ReadPassage], calibration: Calibration, top_k: int, rank_weight: float = 0.0) -> list[Span]:
    """The `top_k` best answers: overlapping spans merged into the best, the same words elsewhere joined as further evidence.

    Ordered across passages by raw start + end logit, never by a per-window softmax, less `rank_weight` for each passage before theirs.
    """
    kept: dict[int, list[Candidate]] = {}
    by_text: dict[str, list[Candidate]] = {}
    for candidate in sorted(found, key=lambda c: (c.passage * rank_weight - c.score, c.passage, c.start, c.end)):
        own = kept.setdefault(candidate.passage, [])
        if any(c.start < candidate.end and candidate.start < c.end for c in own):
            continue
        own.append(candidate)
        by_text.setdefault(normalised(_text(candidate, passages)), []).append(candidate)
    ranked = sorted((_found(c, passages) for group in kept.values() for c in group), key=lambda s: -s.score)
    return [_span(group, passages, ranked, calibration) for group in list(by_text.values())[:top_k]]


def _text(candidate: Candidate, passages: Sequence[ReadPassage]) -> str:
    return passages[candidate.passage].text[candidate.start : candidate.end]


def _found(candidate: Candidate, passages: Sequence[ReadPassage]) -> FoundSpan:
    return FoundSpan(_text(candidate, passages), candidate.score, candidate.null_score)


def _span(group: Sequence[Candidate], passages: Sequence[ReadPassage], ranked: Sequence[FoundSpan], calibration: Calibration) -> Span:
    best = group[0]
    evidence = tuple(Evidence(passages[c.passage].passage_id, c.start, c.end) for c in group)
    sure = confidence(signals(_found(best, passages), ranked), calibration)
    return Span(_text(best, passages), best.score, sure, evidence)
