"""Low-rank adapters on a reader's encoder (Hu et al. 2021): few weights are trained, and merged into the model before it is saved."""

from typing import Any

import torch


def adapt(model: Any, rank: int) -> torch.nn.Module:
    """Adapters of `rank` beside every linear layer of the encoder; the head, which may be new, is trained whole."""
    from peft import LoraConfig, PeftModel  # here, for it takes longer to import than a small run to train

    encoder = f"{model.base_model_prefix}."
    targets = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and name.startswith(encoder)]
    heads = [name for name, child in model.named_children() if f"{name}." != encoder and any(True for _ in child.parameters())]
    config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.05, target_modules=targets, modules_to_save=heads)
    adapted: torch.nn.Module = PeftModel(model, config)
    return adapted


def merged(model: torch.nn.Module) -> torch.nn.Module:
    """The ordinary model, with the adapters added into its weights; a model without adapters as it is."""
    merge: Any = getattr(model, "merge_and_unload", None)
    plain: torch.nn.Module = merge() if merge else model
    return plain
