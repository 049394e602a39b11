import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quarry_contract.manifests import ManifestError

from quarry_runtime import tiny
from quarry_runtime.encode import MAX_PADDING, TOKENS_PER_BATCH, Encoder, groups

WORDS = ["crane", "wind", "pile", "wall"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    folder = tmp_path_factory.mktemp("encoder")
    tiny.encoder(folder, WORDS)
    return Encoder.load(folder)


def test_order_and_company_do_not_change_a_vector(encoder: Encoder) -> None:
    rng = random.Random(1)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(1, 90))) for _ in range(60)]
    together = encoder.encode(texts)
    assert together.shape == (60, 16)
    assert np.abs(np.linalg.norm(together, axis=1) - 1).max() < 1e-5
    alone = np.concatenate([encoder.encode([t]) for t in texts])
    assert np.abs(together - alone).max() < 1e-5


def test_a_vector_is_the_same_byte_for_byte_however_many_threads_run(encoder: Encoder) -> None:
    texts = ["crane pile " * (1 + number % 60) for number in range(100)]
    assert encoder.encode(texts, threads=3).tobytes() == encoder.encode(texts).tobytes()


def test_no_texts_give_no_vectors(encoder: Encoder) -> None:
    assert encoder.encode([]).shape == (0, 16)


def test_long_texts_are_cut_at_the_models_length(encoder: Encoder) -> None:
    assert np.abs(encoder.encode(["crane " * 126]) - encoder.encode(["crane " * 5000])).max() < 1e-6


@given(st.lists(st.integers(1, 600), max_size=80))
def test_groups_hold_every_text_once_within_their_bounds(lengths: list[int]) -> None:
    made = list(groups(lengths))
    assert sorted(i for g in made for i in g) == list(range(len(lengths)))
    for group in made:
        padded = max(lengths[i] for i in group) * len(group)
        assert len(group) == 1 or padded <= TOKENS_PER_BATCH
        assert padded - sum(lengths[i] for i in group) <= MAX_PADDING * padded


def test_a_reader_is_not_an_encoder(tmp_path: Path) -> None:
    tiny.reader(tmp_path, {"alpha": 5.0})
    with pytest.raises(ManifestError, match="is a reader, not a retriever"):
        Encoder.load(tmp_path)
