"""Tables: Excel workbooks and separated values, bytes to rows."""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, time
from typing import Any

from .blocks import Block, Unreadable
from .decode import text_of

MAX_CELLS = 5_000_000  # empty ones too: a few bytes can claim a million rows of sixteen thousand
_SNIFFED = 16_384


def xlsx(data: bytes) -> list[Block]:
    """Each visible sheet is a section; its tables are set apart by empty rows. Formulas count as their last value.

    Raises:
        Unreadable: `too_large`, more than MAX_CELLS cells.
    """
    from openpyxl import load_workbook

    book = load_workbook(io.BytesIO(data), read_only=True, data_only=True, keep_links=False)
    blocks: list[Block] = []
    left = MAX_CELLS
    for sheet in book.worksheets:
        if sheet.sheet_state != "visible":
            continue
        sheet.reset_dimensions()  # what the sheet says of its size may be wrong either way
        rows = []
        for row in sheet.iter_rows():
            left -= len(row) + 4
            if left < 0:
                raise Unreadable("too_large", f"more than {MAX_CELLS} cells")
            rows.append([_shown(cell) for cell in row])
        tables = list(_tables(rows))
        blocks += [Block("heading", sheet.title), *tables] if tables else []
    return blocks


def _shown(cell: Any) -> str:
    """A value as a reader knows it: dates without a midnight, 25% rather than 0.25."""
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, int | float):
        percent = "%" in re.sub(r'"[^"]*"|\\.', "", cell.number_format or "")  # not one that is only written behind the number
        return f"{value * 100 if percent else value:.12g}" + "%" * percent
    if isinstance(value, datetime):
        return value.date().isoformat() if value.time() == time() else value.isoformat(" ", "minutes")
    return value.isoformat() if isinstance(value, date) else str(value)


def separated(data: bytes) -> list[Block]:
    """Values between commas, semicolons, tabs or bars, whichever the first lines use.

    Raises:
        Unreadable: `damaged`, a value goes on without end; `not_text`.
    """
    text = text_of(data)
    try:
        separator = max(",;\t|", key=lambda s: _fit(text[:_SNIFFED], s))
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True))
    except csv.Error:
        raise Unreadable("damaged", f"a value is longer than {csv.field_size_limit()} characters: is a quotation mark left open?") from None
    return list(_tables(rows))


def _fit(sample: str, separator: str) -> tuple[int, int]:
    """(rows of the commonest width, that width), 0 rows for one column. The library's Sniffer fails on short files and empty values."""
    widths = Counter(len(row) for row in csv.reader(io.StringIO(sample, newline=""), delimiter=separator, skipinitialspace=True) if any(row))
    width, rows = widths.most_common(1)[0] if widths else (0, 0)
    return (rows, width) if width > 1 else (0, 0)


def _tables(rows: Iterable[Sequence[str]]) -> Iterator[Block]:
    """Rows as blocks; empty rows end a table, and columns that are empty in all of it are left out."""
    table: list[list[str]] = []
    for row in [*rows, []]:
        cells = [cell.strip() for cell in row]
        if any(cells):
            table.append(cells)
        elif table:
            yield Block("break", "")
            yield from _rows(table)
            table = []


def _rows(table: Sequence[Sequence[str]]) -> Iterator[Block]:
    used = sorted({i for row in table for i, cell in enumerate(row) if cell})
    for row in table:
        yield Block("row", " | ".join(row[i] if i < len(row) else "" for i in used).rstrip(" |"))
