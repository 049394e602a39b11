"""Questions and contexts as token windows with answer positions: what the reader is trained on."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from .squad import Example

MAX_TOKENS = 384
STRIDE = 128
MAX_QUESTION_TOKENS = 64
MAX_HEADING_TOKENS = 32


@dataclass(frozen=True)
class Feature:
    """One window: token ids, segment ids, and the answer's first and last token (0, 0 = not in this window)."""

    input_ids: list[int]
    token_type_ids: list[int]
    start: int
    end: int


def load_tokenizer(model_dir: Path, max_tokens: int | None = None) -> Tokenizer:
    """The model's own tokenizer, cutting only the context, with stride; windows as long as the model's positions allow."""
    if max_tokens is None:
        max_tokens = min(MAX_TOKENS, positions(json.loads((model_dir / "config.json").read_text())))
    tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # as the services do: "[SEP]" in a document is text
    tokenizer.enable_truncation(max_tokens, stride=min(STRIDE, max_tokens // 3), strategy="only_second")
    return tokenizer


def positions(config: Mapping[str, Any]) -> int:
    """How many tokens a model of this configuration can read; RoBERTa keeps two positions for padding."""
    return int(config["max_position_embeddings"]) - (2 if config.get("model_type") in ("roberta", "xlm-roberta", "camembert") else 0)


def encode_pair(tokenizer: Tokenizer, example: Example) -> list[Encoding]:
    """All windows of a question and its context, with the context's heading beside the question, as the reader service reads them."""
    asked = _shortened(tokenizer, example.question, MAX_QUESTION_TOKENS)
    heading = _shortened(tokenizer, example.heading, MAX_HEADING_TOKENS)
    encoded = tokenizer.encode(f"{asked} | {heading}" if heading else asked, example.context)
    return [encoded, *encoded.overflowing]


def _shortened(tokenizer: Tokenizer, text: str, tokens: int) -> str:
    offsets = tokenizer.encode(text, add_special_tokens=False).offsets[:tokens]
    return text[: offsets[-1][1]] if offsets else ""


def features(tokenizer: Tokenizer, example: Example, rng: np.random.Generator) -> list[Feature]:
    """The windows of one example: all that hold the answer, and at most one that does not."""
    windows = [_feature(w, example) for w in encode_pair(tokenizer, example)]
    holding = [w for w in windows if w.end]
    others = [w for w in windows if not w.end]
    if others and (not holding or rng.random() < 0.25):
        holding.append(others[int(rng.integers(len(others)))])
    return holding


def _feature(window: Encoding, example: Example) -> Feature:
    start = end = 0
    for text, offset in example.answers[:1]:
        first = last = None
        for i, (segment, (a, b)) in enumerate(zip(window.sequence_ids, window.offsets, strict=True)):
            if segment != 1 or a == b:
                continue
            if b > offset and first is None:
                first = i
            if a < offset + len(text):
                last = i
        inside = first is not None and last is not None and window.offsets[first][0] <= offset and window.offsets[last][1] >= offset + len(text)
        if inside and first is not None and last is not None and first <= last:
            start, end = first, last
    return Feature(list(window.ids), list(window.type_ids), start, end)


def batches(items: Sequence[Feature], size: int, rng: np.random.Generator) -> Iterator[list[Feature]]:
    """Shuffled batches of windows of nearly equal length, so that little is padded."""
    order = rng.permutation(len(items))
    pool = size * 32
    groups: list[list[int]] = []
    for i in range(0, len(order), pool):
        by_length = sorted(order[i : i + pool], key=lambda j: len(items[j].input_ids))
        groups += [by_length[j : j + size] for j in range(0, len(by_length), size)]
    for j in rng.permutation(len(groups)):
        yield [items[i] for i in groups[j]]


def planned(items: Sequence[Feature], size: int, epochs: float, rng: np.random.Generator) -> list[list[Feature]]:
    """Every batch of a run of so many epochs, in order; at least one."""
    plan: list[list[Feature]] = []
    while len(plan) * size < epochs * len(items):
        plan += list(batches(items, size, rng))
    return plan[: max(1, round(epochs * len(items) / size))]
