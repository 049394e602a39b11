"""Fine-tune a dual encoder on a DPR file: in-batch negatives and hard negatives (Karpukhin et al. 2020, section 3.2)."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quarry_contract.manifests import digest_of
from tqdm import tqdm

from . import checkpoint, dpr_data
from .base import BaseError
from .dpr_data import DprExample
from .fit import FitError
from .malloc import keep_freed
from .retrieval import Batch, DualEncoder, load_dual, make_batch, passage_text, save
from .squad import DatasetError

STEPS_BETWEEN_CHECKPOINTS = 20
FIGURES = "fit.json"


@dataclass(frozen=True)
class RetrieverSettings:
    """Hyperparameters. Learning rate falls linearly to zero after `warmup` (a share of all steps)."""

    learning_rate: float = 5e-5
    batch_size: int = 16
    epochs: float = 2.0
    separate: bool = False
    warmup: float = 0.1
    weight_decay: float = 0.01
    max_grad_norm: float = 2.0
    seed: int = 17
    max_seconds: float = 0.0  # 0 = no limit; else the schedule is stretched over what fits

    def __post_init__(self) -> None:
        if self.batch_size < 2 or self.epochs <= 0 or self.learning_rate <= 0 or self.max_seconds < 0:
            raise ValueError("batch size must be 2 or more (the rest of a batch is its negatives), epochs and learning rate above 0, seconds not below 0")


def trainable(examples: Sequence[DprExample]) -> list[DprExample]:
    """The examples that have a positive.

    Raises:
        DatasetError: their positives are not at least two different passages, so that nothing can be told apart.
    """
    kept = [e for e in examples if e.question and e.positives]
    if not kept:
        raise DatasetError(f"none of {len(examples)} questions has a positive passage: nothing to train a retriever on")
    if len({passage_text(c) for e in kept for c in e.positives}) < 2:
        raise DatasetError("all questions have the same one positive passage: give questions on at least two passages")
    return kept


def plan(examples: Sequence[DprExample], settings: RetrieverSettings) -> list[Batch]:
    """Every batch of the run, from the seed alone: what a resumed run goes on with."""
    rng = np.random.default_rng(settings.seed)
    size = settings.batch_size
    steps = max(1, round(settings.epochs * len(examples) / size))
    order: list[int] = []
    while len(order) < steps * size:
        order += rng.permutation(len(examples)).tolist()
    return [make_batch([examples[i] for i in order[step * size : (step + 1) * size]], rng) for step in range(steps)]


def fit(base: str, examples: Sequence[DprExample], out: Path, settings: RetrieverSettings) -> dict[str, float]:
    """Train from `base` (see retrieval.load_dual), write the encoders to `out`, and `fit.json` last; return the figures.

    A killed run resumes at its last checkpoint, with the same batches after it; a complete one is not run again.

    Raises:
        BaseError, DatasetError: before anything is written.
        FitError: the loss is not finite, or there is no time for a step.
    """
    torch.manual_seed(settings.seed)
    usable = trainable(examples)
    dual = load_dual(base, settings.separate, out / "base")
    data_digest = dpr_data.digest(usable)
    run = digest_of([dual.digest(), data_digest, asdict(settings)])
    if (done := record(out)).get("run") == run:
        return dict(done["figures"])
    losses, seconds = train(dual, plan(usable, settings), out, settings, run)
    (out / FIGURES).unlink(missing_ok=True)
    save(dual, out)
    figures = {"steps": float(len(losses)), "questions": float(len(usable)), "final_loss": float(np.mean(losses[-20:])), "seconds": seconds}
    found = {"run": run, "base": base, "data_digest": data_digest, "settings": asdict(settings), "figures": figures, "losses": [round(x, 4) for x in losses]}
    (out / FIGURES).write_text(json.dumps(found, indent=1))
    (out / checkpoint.NAME).unlink(missing_ok=True)
    return figures


def record(out: Path) -> dict[str, Any]:
    """What `fit` wrote of a complete run into `out`; empty where there is none."""
    path = out / FIGURES
    return dict(json.loads(path.read_text())) if path.exists() else {}


def train(dual: DualEncoder, batches: Sequence[Batch], out: Path, settings: RetrieverSettings, run: str) -> tuple[list[float], float]:
    """Run or resume the loop; the losses of all steps and the seconds they took."""
    trained = list(checkpoint.trained(dual).values())
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    found = checkpoint.read(out, run, dual, optimizer)
    losses: list[float] = found[0]["losses"] if found else []
    began = time.monotonic() - (found[0]["seconds"] if found else 0.0)
    dual.eval()  # no dropout: on a CPU it costs half as much again, and without it a resumed run needs no random state
    bar = tqdm(range(len(losses), len(batches)), initial=len(losses), total=len(batches), desc="fit", mininterval=5, unit="step")
    for step in bar:
        share = (step + 0.5) / len(batches)
        if settings.max_seconds:
            share = max(share, (time.monotonic() - began) / settings.max_seconds)
        if share >= 1.0:
            break
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * min(1.0, share / max(settings.warmup, 1e-9)) * (1.0 - share)
        losses.append(update(dual, optimizer, batches[step], settings.max_grad_norm))
        bar.set_postfix(loss=f"{np.mean(losses[-20:]):.3f}", refresh=False)
        if len(losses) % STEPS_BETWEEN_CHECKPOINTS == 0:
            checkpoint.write(out, dual, optimizer, {"run": run, "losses": losses, "seconds": time.monotonic() - began}, {})
    if not losses:
        raise FitError("there was no time for a single step: allow more --max-seconds")
    return losses, time.monotonic() - began


def update(dual: DualEncoder, optimizer: torch.optim.Optimizer, batch: Batch, max_grad_norm: float) -> float:
    """One step of the optimiser; the batch's loss before it.

    Raises:
        FitError: the loss is not finite.
    """
    loss = dual.loss(batch)
    if not torch.isfinite(loss):
        raise FitError(f"the loss is {loss.item()}: try a lower --learning-rate")
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(checkpoint.trained(dual).values(), max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def main() -> None:
    """`python -m quarry_training.fit_retriever`: resumes where a killed run stood."""
    default = RetrieverSettings()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="minilm", help="minilm, a folder, a Hugging Face id, or two of these as question,passage")
    parser.add_argument("--data", type=Path, required=True, help="a checked DPR file")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--separate", action="store_true", help="question and passage encoder with weights of their own")
    parser.add_argument("--epochs", type=float, default=default.epochs)
    parser.add_argument("--learning-rate", type=float, default=default.learning_rate)
    parser.add_argument("--batch-size", type=int, default=default.batch_size)
    parser.add_argument("--max-seconds", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=default.seed)
    args = parser.parse_args()
    keep_freed()
    try:
        chosen = {name: getattr(args, name) for name in ("learning_rate", "batch_size", "epochs", "separate", "seed", "max_seconds")}
        print(json.dumps(fit(args.base, dpr_data.load(args.data), args.out, RetrieverSettings(**chosen))))
    except (DatasetError, BaseError, FitError, ValueError, OSError) as error:
        sys.exit(f"retriever not trained: {error}")


if __name__ == "__main__":
    main()
