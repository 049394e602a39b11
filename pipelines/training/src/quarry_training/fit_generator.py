"""Fine-tune a language model to answer from passages: low-rank adapters (Hu et al. 2021) on every linear layer (Dettmers et al. 2023).

Writes `artefact/` (adapter, tokenizer, model.json last), what `register --model` reads, and the figures on held-out questions.
A run that was killed resumes at its last checkpoint and ends in the same adapter: dropout is seeded anew at each step.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quarry_contract.manifests import MODEL_MANIFEST, ModelManifest, digest_file, digest_of, write_manifest
from tqdm import tqdm

from . import checkpoint, squad
from .base import BaseError, resolve_base
from .export import _commit
from .generator import INSTRUCTION, NOT_FOUND, Generator, GeneratorError, Item, answers, digest_of_base, item, load, mean_loss, tensors, token_f1
from .malloc import keep_freed
from .squad import DatasetError, Example

FILES = ("adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "generator.json")
CHECKPOINT_EVERY = 50  # steps: one of a language model takes long, and its adapter is small


@dataclass(frozen=True)
class GeneratorSettings:
    """Hyperparameters. The learning rate falls linearly to zero after `warmup` (a share of all steps)."""

    lora_rank: int = 8
    lora_dropout: float = 0.05
    learning_rate: float = 2e-4
    batch_size: int = 8
    epochs: float = 1.0
    warmup: float = 0.06
    max_grad_norm: float = 1.0
    seed: int = 17
    max_seconds: float = 0.0  # 0 = no limit; else the schedule is stretched over what fits


def fit(base: Path, name: str, train: Sequence[Example], held_out: Sequence[Example], out: Path, settings: GeneratorSettings) -> ModelManifest:
    """Train an adapter for the model in `base`, which `name` names for readers, and write `out`.

    Raises:
        GeneratorError: the base is no language model, no example fits it, the loss is not finite, or there is no time for a step.
    """
    from peft import LoraConfig, get_peft_model  # here, for it is slow to import

    torch.manual_seed(settings.seed)
    generator = load(base)
    items, held_items = ([x for e in examples if (x := item(generator, e))] for examples in (train, held_out))
    if not items or not held_items:
        raise GeneratorError(f"no example fits the {generator.max_tokens} tokens that the model reads: give shorter contexts or another base")
    task = "SEQ_2_SEQ_LM" if generator.seq2seq else "CAUSAL_LM"
    shape = {"r": settings.lora_rank, "lora_alpha": 2 * settings.lora_rank, "lora_dropout": settings.lora_dropout}
    adapted = get_peft_model(generator.model, LoraConfig(task_type=task, target_modules="all-linear", **shape))
    adapted.peft_config["default"].base_model_name_or_path = name  # not where it lay on this machine
    generator = Generator(**{**vars(generator), "model": adapted})
    figures = {"loss_before": mean_loss(generator, held_items)}
    run = digest_of([digest_of_base(base), squad.digest(train), [e.id for e in train], asdict(settings)])
    losses = _train(generator, items, settings, out, run)
    figures |= {"loss": mean_loss(generator, held_items), "f1": token_f1(held_out, answers(generator, held_out))}
    figures |= {"questions": float(len(held_out)), "steps": float(len(losses)), "too_long": float(len(train) - len(items))}
    out.mkdir(parents=True, exist_ok=True)
    (out / "fit.json").write_text(json.dumps({"settings": asdict(settings), "figures": figures}, indent=1))
    (out / "losses.json").write_text(json.dumps([round(x, 4) for x in losses]))
    (out / "evaluation.json").write_text(json.dumps(figures, indent=1))
    manifest = _save(generator, base, name, squad.digest([*train, *held_out]), figures, settings, out / "artefact")
    (out / checkpoint.NAME).unlink(missing_ok=True)  # last, so that being killed before loses nothing
    return manifest


def _train(generator: Generator, items: Sequence[Item], settings: GeneratorSettings, out: Path, run: str) -> list[float]:
    """Every step that is left of `run`, with checkpoints in `out`; the losses of all its steps."""
    plan = _plan(items, settings)
    optimizer = torch.optim.AdamW(checkpoint.trained(generator.model).values(), lr=settings.learning_rate, weight_decay=0.0)
    found = checkpoint.read(out, run, generator.model, optimizer)
    losses: list[float] = found[0]["losses"] if found else []
    began = time.monotonic() - (found[0]["seconds"] if found else 0.0)
    generator.model.train()
    for step in tqdm(range(len(losses), len(plan)), initial=len(losses), total=len(plan), desc="fit", mininterval=5, unit="step"):
        share = (step + 0.5) / len(plan)
        if settings.max_seconds:
            share = max(share, (time.monotonic() - began) / settings.max_seconds)
        if share >= 1.0:
            break
        losses.append(_step(generator, optimizer, plan[step], step, share, settings))
        if len(losses) % CHECKPOINT_EVERY == 0:
            checkpoint.write(out, generator.model, optimizer, {"run": run, "losses": losses, "seconds": time.monotonic() - began}, {})
    if not losses:
        raise GeneratorError("there was no time for a single step: allow more --max-seconds")
    return losses


def _step(generator: Generator, optimizer: torch.optim.Optimizer, batch: Sequence[Item], step: int, share: float, settings: GeneratorSettings) -> float:
    """One update, `share` of the schedule being behind it; returns the loss before it."""
    for group in optimizer.param_groups:
        group["lr"] = settings.learning_rate * min(1.0, share / max(settings.warmup, 1e-9)) * (1.0 - share)
    torch.manual_seed(settings.seed * 1_000_003 + step)
    loss = generator.model(**tensors(generator, batch)).loss
    if not math.isfinite(loss.item()):
        raise GeneratorError(f"the loss is {loss.item()} at step {step + 1}: try a lower --learning-rate")
    loss.backward()
    torch.nn.utils.clip_grad_norm_(checkpoint.trained(generator.model).values(), settings.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.item())


def _plan(items: Sequence[Item], settings: GeneratorSettings) -> list[list[Item]]:
    """Shuffled batches of nearly equal length, so that little is padded."""
    rng = np.random.default_rng(settings.seed)
    steps = max(1, round(settings.epochs * len(items) / settings.batch_size))
    plan: list[list[Item]] = []
    while len(plan) < steps:
        order = sorted(rng.permutation(len(items)), key=lambda i: len(items[i].prompt))
        groups = [order[i : i + settings.batch_size] for i in range(0, len(order), settings.batch_size)]
        plan += [[items[i] for i in groups[j]] for j in rng.permutation(len(groups))]
    return plan[:steps]


def _save(generator: Generator, base: Path, name: str, data_digest: str, figures: dict[str, float], settings: GeneratorSettings, out: Path) -> ModelManifest:
    """The artefact folder; what an earlier run left there goes."""
    out.mkdir(exist_ok=True)
    for path in out.iterdir():
        path.unlink()
    generator.model.save_pretrained(str(out), safe_serialization=True, save_embedding_layers=False)  # or peft asks the Hub about them
    (out / "README.md").unlink(missing_ok=True)  # peft's form, with nothing filled in
    config = json.loads((out / "adapter_config.json").read_text())
    config["target_modules"].sort()  # peft keeps a set: another order, and digest, each time
    (out / "adapter_config.json").write_text(json.dumps(config, indent=1, sort_keys=True))
    (out / "tokenizer.json").write_bytes((base / "tokenizer.json").read_bytes())
    record: dict[str, Any] = {"base": name, "base_digest": digest_of_base(base), "encoder_decoder": generator.seq2seq}
    record |= {"instruction": INSTRUCTION, "not_found": NOT_FOUND, "settings": asdict(settings)}
    (out / "generator.json").write_text(json.dumps(record, indent=1))
    created = datetime.now(UTC).isoformat(timespec="seconds")
    digests = {file: digest_file(out / file) for file in FILES}
    fields: dict[str, Any] = {"max_tokens": generator.max_tokens, "data_digest": data_digest, "code_commit": _commit(), "metrics": figures}
    manifest = ModelManifest("generator", "generator", name, created, digests, **fields)
    write_manifest(out / MODEL_MANIFEST, manifest)
    return manifest


def main() -> None:
    """`python -m quarry_training.fit_generator`: the last line printed is JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", required=True, help="a folder with a causal or encoder-decoder model, or a Hugging Face id")
    parser.add_argument("--data", type=Path, required=True, help="a SQuAD file")
    parser.add_argument("--held-out", type=Path, help="a SQuAD file to evaluate on; without one, 15 %% of the documents in --data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--lora-rank", type=int, default=8)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--max-seconds", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=17)
    args = parser.parse_args()
    keep_freed()
    if min(args.lora_rank, args.epochs, args.learning_rate, args.batch_size) <= 0:
        parser.error("rank, epochs, learning rate and batch size must be above zero")
    own = {"learning_rate": args.learning_rate, "batch_size": args.batch_size, "epochs": args.epochs}
    settings = GeneratorSettings(args.lora_rank, **own, seed=args.seed, max_seconds=args.max_seconds)
    try:
        examples, _ = squad.check(squad.load(args.data))
        train, held_out = (examples, squad.check(squad.load(args.held_out))[0]) if args.held_out else squad.split(examples, 15)
        if not train or not held_out:
            raise DatasetError("too few documents to hold any out: give a file with more contexts, or --held-out")
        base = resolve_base(args.base, args.out / "base")
        manifest = fit(base, Path(args.base).name if Path(args.base).is_dir() else args.base, train, held_out, args.out, settings)
    except (DatasetError, BaseError, GeneratorError, OSError) as error:
        sys.exit(f"not trained: {error}")
    print(json.dumps({"artefact": str(args.out / "artefact"), "digest": manifest.digest, **manifest.metrics}))


if __name__ == "__main__":
    main()
