"""Exact match and F1 as in the official SQuAD evaluation (Rajpurkar et al. 2016, 2018)."""

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
_PUNCTUATION = frozenset(string.punctuation)


def normalise(text: str) -> str:
    """Lower case, without punctuation, articles and extra white space."""
    bare = "".join(ch for ch in text.lower() if ch not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_match(prediction: str, gold: Sequence[str]) -> float:
    """1.0 if the prediction equals any gold answer after normalisation; no gold means "" is right."""
    return max(float(normalise(prediction) == normalise(g)) for g in gold or [""])


def f1(prediction: str, gold: Sequence[str]) -> float:
    """Best token F1 against any gold answer; for no-answer, 1.0 only if both are empty."""
    return max(_f1(normalise(prediction).split(), normalise(g).split()) for g in gold or [""])


def _f1(predicted: list[str], gold: list[str]) -> float:
    if not predicted or not gold:
        return float(predicted == gold)
    common = sum((Counter(predicted) & Counter(gold)).values())
    if not common:
        return 0.0
    precision, recall = common / len(predicted), common / len(gold)
    return 2 * precision * recall / (precision + recall)
