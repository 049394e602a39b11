"""What the sources hold and what of it could not be read, as tables: the ledger and the index joined, counted by Pandas.

For whoever looks after the documents, before a question is asked: which were refused and why, which are there twice, which are long, which are old.
The tables name documents that not everyone may read: they are written for the owner of QUARRY_HOME alone.
"""

import os
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
from quarry_contract.index_store import INDEX_DATABASE, connect
from quarry_contract.releases import index_dir

from .ledger import LEDGER_DATABASE
from .sources import SourceError
from .targets import read_targets

WORDS = [0, 100, 1_000, 10_000, 100_000, float("inf")]  # bounds of the lengths that are counted together
COMPUTED = r"^(?=[=+\-@\t\r])"  # a spreadsheet takes what begins so for a formula
_ITEMS = "SELECT source, uri, document_id, version, principals, code, detail, words, changed FROM items ORDER BY source, uri"
_DOCUMENTS = "SELECT document_id, title, media_type, length(text) AS characters, json_array_length(pages) AS pages FROM documents"
_PASSAGES = "SELECT document_id, count(*) AS passages FROM passages GROUP BY document_id"


def items(home: Path) -> pd.DataFrame:
    """One row per item of every source, in the order of source and uri; columns as in `_ITEMS`, `_DOCUMENTS` and `_PASSAGES`, NaN where it gave no document.

    Raises:
        SourceError: nothing was ingested here yet.
        ManifestError: targets.json is damaged.
        sqlite3.Error: ledger or index cannot be read.
    """
    targets = read_targets(home)
    if not targets or not (home / LEDGER_DATABASE).exists():
        raise SourceError(f"nothing was ingested into {home} yet: make ingest DIR=path does")
    with closing(connect(home / LEDGER_DATABASE)) as ledger, closing(connect(index_dir(home, targets[0][0]) / INDEX_DATABASE)) as index:
        found = pd.read_sql_query(_ITEMS, ledger, parse_dates=["changed"])
        index.execute("BEGIN")  # both questions see the same documents
        documents = pd.read_sql_query(_DOCUMENTS, index).merge(pd.read_sql_query(_PASSAGES, index), on="document_id", how="left")
    return found.merge(documents, on="document_id", how="left", validate="one_to_one")


def tables(found: pd.DataFrame) -> Mapping[str, pd.DataFrame]:
    """What `items` found, counted; by title of the table."""
    read = found[found.code.isna()]
    refused = found[found.code.notna()]
    twice = read[read.duplicated("version", keep=False)]
    lengths = pd.cut(read.words, WORDS, right=False).rename("words")
    return {
        "Documents by source and kind": read.groupby(["source", "media_type"]).agg(
            documents=("document_id", "size"), words=("words", "sum"), passages=("passages", "sum"), longest=("words", "max")
        ),
        "Not read, by reason": refused.groupby(["source", "code"]).agg(items=("uri", "size"), for_example=("uri", "first")),
        "The same bytes more than once": twice.groupby("version").agg(documents=("document_id", "size"), which=("document_id", ", ".join)),
        "Documents by length": lengths.value_counts(sort=False).to_frame("documents"),
        "Documents by the month they last changed": read.groupby(read.changed.dt.strftime("%Y-%m")).agg(documents=("document_id", "size")),
    }


def inventory(home: Path, out: Path) -> dict[str, Any]:
    """Write items.csv and inventory.html into `out`; the counts that matter most.

    Raises:
        SourceError, ManifestError, sqlite3.Error: as `items`.
        OSError: `out` cannot be written.
    """
    found = items(home)
    counted = tables(found)
    out.mkdir(parents=True, exist_ok=True)
    _write(out / "items.csv", found.apply(_uncomputed).to_csv(index=False))
    parts = [f"<h2>{title}</h2>\n{table.reset_index().to_html(index=False) if len(table) else '<p>none</p>'}" for title, table in counted.items()]
    _write(out / "inventory.html", '<!doctype html>\n<meta charset="utf-8">\n<title>Inventory</title>\n' + "\n".join(parts) + "\n")
    return {
        "documents": int(found.code.isna().sum()),
        "refused": {str(code): int(number) for code, number in found.code.value_counts().sort_index().items()},
        "copies": int(found[found.code.isna()].duplicated("version").sum()),
        "written": [str(out / "items.csv"), str(out / "inventory.html")],
    }


def _uncomputed(column: "pd.Series[Any]") -> "pd.Series[Any]":
    """Text that a spreadsheet would compute, with an apostrophe before it."""
    return column.str.replace(COMPUTED, "'", regex=True) if pd.api.types.is_string_dtype(column) else column


def _write(path: Path, text: str) -> None:
    """For the owner only, whole or not at all."""
    partial = path.with_suffix(".tmp")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
    partial.replace(path)
