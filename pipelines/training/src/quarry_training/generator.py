"""A language model that answers a question from passages: its prompts, its loss, its answers. Causal or encoder-decoder.

The loss is on the target's tokens only: the answer, or NOT_FOUND where the passages hold none.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from quarry_contract.manifests import digest_file, digest_of
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from . import scoring
from .features import MAX_QUESTION_TOKENS
from .predict import MAX_ANSWER_TOKENS
from .squad import Example

INSTRUCTION = "Answer the question with the passages' own words."
NOT_FOUND = "not in the documents"
MAX_TOKENS = 512
IGNORED = -100  # the label that transformers' losses leave out
Row = TypeVar("Row")


class GeneratorError(Exception):
    """The base is not a language model that can be trained here, or the adapter is not one for this base."""


@dataclass(frozen=True)
class Generator:
    """A model, its tokenizer, and what both agree on: `prefix` and `suffix` are the special tokens around a prompt."""

    model: Any
    tokenizer: Tokenizer
    seq2seq: bool
    max_tokens: int
    eos: int
    pad: int
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]


@dataclass(frozen=True)
class Item:
    """Token ids of one prompt and of its target, end of sequence included."""

    prompt: list[int]
    target: list[int]


def load(base: Path) -> Generator:
    """The language model in a folder; its configuration says whether it is causal or encoder-decoder.

    Raises:
        GeneratorError: it is neither, or its configuration names no end-of-sequence token.
    """
    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(str(base), **options)
        seq2seq = bool(config.is_encoder_decoder)
        kind = AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM
        model = kind.from_pretrained(str(base), use_safetensors=True, dtype=torch.float32, **options)
    except (OSError, ValueError, KeyError) as error:
        raise GeneratorError(f"{base} is no causal or encoder-decoder language model: {str(error).splitlines()[0]}") from error
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True  # "</s>" in a document is text
    eos = config.eos_token_id[0] if isinstance(config.eos_token_id, list) else config.eos_token_id
    if eos is None:
        raise GeneratorError(f"{base}: config.json names no eos_token_id, so an answer would have no end")
    pad = eos if config.pad_token_id is None else config.pad_token_id
    positions = getattr(config, "max_position_embeddings", None) or MAX_TOKENS
    prefix, suffix = _around(tokenizer)
    return Generator(model, tokenizer, seq2seq, min(MAX_TOKENS, positions), eos, pad, prefix, suffix if seq2seq else ())


def _around(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    bare, whole = tokenizer.encode("a", add_special_tokens=False).ids, tokenizer.encode("a").ids
    before = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
    return tuple(whole[:before]), tuple(whole[before + len(bare) :])


def prompt(generator: Generator, question: str, passages: Sequence[str]) -> tuple[list[int], str]:
    """The prompt's token ids, and as much of the passages as it holds: they are cut at the end to leave room for the answer."""
    asked = f"\nQuestion: {_cut(generator.tokenizer, question, MAX_QUESTION_TOKENS)}\nAnswer:"
    head, tail = (generator.tokenizer.encode(text, add_special_tokens=False).ids for text in (INSTRUCTION, asked))
    around = len(generator.prefix) + len(generator.suffix) + len(head) + len(tail)
    room = generator.max_tokens - around - (0 if generator.seq2seq else MAX_ANSWER_TOKENS)
    if room <= 0:
        raise GeneratorError(f"the model reads {generator.max_tokens} tokens, too few for a question, a passage and an answer")
    text = _cut(generator.tokenizer, "".join(f"\nPassage: {passage}" for passage in passages), room)
    read = generator.tokenizer.encode(text, add_special_tokens=False).ids[:room]
    return [*generator.prefix, *head, *read, *tail, *generator.suffix], text


def _cut(tokenizer: Tokenizer, text: str, tokens: int) -> str:
    offsets = tokenizer.encode(text, add_special_tokens=False).offsets[:tokens]
    return text[: offsets[-1][1]] if offsets else ""


def passages_of(example: Example) -> list[str]:
    """The example's context under its heading."""
    return [f"{example.heading}: {example.context}" if example.heading else example.context]


