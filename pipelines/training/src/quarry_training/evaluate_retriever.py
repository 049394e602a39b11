"""A dual encoder over a set's own contexts: at which rank each question finds a passage that holds its answer.

Passages are windows of a context as long as the encoder reads. Only the gold context's windows with the answer inside count: the same
words elsewhere are no evidence (as Karpukhin et al. 2020 judge by the gold passage).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from quarry_contract.manifests import ManifestError, ModelManifest
from tokenizers import Encoding, Tokenizer
from tqdm import tqdm

from .calibrate import contexts_of
from .predict import onnx_session
from .results import Array, Row, document_of, key_of
from .squad import Example

TOKENS_PER_BATCH = 4096


@dataclass(frozen=True)
class Window:
    """A passage: characters start..end of context number `context`."""

    context: int
    start: int
    end: int


class Encoder:
    """One side of an exported retriever: token windows to vectors, (windows, dimension) float32."""

    def __init__(self, folder: Path, name: str | None) -> None:
        if name is None:
            raise ManifestError("the artefact's model.json names no question or passage encoder")
        self._session = onnx_session(folder / name)
        self._inputs = {x.name for x in self._session.get_inputs()}

    def encode(self, windows: Sequence[Encoding]) -> Array:
        """In the order given, batched by length."""
        order = sorted(range(len(windows)), key=lambda i: len(windows[i].ids))
        vectors: dict[int, Array] = {}
        while order:
            size = max(1, min(len(order), TOKENS_PER_BATCH // len(windows[order[-1]].ids)))
            batch, order = order[-size:], order[:-size]
            vectors |= dict(zip(batch, self._run([windows[i] for i in batch]), strict=True))
        return np.stack([vectors[i] for i in range(len(windows))])

    def _run(self, batch: Sequence[Encoding]) -> Array:
        longest = max(len(w.ids) for w in batch)
        arrays = {name: np.zeros((len(batch), longest), np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
        for row, window in enumerate(batch):
            n = len(window.ids)
            arrays["input_ids"][row, :n], arrays["token_type_ids"][row, :n], arrays["attention_mask"][row, :n] = window.ids, window.type_ids, 1
        return np.asarray(self._session.run(None, {name: x for name, x in arrays.items() if name in self._inputs})[0])


def retriever_rows(artefact: Path, manifest: ModelManifest, examples: Sequence[Example], slices: Sequence[dict[str, str]]) -> list[Row]:
    """One row a question with the reciprocal rank of its first right passage; unanswerable questions have none."""
    tokenizer = Tokenizer.from_file(str(artefact / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # as the services do
    tokenizer.enable_truncation(manifest.max_tokens, stride=manifest.max_tokens // 4)
    headings = contexts_of(examples)
    contexts = {text: i for i, text in enumerate(headings)}
    windows, encoded = _windows(tokenizer, headings)
    passages = Encoder(artefact, manifest.passage_encoder).encode(encoded)
    asking = Encoder(artefact, manifest.question_encoder)
    rows = []
    for example, kinds in zip(tqdm(examples, desc="questions", mininterval=2), slices, strict=True):
        began = time.perf_counter()
        question = tokenizer.encode(example.question)
        ranked = np.argsort(-(passages @ asking.encode([question])[0]), kind="stable")
        milliseconds = 1000 * (time.perf_counter() - began)
        right = [_holds(windows[i], contexts[example.context], example) for i in ranked]
        values = {"reciprocal_rank": 1 / (right.index(True) + 1) if any(right) else 0.0} if example.answers else {}
        row = Row(key_of(example), example.id, document_of(example), bool(example.answers), values, len(question.ids), milliseconds, kinds)
        rows.append(row)
    return rows


def _windows(tokenizer: Tokenizer, headings: Mapping[str, str]) -> tuple[list[Window], list[Encoding]]:
    """Every context as ingestion embeds it, its heading before it, in windows."""
    windows, encoded = [], []
    for i, (text, heading) in enumerate(headings.items()):
        before = f"{heading}. " if heading else ""
        whole = tokenizer.encode(before + text)
        for part in [whole, *whole.overflowing]:
            spans = [(a - len(before), b - len(before)) for a, b in part.offsets if b]
            windows.append(Window(i, min((a for a, _ in spans), default=0), max((b for _, b in spans), default=0)))
            encoded.append(part)
    return windows, encoded


def _holds(window: Window, context: int, example: Example) -> bool:
    """Whether the window holds a gold answer whole."""
    return window.context == context and any(window.start <= at and at + len(text) <= window.end for text, at in example.answers)
