"""What a vector store beside index.db holds of a passage, and how it is asked: ingestion writes it, the retriever reads it.

The id is the passage's, the namespace is the generation. index.db decides what a passage is and who may see it; the store only
narrows down. So a filter here may let too much through, never too little: values that the store cannot hold exactly are
left out on both sides. Keys of a document's own metadata have a prefix, so that none of them passes for a built-in one.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from .codec import Scalar
from .index_store import EVERYONE

PRINCIPALS = "principals"
BUILT_IN = ("document_id", "version", "title", "section", "page")
OWN = "own."
MAX_TEXT = 500  # characters of a text that can be filtered by
MAX_PRINCIPALS_BYTES = 20_000  # of a passage's list as JSON: half of what all of its metadata may take
MAX_LISTED = 10_000  # values of one "$in"
MAX_EXACT = 2**53  # numbers are stored in double precision
MAX_TERMS = 1_000  # of one sparse vector
# BM25's weight of a term's count (Robertson & Zaragoza 2009); the mean length is fixed, so that a passage's weights depend on no other passage.
K1, B, MEAN_TERMS = 1.5, 0.75, 100


class VectorStoreError(Exception):
    """The store does not do what it is asked; says what and why."""


@dataclass(frozen=True)
class Sparse:
    """A sparse vector: unsigned 32-bit indices, all different, and their values, none zero."""

    indices: tuple[int, ...]
    values: tuple[float, ...]


def metadata_of(built_in: Mapping[str, Scalar | None], own: Mapping[str, Scalar], principals: Sequence[str]) -> dict[str, Any]:
    """A passage's metadata in the store; `built_in` has the keys BUILT_IN. A list of principals too long for it narrows nothing down."""
    long = len(json.dumps(sorted(principals), ensure_ascii=False).encode()) > MAX_PRINCIPALS_BYTES
    named = {name: built_in[name] for name in BUILT_IN} | {OWN + name: value for name, value in own.items()}
    return {PRINCIPALS: [EVERYONE] if long else sorted(principals)} | {name: value for name, value in named.items() if value is not None and _holds(value)}


def filter_of(principals: Iterable[str], filters: Mapping[str, Scalar | tuple[Scalar, ...]]) -> dict[str, Any]:
    """The filter for a caller with these principals who asks for these values: passages without it are not theirs to see."""
    conditions: list[dict[str, Any]] = [{PRINCIPALS: {"$in": sorted({EVERYONE, *principals})}}]
    for name, wanted in filters.items():
        values = list(wanted) if isinstance(wanted, tuple) else [wanted]
        if 0 < len(values) <= MAX_LISTED and all(_holds(value) for value in values):
            conditions.append({name if name in BUILT_IN else OWN + name: {"$in": values}})
    return conditions[0] if len(conditions) == 1 else {"$and": conditions}


def _holds(value: Scalar) -> bool:
    """Whether the store gives it back as it is."""
    if isinstance(value, str):
        return len(value) <= MAX_TEXT
    return isinstance(value, bool) or abs(value) <= MAX_EXACT


def passage_terms(terms: Sequence[str]) -> Sparse:
    """A passage's terms, repeats counted, weighted for sparse search; the heaviest MAX_TERMS of them."""
    length = 1 - B + B * len(terms) / MEAN_TERMS
    return _sparse({term: count * (K1 + 1) / (count + K1 * length) for term, count in Counter(terms).items()})


def question_terms(weights: Mapping[str, float]) -> Sparse:
    """A question's terms, weighted by how telling each one is (its idf among the passages that the caller may see)."""
    return _sparse(weights)


def weighted(dense: Sequence[float], sparse: Sparse, share: float) -> tuple[list[float], Sparse]:
    """A sparse-dense question: the dense score counts for `share` (above 0, below 1), the sparse one for the rest."""
    return [share * x for x in dense], Sparse(sparse.indices, tuple((1 - share) * x for x in sparse.values))


def _sparse(weights: Mapping[str, float]) -> Sparse:
    """Terms whose hashes are equal (one pair in 2**32) count as one."""
    totals: dict[int, float] = {}
    for term, weight in sorted(weights.items(), key=lambda item: (-item[1], item[0])):
        if weight > 0 and math.isfinite(weight):
            at = int.from_bytes(blake2b(term.encode("utf-8", "backslashreplace"), digest_size=4).digest(), "little")
            totals[at] = totals.get(at, 0.0) + weight
    kept = list(totals.items())[:MAX_TERMS]
    return Sparse(tuple(at for at, _ in kept), tuple(weight for _, weight in kept))
