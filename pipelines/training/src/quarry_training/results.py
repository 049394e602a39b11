"""What an evaluation found: one row a question, and the summary. Holds figures and names only, no text of any document."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .squad import Example

Array = np.ndarray[Any, Any]
# One column a value: "answerable" and every name of Row.values, each (questions,) float64, NaN where a question has none
Table = Mapping[str, Array]


@dataclass(frozen=True)
class Row:
    """One question. `key` identifies it in every evaluation of the same set; `values` are its scores (shares in 0..1, flags 0 or 1)."""

    key: str
    id: str
    document: str
    answerable: bool
    values: dict[str, float]
    tokens: int
    milliseconds: float
    slices: dict[str, str]


@dataclass(frozen=True)
class Evaluation:
    """One model over one set. `passages` is how many contexts each question was asked over; 1 = its own alone."""

    kind: str
    artefact_digest: str
    data_digest: str
    passages: int
    summary: dict[str, float]
    rows: tuple[Row, ...]


def key_of(example: Example) -> str:
    """Question and context identify a question, whatever id and place a file gives it."""
    return hashlib.sha256(json.dumps([example.question, example.context]).encode()).hexdigest()[:16]


def document_of(example: Example) -> str:
    """The document's title; without one, every context is its own document."""
    return example.title if example.title not in ("", "None") else hashlib.sha256(example.context.encode()).hexdigest()[:16]


def table(rows: Sequence[Row]) -> Table:
    """The rows' values as columns."""
    names = dict.fromkeys(name for row in rows for name in row.values)
    columns = {name: np.array([row.values.get(name, np.nan) for row in rows]) for name in names}
    return columns | {"answerable": np.array([row.answerable for row in rows], float)}


def rows_in(rows: Sequence[Row], name: str) -> list[Row]:
    """The rows of slice `kind=value`."""
    kind, _, value = name.partition("=")
    return [row for row in rows if row.slices.get(kind) == value]


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """One JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
