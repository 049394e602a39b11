"""Best spans of a reader on given contexts, over PyTorch or ONNX Runtime: for calibration and evaluation offline."""

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from quarry_contract.confidence import FoundSpan, Signals, signals
from tokenizers import Encoding, Tokenizer

from .features import encode_pair
from .squad import Example

if TYPE_CHECKING:
    import torch

MAX_ANSWER_TOKENS = 48
SPANS_PER_WINDOW = 5  # as the reader service takes them
RANK_WEIGHT = 0.3  # as in the gateway's extractive.yaml; chosen on the sample corpus's dev split
_BREAKS = re.compile(r"\n\n| \| ")
_CELLS = " | "
TOKENS_PER_BATCH = 4096

Array = np.ndarray[Any, Any]
# (input_ids, attention_mask, token_type_ids), each (batch, length) int64 -> start and end logits, each (batch, length)
Logits = Callable[[Array, Array, Array], tuple[Array, Array]]


def torch_logits(model: "torch.nn.Module") -> Logits:
    """A PyTorch model as a Logits function."""
    import torch  # here, for whoever asks exported models needs none

    model.eval()

    def run(ids: Array, mask: Array, types: Array) -> tuple[Array, Array]:
        with torch.inference_mode():
            inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask), "token_type_ids": torch.from_numpy(types)}
            out = model(**accepted(model, inputs))
        return out.start_logits.numpy(), out.end_logits.numpy()

    return run


def accepted(model: "torch.nn.Module", inputs: "dict[str, torch.Tensor]") -> "dict[str, torch.Tensor]":
    """The inputs without segment ids if the model has none, as DistilBERT; adapters are looked through."""
    plain: Any = model
    plain = plain.get_base_model() if hasattr(plain, "get_base_model") else plain
    names = inspect.signature(plain.forward).parameters
    return {name: tensor for name, tensor in inputs.items() if name in names or name != "token_type_ids"}


def onnx_session(path: Path) -> onnxruntime.InferenceSession:
    """An exported model; its threads sleep while they wait, for spinning takes a third more of processors that are busy, and makes nothing quicker."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def onnx_logits(path: Path) -> Logits:
    """An exported reader as a Logits function."""
    session = onnx_session(path)

    def run(ids: Array, mask: Array, types: Array) -> tuple[Array, Array]:
        start, end = session.run(["start_logits", "end_logits"], {"input_ids": ids, "attention_mask": mask, "token_type_ids": types})
        return start, end

    return run


@dataclass(frozen=True)
class Prediction:
    """The best span of one question's context, raw logits, and the lowest null logit over its windows."""

    example: Example
    text: str
    start: int
    end: int
    score: float
    null_score: float
    spans: tuple[FoundSpan, ...] = ()  # of the context, this one first, none overlapping


def predict(logits: Logits, tokenizer: Tokenizer, examples: Sequence[Example]) -> list[Prediction]:
    """One prediction per example, in order."""
    windows: list[tuple[int, Encoding]] = []
    for i, example in enumerate(examples):
        windows += [(i, w) for w in encode_pair(tokenizer, example)]
    found: list[list[tuple[float, int, int]]] = [[] for _ in examples]
    null = [np.inf] * len(examples)
    breaks = [separators(e.context) for e in examples]
    for batch in _by_length(windows):
        starts, ends = _run(logits, [w for _, w in batch])
        for row, (i, window) in enumerate(batch):
            n = len(window.ids)
            allowed = np.array([s == 1 for s in window.sequence_ids])
            segments = np.searchsorted(breaks[i], [a for a, _ in window.offsets], side="right")
            null[i] = min(null[i], float(starts[row, 0] + ends[row, 0]))
            spans = best_spans(starts[row, :n], ends[row, :n], allowed, segments)
            found[i] += [(score, window.offsets[first][0], window.offsets[last][1]) for score, first, last in spans]
    return [_prediction(e, _apart(spans), n) for e, spans, n in zip(examples, found, null, strict=True)]


