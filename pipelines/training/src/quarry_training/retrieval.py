"""The dual encoder: question and passage encoders, tied or separate, their batches and their loss.

Karpukhin et al. 2020, "Dense Passage Retrieval for Open-Domain Question Answering", section 3.
"""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn

from .base import BaseError, resolve_base
from .dpr_data import DprExample
from .encoders import Encoder, dimension, load_encoder, load_tokenizer, tensors
from .passages import Ctx

SIDES = ("question", "passage")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")


@dataclass(frozen=True)
class Batch:
    """Questions and the batch's passages, each text once.

    `targets[i]` is the column of question i's positive; `excluded[i]` the columns of its other positives, which are no negatives.
    """

    questions: list[str]
    passages: list[str]
    targets: list[int]
    excluded: list[list[int]]


class DualEncoder(nn.Module):
    """Question and passage encoder; the same module twice when the weights are tied."""

    def __init__(self, question: Encoder, passage: Encoder, tokenizer: Tokenizer, tokenizer_from: Path) -> None:
        super().__init__()
        self.question, self.passage, self.tokenizer, self.tokenizer_from = question, passage, tokenizer, tokenizer_from
        for name, parameter in self.named_parameters():
            # As in fit.py: a third of the cost, and a few hundred questions touch too few words to move them all the same way.
            if name.endswith("word_embeddings.weight"):
                parameter.requires_grad = False

    @property
    def tied(self) -> bool:
        """Whether both sides share their weights."""
        return self.question is self.passage

    def digest(self) -> str:
        """SHA-256 over all weights."""
        found = hashlib.sha256()
        for name, weight in self.state_dict().items():
            found.update(name.encode())
            found.update(weight.contiguous().numpy().tobytes())
        return found.hexdigest()

    def loss(self, batch: Batch) -> torch.Tensor:
        """Mean negative log likelihood of each question's positive among the batch's passages."""
        questions = self.question(**tensors(self.tokenizer, batch.questions))
        passages = self.passage(**tensors(self.tokenizer, batch.passages))
        return nll(self.question.scale * questions @ passages.T, batch)


def nll(scores: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The loss for (questions, passages) scores; excluded columns count for nothing."""
    blocked = torch.zeros_like(scores, dtype=torch.bool)
    for row, columns in enumerate(batch.excluded):
        blocked[row, columns] = True
    return nn.functional.cross_entropy(scores.masked_fill(blocked, -torch.inf), torch.tensor(batch.targets))


def passage_text(ctx: Ctx) -> str:
    """What the passage encoder reads: the title before the text, as ingestion writes it."""
    return f"{ctx.title}. {ctx.text}" if ctx.title else ctx.text


def make_batch(examples: Sequence[DprExample], rng: np.random.Generator) -> Batch:
    """One of each question's positives and one of its hard negatives, drawn anew each time."""
    columns: dict[str, int] = {}
    targets = []
    for e in examples:
        targets.append(columns.setdefault(passage_text(e.positives[int(rng.integers(len(e.positives)))]), len(columns)))
        if e.hard_negatives:
            columns.setdefault(passage_text(e.hard_negatives[int(rng.integers(len(e.hard_negatives)))]), len(columns))
    others = []
    for e, target in zip(examples, targets, strict=True):
        own = {columns[text] for c in e.positives if (text := passage_text(c)) in columns}
        others.append(sorted(own - {target}))
    return Batch([e.question for e in examples], list(columns), targets, others)


def load_dual(spec: str, separate: bool, work: Path) -> DualEncoder:
    """From one base for both sides (tied unless `separate`), or from a pair "question,passage".

    Raises:
        BaseError: a base cannot be used, or the two do not fit each other.
    """
    specs = [s.strip() for s in spec.split(",")]
    if len(specs) > 2 or not all(specs):
        raise BaseError(f"{spec}: give one base, or two as question,passage")
    folders = [resolve_base(s, work) for s in specs]
    return load_pair(folders[0], folders[-1], separate or len(specs) == 2)


def load_pair(question_from: Path, passage_from: Path, separate: bool) -> DualEncoder:
    """From model folders; both sides are one module unless `separate`.

    Raises:
        BaseError: as load_encoder, or the two differ in tokenizer, dimension or pooling.
    """
    question = load_encoder(question_from)
    passage = load_encoder(passage_from) if separate else question
    tokenizer, other = load_tokenizer(question_from), load_tokenizer(passage_from)
    if tokenizer.get_vocab() != other.get_vocab():
        raise BaseError("question and passage base have different tokenizers: one artefact has one")
    if dimension(question) != dimension(passage) or type(question) is not type(passage):
        raise BaseError("question and passage base have vectors of different dimension or pooling: their inner product means nothing")
    return DualEncoder(question, passage, tokenizer, question_from)


def trained(folder: Path) -> DualEncoder:
    """What `save` wrote: one model in the folder itself, or one in each of question/ and passage/.

    Raises:
        BaseError: as load_pair.
    """
    separate = all((folder / side).is_dir() for side in SIDES)
    return load_pair(folder / "question", folder / "passage", True) if separate else load_pair(folder, folder, False)


def save(dual: DualEncoder, out: Path) -> None:
    """Safetensors weights, configuration and tokenizer: in `out` when tied, else in `out`/question and `out`/passage."""
    places = [(dual.question, out)] if dual.tied else [(dual.question, out / "question"), (dual.passage, out / "passage")]
    for side in SIDES if dual.tied else ():
        shutil.rmtree(out / side, ignore_errors=True)  # of an earlier run with separate ones: `trained` would take them
    for encoder, place in places:
        place.mkdir(parents=True, exist_ok=True)
        encoder.model.save_pretrained(str(place))  # type: ignore[operator]
        for name in TOKENIZER_FILES:
            if (dual.tokenizer_from / name).exists():
                shutil.copyfile(dual.tokenizer_from / name, place / name)
