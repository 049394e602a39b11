"""Fine-tune a span reader: any encoder with a question-answering head (Devlin et al. 2019, section 4.2).

Under torchrun each process takes its part of every batch (parallel.py). Dropout is seeded anew at each step, so a run
resumed from its last checkpoint computes what it would have computed.
"""

import argparse
import hashlib
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from tqdm import tqdm
from transformers import AutoModelForQuestionAnswering

from . import checkpoint, lora, parallel, squad
from .base import BaseError, resolve_base
from .features import Feature, features, load_tokenizer, planned
from .formats import PRIOR
from .malloc import keep_freed
from .mining import mined
from .predict import accepted
from .squad import DatasetError, Example
from .stopping import Stopping

CHECKPOINT_EVERY = 200  # steps


class FitError(Exception):
    """Training cannot go on; the message says why and what to do."""


@dataclass(frozen=True)
class FitSettings:
    """Hyperparameters. Learning rate falls linearly to zero after `warmup` (a share of all steps)."""

    learning_rate: float = 1.5e-4
    batch_size: int = 16
    epochs: float = 1.0
    warmup: float = 0.06
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    seed: int = 17
    max_seconds: float = 0.0  # 0 = no limit; else the schedule is stretched over what fits
    threads: int = 0  # 0 = torch's choice
    lora_rank: int = 0  # 0 = all weights are trained
    patience: int = 0  # 0 = no early stopping; else so many evaluations without a better held-out F1 end the run
    evaluate_every: int = 200  # steps


def load_model(base: Path) -> torch.nn.Module:
    """The encoder in `base` with a QA head. Word embeddings stay frozen: a third of the cost, and nothing to gain on small data.

    Raises:
        BaseError: not such an encoder, or its weights cannot be read.
    """
    try:
        found = AutoModelForQuestionAnswering.from_pretrained(str(base), local_files_only=True, trust_remote_code=False, use_safetensors=True)
    except (ValueError, KeyError, SafetensorError) as error:
        raise BaseError(f"{base}: not an encoder that can be given a question-answering head ({str(error).splitlines()[0]})") from error
    model: torch.nn.Module = found
    for name, parameter in model.named_parameters():
        if name.endswith("word_embeddings.weight"):
            parameter.requires_grad = False
    return model


def tensors(batch: Sequence[Feature]) -> dict[str, torch.Tensor]:
    """Padded int64 tensors of shape (batch, longest) and positions of shape (batch,)."""
    longest = max(len(f.input_ids) for f in batch)
    ids = np.zeros((len(batch), longest), np.int64)
    types = np.zeros_like(ids)
    mask = np.zeros_like(ids)
    for row, f in enumerate(batch):
        n = len(f.input_ids)
        ids[row, :n], types[row, :n], mask[row, :n] = f.input_ids, f.token_type_ids, 1
    positions = {"start_positions": [f.start for f in batch], "end_positions": [f.end for f in batch]}
    arrays = {"input_ids": ids, "token_type_ids": types, "attention_mask": mask}
    return {k: torch.from_numpy(v) for k, v in arrays.items()} | {k: torch.tensor(v) for k, v in positions.items()}


@dataclass
class _Run:
    """What a run carries from step to step; `name` tells it from runs on other data, settings or bases."""

    name: str
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    plan: list[list[Feature]]
    settings: FitSettings
    stopping: Stopping | None
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0  # spent before the last start
    began: float = field(default_factory=time.monotonic)
    stopped: bool = False

    def elapsed(self) -> float:
        return self.seconds + time.monotonic() - self.began


