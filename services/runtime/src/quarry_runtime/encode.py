"""Texts to vectors: the same tokenising, grouping and graph for passages (ingestion) and questions (retriever)."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from quarry_contract.manifests import ManifestError, ModelManifest
from tokenizers import Tokenizer

from .session import Array, Session, open_artefact, open_tokenizer

TOKENS_PER_BATCH = 512
MAX_PADDING = 0.08


def groups(lengths: Sequence[int], budget: int = TOKENS_PER_BATCH, max_padding: float = MAX_PADDING) -> Iterator[list[int]]:
    """Indices in batches of nearly equal length: at most `budget` tokens and `max_padding` of them padding."""
    batch: list[int] = []
    real = 0
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        padded = lengths[i] * (len(batch) + 1)
        if batch and (padded > budget or padded - real - lengths[i] > max_padding * padded):
            yield batch
            batch, real = [], 0
        batch.append(i)
        real += lengths[i]
    if batch:
        yield batch


class Encoder:
    """A question or passage encoder; pooling and normalising, if any, are part of the graph."""

    def __init__(self, manifest: ModelManifest, tokenizer: Tokenizer, session: Session) -> None:
        self.manifest = manifest
        self.tokenizer = tokenizer
        self._session = session

    @classmethod
    def load(cls, folder: Path, which: str = "passage") -> "Encoder":
        """Open a retriever artefact folder; `which` is "question" or "passage".

        Raises:
            ManifestError: the folder is not a whole retriever artefact.
        """
        manifest = open_artefact(folder, "retriever")
        name = manifest.question_encoder if which == "question" else manifest.passage_encoder
        if name is None or name not in manifest.files or manifest.dimension is None:
            raise ManifestError(f"model.json names no {which} encoder with a dimension")
        tokenizer = open_tokenizer(folder / "tokenizer.json")
        tokenizer.enable_truncation(manifest.max_tokens)
        encoder = cls(manifest, tokenizer, Session(folder / name, ["sentence_embedding"]))
        try:
            encoder.encode(["ready"])
        except Exception as error:
            raise ManifestError(f"{name} does not run, or gives other vectors than of {manifest.dimension} numbers") from error
        return encoder

    def encode(self, texts: Sequence[str], threads: int = 1) -> Array:
        """float32 (len(texts), dimension), in the order given. Longer texts are cut at the manifest's max_tokens.

        `threads` batches are run side by side; each is run by one thread, so that a vector is the same however many there are.
        """
        vectors = np.zeros((len(texts), self.manifest.dimension or 0), np.float32)
        encoded = self.tokenizer.encode_batch(list(texts))
        batches = list(groups([len(e.ids) for e in encoded]))

        def run(batch: list[int]) -> None:
            [vectors[batch]] = self._session.run([(encoded[i].ids, encoded[i].type_ids) for i in batch])

        if min(threads, len(batches)) <= 1:
            for batch in batches:
                run(batch)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(run, reversed(batches)))  # the longest first: they end together
        return vectors
