"""Fine-tune a span reader: any encoder with a question-answering head (Devlin et al. 2019, section 4.2)."""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoModelForQuestionAnswering

from . import squad
from .base import resolve_base
from .features import Feature, batches, features, load_tokenizer
from .mix import hard_negatives
from .squad import Example


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


def load_model(base: Path) -> torch.nn.Module:
    """The encoder in `base` with a QA head. Word embeddings stay frozen: a third of the cost, and nothing to gain on small data."""
    model: torch.nn.Module = AutoModelForQuestionAnswering.from_pretrained(str(base), local_files_only=True, trust_remote_code=False)
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


def fit(base: Path, examples: Sequence[Example], out: Path, settings: FitSettings) -> dict[str, float]:
    """Train on `examples` from `base`, write the model to `out`, return the training figures.

    A checkpoint every 200 steps makes a killed run resume where it stood, with the same batches after it.
    """
    torch.manual_seed(settings.seed)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    rng = np.random.default_rng(settings.seed)
    tokenizer = load_tokenizer(base)
    items = [f for e in examples for f in features(tokenizer, e, rng)]
    plan = _plan(items, settings, rng)
    model = load_model(base)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    first, losses = _resume(out, model, optimizer)
    model.train()
    began = time.monotonic()
    bar = tqdm(range(first, len(plan)), initial=first, total=len(plan), desc="fit", mininterval=5, unit="step")
    for step in bar:
        share = _elapsed_share(step, len(plan), began, settings)
        if share >= 1.0:
            break
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * min(1.0, share / max(settings.warmup, 1e-9)) * max(0.0, 1.0 - share)
        loss = model(**tensors(plan[step])).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        bar.set_postfix(loss=f"{np.mean(losses[-100:]):.3f}", refresh=False)
        if (step + 1) % 200 == 0:
            _checkpoint(out, model, optimizer, step + 1, losses)
    save(model, base, out)
    figures = {"steps": float(len(losses)), "windows": float(len(items)), "final_loss": float(np.mean(losses[-100:])), "seconds": time.monotonic() - began}
    (out / "fit.json").write_text(json.dumps({"settings": asdict(settings), "figures": figures}, indent=1))
    (out / "losses.json").write_text(json.dumps([round(x, 4) for x in losses]))
    return figures


def _plan(items: Sequence[Feature], settings: FitSettings, rng: np.random.Generator) -> list[list[Feature]]:
    plan: list[list[Feature]] = []
    while len(plan) * settings.batch_size < settings.epochs * len(items):
        plan += list(batches(items, settings.batch_size, rng))
    return plan[: max(1, round(settings.epochs * len(items) / settings.batch_size))]


def _elapsed_share(step: int, steps: int, began: float, settings: FitSettings) -> float:
    """How much of the schedule is behind us, in steps or in time, whichever is further."""
    share = (step + 0.5) / steps
    if settings.max_seconds:
        share = max(share, (time.monotonic() - began) / settings.max_seconds)
    return share


def _checkpoint(out: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, step: int, losses: list[float]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    partial = out / "checkpoint.tmp"
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "losses": losses, "rng": torch.get_rng_state()}, partial)
    partial.replace(out / "checkpoint.pt")


def _resume(out: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, list[float]]:
    path = out / "checkpoint.pt"
    if not path.exists():
        return 0, []
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["rng"])
    return int(state["step"]), list(state["losses"])


def save(model: torch.nn.Module, base: Path, out: Path) -> None:
    """Write weights (safetensors), configuration and tokenizer to `out`, and drop the checkpoint."""
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(str(out))  # type: ignore[operator]
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        if (base / name).exists():
            (out / name).write_bytes((base / name).read_bytes())
    (out / "checkpoint.pt").unlink(missing_ok=True)


def mined(examples: Sequence[Example], share: float, seed: int) -> list[Example]:
    """Questions on the most similar context that does not answer them: what the reader meets in service, and must decline."""
    rng = Random(seed)  # noqa: S311 - sampling, not secrets
    answerable = [e for e in examples if e.answers]
    chosen = rng.sample(answerable, round(min(share, 1.0) * len(answerable)))
    return hard_negatives(chosen, rng) if len({e.context for e in chosen}) > 1 else []


def main() -> None:
    """`python -m quarry_training.fit`: fine-tune on a checked SQuAD file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="quarry-base", help="quarry-base, minilm, a folder, or a Hugging Face id")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--learning-rate", type=float, default=3e-5)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--max-seconds", type=float, default=0.0)
    parser.add_argument("--negatives", type=float, default=0.5, help="made unanswerable questions, as a share of the answerable ones")
    parser.add_argument("--seed", type=int, default=17)
    args = parser.parse_args()
    settings = FitSettings(args.learning_rate, args.batch_size, args.epochs, seed=args.seed, max_seconds=args.max_seconds)
    examples = squad.load(args.data)
    examples += mined(examples, args.negatives, args.seed)
    figures = fit(resolve_base(args.base, args.out / "base"), examples, args.out, settings)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