def fit(base: Path, examples: Sequence[Example], out: Path, settings: FitSettings, held_out: Sequence[Example] = ()) -> dict[str, float]:
    """Train on `examples` from `base`, write the model to `out`, return the training figures.

    A checkpoint every CHECKPOINT_EVERY steps makes a killed run resume where it stood and end in the same weights.
    `held_out` is what early stopping measures.

    Raises:
        DatasetError: nothing to learn, or nothing to stop by.
        BaseError: the base cannot be read, or takes no question-answering head.
        FitError: the loss is not finite, or there is no time for a step.
    """
    if not any(e.answers for e in examples):
        raise DatasetError("no question has an answer: a reader learns nothing from these; add answered ones")
    if settings.patience and not held_out:
        raise DatasetError("early stopping needs held-out questions")
    torch.manual_seed(settings.seed)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    rng = np.random.default_rng(settings.seed)
    tokenizer = _tokenizer(base)
    model = load_model(base)
    items = [f for e in examples for f in features(tokenizer, e, rng)]
    plan = planned(items, settings.batch_size, settings.epochs, rng)
    if settings.lora_rank:
        model = lora.adapt(model, settings.lora_rank)
    trained = list(checkpoint.trained(model).values())
    parallel.start_alike(trained)
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    stopping = Stopping(tokenizer, held_out, settings.patience) if settings.patience else None
    run = _Run(_name(base, examples, held_out, settings), model, optimizer, plan, settings, stopping)
    _resume(run, out)
    _train(run, out)
    return _finish(run, base, out, len(items))


def _tokenizer(base: Path) -> Tokenizer:
    try:
        return load_tokenizer(base)
    except KeyError as error:
        raise BaseError(f"{base}: config.json has no {error}, so nobody knows how much the model can read") from error
    except Exception as error:  # what the tokenizers library raises has no type of its own
        raise BaseError(f"{base}: its tokenizer.json cannot be read ({error})") from error