def _apart(spans: Sequence[tuple[float, int, int]]) -> list[tuple[float, int, int]]:
    """(score, start, end), the best first, without those that overlap a better one."""
    kept: list[tuple[float, int, int]] = []
    for score, start, end in sorted(spans, key=lambda s: (-s[0], s[1], s[2])):
        if all(end <= a or b <= start for _, a, b in kept):
            kept.append((score, start, end))
    return kept


def _prediction(example: Example, spans: Sequence[tuple[float, int, int]], null: float) -> Prediction:
    found = tuple(FoundSpan(example.context[a:b], score, null) for score, a, b in spans)
    _, start, end = spans[0]
    return Prediction(example, found[0].text, start, end, found[0].score, null, found)


def signals_of(best: Prediction, predictions: Sequence[Prediction]) -> Signals:
    """What the confidence in the best of one question's predictions is made of."""
    return signals(best.spans[0], sorted((s for p in predictions for s in p.spans), key=lambda s: -s.score))


def best_answer(predictions: Sequence[Prediction]) -> Prediction:
    """The best of one question's predictions on its passages, in retrieval order, ranked as the gateway has the reader rank them."""
    return max(enumerate(predictions), key=lambda found: found[1].score - RANK_WEIGHT * found[0])[1]


def separators(text: str) -> list[int]:
    """Positions that no answer spans, in order, as the reader service has them: paragraph breaks, table bars, row ends."""
    found = {at for m in _BREAKS.finditer(text) for at in (m.start(), m.end() - 1)}
    at = 0
    for line, following in pairwise(text.split("\n")):
        at += len(line)
        if _CELLS in line or _CELLS in following:
            found.add(at)
        at += 1
    return sorted(found)


def best_spans(start: Array, end: Array, allowed: Array, segments: Array) -> list[tuple[float, int, int]]:
    """The best (start[first] + end[last], first, last), first <= last < first + MAX_ANSWER_TOKENS, both allowed, in one segment; best first.

    At most SPANS_PER_WINDOW, one for each first token. `segments` (tokens,) numbers the stretches of text between separators, in rising order.
    """
    n = len(start)
    start = np.where(allowed, start, -1e9)
    padded = np.concatenate([np.where(allowed, end, -1e9), np.full(MAX_ANSWER_TOKENS, -1e9)])
    numbers = np.concatenate([segments, np.full(MAX_ANSWER_TOKENS, -1)])
    same = np.lib.stride_tricks.sliding_window_view(numbers, MAX_ANSWER_TOKENS)[:n] == segments[:, None]
    banded = np.where(same, np.lib.stride_tricks.sliding_window_view(padded, MAX_ANSWER_TOKENS)[:n], -1e9)
    totals = start + banded.max(axis=1)
    firsts = [int(i) for i in np.argsort(-totals, kind="stable")[:SPANS_PER_WINDOW]]
    return [(float(totals[i]), i, i + int(banded[i].argmax())) for i in firsts if allowed[i] or i == firsts[0]]


def _by_length(windows: Sequence[tuple[int, Encoding]]) -> Iterator[list[tuple[int, Encoding]]]:
    batch: list[tuple[int, Encoding]] = []
    for item in sorted(windows, key=lambda w: len(w[1].ids)):
        if batch and len(item[1].ids) * (len(batch) + 1) > TOKENS_PER_BATCH:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _run(logits: Logits, windows: Sequence[Encoding]) -> tuple[Array, Array]:
    longest = max(len(w.ids) for w in windows)
    ids, types, mask = (np.zeros((len(windows), longest), np.int64) for _ in range(3))
    for row, w in enumerate(windows):
        n = len(w.ids)
        ids[row, :n], types[row, :n], mask[row, :n] = w.ids, w.type_ids, 1
    return logits(ids, mask, types)
