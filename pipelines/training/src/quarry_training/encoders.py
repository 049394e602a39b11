"""Texts to vectors in PyTorch: what a retriever is trained as and exported from. Pooling is part of the module (docs/adr/0003)."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoConfig, AutoModel, DPRContextEncoder, DPRQuestionEncoder

from .base import BaseError
from .features import positions

MAX_TOKENS = 256
TEXTS_PER_BATCH = 16
# The classes are named: a DPR configuration alone does not say which of the two encoders its weights are.
DPR_CLASSES = {c.__name__: c for c in (DPRQuestionEncoder, DPRContextEncoder)}

Array = np.ndarray[Any, Any]


class SentenceEncoder(nn.Module):
    """Mean over the real tokens, L2-normalised (Reimers and Gurevych 2019): -> (batch, dimension) float32."""

    scale = 20.0  # of the cosine, before the softmax over passages: a cosine alone spans too little for it

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor) -> torch.Tensor:
        hidden = self.model(**_taken(self.model, input_ids, attention_mask, token_type_ids)).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9), dim=1)


class DprEncoder(nn.Module):
    """The first token's vector as it is (Karpukhin et al. 2020): -> (batch, dimension) float32."""

    scale = 1.0

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor) -> torch.Tensor:
        pooled: torch.Tensor = self.model(**_taken(self.model, input_ids, attention_mask, token_type_ids)).pooler_output
        return pooled


def _taken(model: nn.Module, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> dict[str, torch.Tensor]:
    """The inputs this model takes: RoBERTa has a single token type and DistilBERT none, so they are given none."""
    config: Any = model.config
    typed = {"token_type_ids": types} if getattr(config, "type_vocab_size", 0) > 1 else {}
    return {"input_ids": ids, "attention_mask": mask, **typed}


Encoder = SentenceEncoder | DprEncoder


def load_encoder(folder: Path) -> Encoder:
    """The encoder of a model folder: a DPR encoder with its own pooling, anything else as a sentence encoder.

    Raises:
        BaseError: its configuration and weights are not a transformers encoder's.
    """
    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(str(folder), **options)
        if config.model_type != "dpr":
            return SentenceEncoder(AutoModel.from_pretrained(str(folder), use_safetensors=True, **options))
        named = (config.architectures or ["DPRQuestionEncoder"])[0]
        return DprEncoder(DPR_CLASSES[named].from_pretrained(str(folder), use_safetensors=True, **options))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise BaseError(f"{folder}: not an encoder that transformers can load ({type(error).__name__})") from error


def dimension(encoder: Encoder) -> int:
    """How many numbers its vectors have."""
    config: Any = encoder.model.config
    return int(getattr(config, "projection_dim", 0) or config.hidden_size)


def load_tokenizer(folder: Path) -> Tokenizer:
    """The model's tokenizer, cutting as services/runtime does at the manifest's max_tokens, without padding.

    Raises:
        BaseError: there is none that can be read.
    """
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # tokenizers raises no narrower type
        raise BaseError(f"{folder}: tokenizer.json is missing or is not a tokenizer") from error
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # as the services do: "[SEP]" in a document is text
    tokenizer.enable_truncation(max_tokens(json.loads((folder / "config.json").read_text())))
    return tokenizer


def max_tokens(config: dict[str, Any]) -> int:
    """How much of a text an encoder of this configuration reads, in tokens."""
    return min(MAX_TOKENS, positions(config))


def tensors(tokenizer: Tokenizer, texts: Sequence[str]) -> dict[str, torch.Tensor]:
    """int64 tensors (texts, longest), padded with zeros."""
    encoded = tokenizer.encode_batch(list(texts))
    arrays = {name: np.zeros((len(texts), max(len(e.ids) for e in encoded)), np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
    for row, e in enumerate(encoded):
        n = len(e.ids)
        arrays["input_ids"][row, :n], arrays["attention_mask"][row, :n], arrays["token_type_ids"][row, :n] = e.ids, 1, e.type_ids
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def encode(encoder: Encoder, tokenizer: Tokenizer, texts: Sequence[str]) -> Array:
    """float32 (texts, dimension), in the order given."""
    encoder.eval()
    vectors = np.zeros((len(texts), dimension(encoder)), np.float32)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    with torch.inference_mode():
        for i in range(0, len(order), TEXTS_PER_BATCH):
            batch = order[i : i + TEXTS_PER_BATCH]
            vectors[batch] = encoder(**tensors(tokenizer, [texts[j] for j in batch])).numpy()
    return vectors