def item(generator: Generator, example: Example) -> Item | None:
    """What to learn from an example; None if its answer lies beyond what the prompt holds, or is too long to say."""
    ids, text = prompt(generator, example.question, passages_of(example))
    answer = example.answers[0][0] if example.answers else NOT_FOUND
    target = generator.tokenizer.encode(f" {answer}", add_special_tokens=False).ids
    if len(target) >= MAX_ANSWER_TOKENS or (example.answers and answer not in text):
        return None
    return Item(ids, [*target, generator.eos])


def tensors(generator: Generator, items: Sequence[Item]) -> dict[str, torch.Tensor]:
    """input_ids, attention_mask and labels, each int64 (batch, longest), padded on the right."""
    rows = [x.prompt if generator.seq2seq else x.prompt + x.target for x in items]
    labels = [x.target if generator.seq2seq else [IGNORED] * len(x.prompt) + x.target for x in items]
    ids, mask = _padded(rows, generator.pad), _padded([[1] * len(row) for row in rows], 0)
    return {"input_ids": ids, "attention_mask": mask, "labels": _padded(labels, IGNORED)}


def _padded(rows: Sequence[list[int]], filling: int, left: bool = False) -> torch.Tensor:
    longest = max(map(len, rows))
    gaps = [[filling] * (longest - len(row)) for row in rows]
    return torch.tensor([gap + row if left else row + gap for row, gap in zip(rows, gaps, strict=True)])


def mean_loss(generator: Generator, items: Sequence[Item], batch_size: int = 8) -> float:
    """Cross-entropy in nats a target token, over all items."""
    generator.model.eval()
    total = tokens = 0.0
    with torch.inference_mode():
        for batch in _batches(items, batch_size):
            count = sum(len(x.target) for x in batch)
            total += generator.model(**tensors(generator, batch)).loss.item() * count
            tokens += count
    return total / tokens


def answers(generator: Generator, examples: Sequence[Example], batch_size: int = 8) -> list[str]:
    """What the model says to each question on its own context, decoded greedily."""
    generator.model.eval()
    said: list[str] = []
    for batch in _batches(examples, batch_size):
        prompts = [prompt(generator, e.question, passages_of(e))[0] for e in batch]
        left = not generator.seq2seq  # a causal model goes on from the last column
        ids, mask = _padded(prompts, generator.pad, left), _padded([[1] * len(p) for p in prompts], 0, left)
        settings = {"do_sample": False, "num_beams": 1, "eos_token_id": generator.eos, "pad_token_id": generator.pad}
        with torch.inference_mode():
            out = generator.model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=MAX_ANSWER_TOKENS, **settings)
        new = out if generator.seq2seq else out[:, ids.shape[1] :]
        said += [generator.tokenizer.decode(row, skip_special_tokens=True).strip() for row in new.tolist()]
    return said


def token_f1(examples: Sequence[Example], said: Sequence[str]) -> float:
    """Mean token F1 in percent, NOT_FOUND counting as the empty answer (Rajpurkar et al. 2018)."""
    texts = ["" if scoring.normalise(text) == scoring.normalise(NOT_FOUND) else text for text in said]
    scores = [scoring.f1(text, [answer for answer, _ in e.answers]) for e, text in zip(examples, texts, strict=True)]
    return 100 * sum(scores) / len(scores)


def _batches(rows: Sequence[Row], size: int) -> Iterator[Sequence[Row]]:
    for i in range(0, len(rows), size):
        yield rows[i : i + size]


def digest_of_base(base: Path) -> str:
    """Identifies the weights an adapter belongs to."""
    return digest_of({path.name: digest_file(path).sha256 for path in sorted(base.glob("*.safetensors"))})


def load_adapted(artefact: Path, base: Path) -> Generator:
    """The base with the adapter in an artefact folder.

    Raises:
        GeneratorError: the adapter was trained on another base.
    """
    from peft import PeftModel  # here, for it is slow to import

    if json.loads((artefact / "generator.json").read_text())["base_digest"] != digest_of_base(base):
        raise GeneratorError(f"the adapter in {artefact} was trained on other weights than those in {base}")
    plain = load(base)
    adapted = PeftModel.from_pretrained(plain.model, str(artefact))
    return Generator(adapted, plain.tokenizer, plain.seq2seq, plain.max_tokens, plain.eos, plain.pad, plain.prefix, plain.suffix)