def _name(base: Path, examples: Sequence[Example], held_out: Sequence[Example], settings: FitSettings) -> str:
    weights = [hashlib.file_digest(path.open("rb"), "sha256").hexdigest() for path in sorted(base.glob("*.safetensors"))]
    order = hashlib.sha256("\n".join(e.id for e in examples).encode("utf-8", "surrogatepass")).hexdigest()
    parts = [weights, squad.digest(examples), order, squad.digest(held_out), asdict(settings), parallel.world()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _train(run: _Run, out: Path) -> None:
    """Every step that is left, with checkpoints and evaluations at their intervals."""
    run.model.train()
    first, steps = len(run.losses), len(run.plan)
    bar = tqdm(range(first, steps), initial=first, total=steps, desc="fit", mininterval=5, unit="step", disable=parallel.rank() > 0)
    for step in bar:
        share = _elapsed_share(step, steps, run)
        if share >= 1.0 or run.stopped:
            break
        run.losses.append(_step(run, step, share))
        bar.set_postfix(loss=f"{np.mean(run.losses[-100:]):.3f}", refresh=False)
        done = step + 1
        if run.stopping is not None and done % run.settings.evaluate_every == 0:
            run.stopped = run.stopping.evaluate(run.model, done)
        if done % CHECKPOINT_EVERY == 0 and parallel.rank() == 0:
            _checkpoint(run, out)
    if run.stopping is not None:
        if not run.stopped and len(run.losses) != (run.stopping.history or [(0, 0.0)])[-1][0]:
            run.stopping.evaluate(run.model, len(run.losses))
        run.stopping.restore(run.model)


def _step(run: _Run, step: int, share: float) -> float:
    """One update from this process's part of the batch; returns the batch's loss, the same in every process."""
    settings, trained = run.settings, list(checkpoint.trained(run.model).values())
    for group in run.optimizer.param_groups:
        group["lr"] = settings.learning_rate * min(1.0, share / max(settings.warmup, 1e-9)) * max(0.0, 1.0 - share)
    torch.manual_seed((settings.seed * 1_000_003 + step) * parallel.world() + parallel.rank())
    mine, weight = parallel.part(run.plan[step])
    loss = run.model(**accepted(run.model, tensors(mine))).loss * weight
    loss.backward()
    total = parallel.sum_gradients(trained, loss.item())
    if not math.isfinite(total):
        raise FitError(f"the loss is {total} at step {step + 1}: try a lower --learning-rate")
    torch.nn.utils.clip_grad_norm_(trained, settings.max_grad_norm)
    run.optimizer.step()
    run.optimizer.zero_grad()
    return total


def _finish(run: _Run, base: Path, out: Path, windows: int) -> dict[str, float]:
    """Write the model and its figures; the checkpoint goes last, so that being killed in here loses nothing."""
    if not run.losses:
        raise FitError("there was no time for a single step: allow more --max-seconds")
    used = run.plan[: len(run.losses)]
    padded = sum(len(b) * max(len(f.input_ids) for f in b) for b in used) / sum(len(f.input_ids) for b in used for f in b)
    figures = {
        "steps": float(len(run.losses)),
        "windows": float(windows),
        "final_loss": float(np.mean(run.losses[-100:])),
        "padded_to_real_tokens": round(padded, 4),
        "seconds": run.elapsed(),
    }
    history = run.stopping.history if run.stopping is not None else []
    if history:
        figures["best_held_out_f1"] = max(f1 for _, f1 in history)
    if parallel.rank() == 0:
        save(lora.merged(run.model), base, out)
        (out / "losses.json").write_text(json.dumps([round(x, 4) for x in run.losses]))
        found = {"settings": asdict(run.settings), "figures": figures, "held_out_f1": history, "processes": parallel.world()}
        (out / "fit.json").write_text(json.dumps(found, indent=1))
        (out / checkpoint.NAME).unlink(missing_ok=True)
    parallel.barrier()
    return figures


def _elapsed_share(step: int, steps: int, run: _Run) -> float:
    """How much of the schedule is behind us, in steps or in time, whichever is further; process 0's clock counts."""
    share = (step + 0.5) / steps
    if run.settings.max_seconds:
        share = parallel.from_first(max(share, run.elapsed() / run.settings.max_seconds))
    return share


def _checkpoint(run: _Run, out: Path) -> None:
    stopping = run.stopping
    state = {"run": run.name, "losses": run.losses, "seconds": run.elapsed(), "stopped": run.stopped, "history": stopping.history if stopping else []}
    checkpoint.write(out, run.model, run.optimizer, state, stopping.best if stopping else {})


def _resume(run: _Run, out: Path) -> None:
    found = checkpoint.read(out, run.name, run.model, run.optimizer)
    if found is None:
        return
    state, best = found
    run.losses, run.seconds, run.stopped = state["losses"], state["seconds"], state["stopped"]
    if run.stopping is not None:
        run.stopping.history, run.stopping.best = [(step, f1) for step, f1 in state["history"]], best


def save(model: torch.nn.Module, base: Path, out: Path) -> None:
    """Write weights (safetensors), configuration and tokenizer to `out`, and what is known of the base's confidence."""
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(str(out))  # type: ignore[operator]
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", PRIOR):
        if (base / name).exists():
            (out / name).write_bytes((base / name).read_bytes())


def main() -> None:
    """`python -m quarry_training.fit`: fine-tune on a checked SQuAD file; also under torchrun."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="quarry-base", help="quarry-base, minilm, a folder, or a Hugging Face id")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--learning-rate", type=float, default=3e-5)
    parser.add_argument("--batch-size", type=int, default=8, help="windows a step, over all processes together")
    parser.add_argument("--max-seconds", type=float, default=0.0)
    parser.add_argument("--negatives", type=float, default=0.5, help="made unanswerable questions, as a share of the answerable ones")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--lora", type=int, default=0, metavar="RANK", help="train adapters of this rank (and the head) instead of all weights")
    parser.add_argument("--patience", type=int, default=0, help="stop after so many evaluations without a better F1 on --held-out")
    parser.add_argument("--held-out", type=Path, help="a SQuAD file for --patience")
    parser.add_argument("--evaluate-every", type=int, default=200, metavar="STEPS")
    args = parser.parse_args()
    keep_freed()
    try:
        with parallel.process_group():
            figures = _fit_file(args)
            if parallel.rank() == 0:
                print(json.dumps(figures))
    except (DatasetError, BaseError, FitError, OSError) as error:
        sys.exit(f"not trained: {error}")


def _fit_file(args: argparse.Namespace) -> dict[str, float]:
    stopping = {"patience": args.patience, "evaluate_every": args.evaluate_every}
    limits = {"seed": args.seed, "max_seconds": args.max_seconds, "lora_rank": args.lora}
    settings = FitSettings(args.learning_rate, args.batch_size, args.epochs, **limits, **stopping)
    examples = squad.load(args.data)
    examples += mined(examples, args.negatives, args.seed)
    held_out = squad.load(args.held_out) if args.held_out else []
    base = resolve_base(args.base, args.out / "base") if parallel.rank() == 0 else None
    parallel.barrier()  # process 0 puts the base together or fetches it; the others find it
    base = base or (args.out / "base" if args.base == "quarry-base" else resolve_base(args.base, args.out / "base"))
    return fit(base, examples, args.out, settings, held_out)


if __name__ == "__main__":
    main()
