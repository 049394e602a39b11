"""Made unanswerable questions: what the reader meets in service whenever retrieval missed, and must decline."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from .mix import hard_negatives
from .squad import Example


def mined(examples: Sequence[Example], share: float, seed: int) -> list[Example]:
    """A share of the answerable questions, each on the most similar context that does not answer it, under that context's heading."""
    rng = Random(seed)  # noqa: S311 - sampling, not secrets
    answerable = [e for e in examples if e.answers]
    chosen = rng.sample(answerable, round(min(share, 1.0) * len(answerable)))
    if len({e.context for e in chosen}) < 2:
        return []
    heading = {e.context: e.heading for e in chosen}
    return [replace(e, heading=heading[e.context]) for e in hard_negatives(chosen, rng)]
