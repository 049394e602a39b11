"""Compare extraction libraries on the sample corpus: words recovered, their order, tables, time. The figures of docs/adr/0006.

The PDF and DOCX documents are made from examples/sources by examples/build.py, the HTML ones are their own source: so the truth is known.
Run from the root of the repository, in an environment of its own (the candidates are no dependency of Quarry):

    uv venv /tmp/bench && uv pip install --python /tmp/bench/bin/python -r pipelines/ingestion/requirements.lock \
        pypdf pypdfium2 docx2txt mammoth trafilatura html-text python-calamine
    PYTHONPATH=pipelines/ingestion/src:services/contract/src:services/runtime/src /tmp/bench/bin/python pipelines/ingestion/bench/extraction.py
"""

import io
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from difflib import SequenceMatcher
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[3] / "examples"
sys.path.insert(0, str(EXAMPLES))

from build import parts  # noqa: E402

from quarry_ingestion.blocks import assemble  # noqa: E402
from quarry_ingestion.formats import EXTRACTORS  # noqa: E402
from quarry_ingestion.kinds import media_type  # noqa: E402

ROUNDS = 3
Rows = list[list[str]]
Truth = tuple[list[str], Rows]  # words in order, table rows


def quarry(data: bytes) -> str:
    """What ingestion makes of it."""
    return assemble(EXTRACTORS[media_type(data, "a.html", 10**9)](data))[0]


def pypdf(data: bytes) -> str:
    from pypdf import PdfReader

    return "\n".join(page.extract_text() for page in PdfReader(io.BytesIO(data)).pages)


def pypdfium2(data: bytes) -> str:
    import pypdfium2

    return "\n".join(page.get_textpage().get_text_range() for page in pypdfium2.PdfDocument(data))


def docx2txt(data: bytes) -> str:
    import docx2txt

    return str(docx2txt.process(io.BytesIO(data)))


def mammoth(data: bytes) -> str:
    import mammoth

    return str(mammoth.extract_raw_text(io.BytesIO(data)).value)


def trafilatura(data: bytes) -> str:
    from trafilatura import extract

    return extract(data.decode(), include_tables=True, favor_recall=True) or ""


def html_text(data: bytes) -> str:
    from html_text import extract_text

    return str(extract_text(data.decode()))


def calamine(data: bytes) -> str:
    from python_calamine import load_workbook

    book = load_workbook(io.BytesIO(data))
    return "\n".join(f"{name}\n" + "\n".join(" | ".join(map(str, row)) for row in book.get_sheet_by_name(name).to_python()) for name in book.sheet_names)


CANDIDATES: dict[str, dict[str, Callable[[bytes], str]]] = {
    "pdf": {"pdfplumber (Quarry)": quarry, "pypdf": pypdf, "pypdfium2": pypdfium2},
    "docx": {"python-docx (Quarry)": quarry, "docx2txt": docx2txt, "mammoth": mammoth},
    "html": {"beautifulsoup4 + lxml (Quarry)": quarry, "trafilatura": trafilatura, "html-text": html_text},
    "xlsx": {"openpyxl (Quarry)": quarry, "python-calamine": calamine},
}


class _Page(HTMLParser):
    """The standard library's parser as referee: words outside script, style, head and nav."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self.hidden += tag in ("script", "style", "head", "nav")

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in ("script", "style", "head", "nav")

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.words += tokens(data)


def tokens(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def truth_of(path: Path, data: bytes) -> Truth:
    """Words and table rows, from the source."""
    if path.suffix == ".html":
        return page_truth(data.decode())
    if path.suffix == ".xlsx":
        return sheet_truth()
    words: list[str] = []
    rows: Rows = []
    for part in parts((EXAMPLES / "sources" / f"{path.name}.md").read_text(encoding="utf-8")):
        rows += [list(row) for row in part.rows]
        words += tokens(part.text or " ".join(" ".join(row) for row in part.rows))
    return words, rows


def page_truth(page: str) -> Truth:
    parser = _Page()
    parser.feed(page)
    rows = [
        [" ".join(re.sub(r"<[^>]+>", "", cell).split()) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL)]
        for row in re.findall(r"<tr[^>]*>(.*?)</tr>", page, re.DOTALL)
    ]
    return parser.words, rows


def sheet_truth() -> Truth:
    rows = [[f"{word}{n}" for word in ("lift", "crane", "load")] + [str(n * 7)] for n in range(2_000)]
    return tokens("Lifts") + [word for row in rows for word in row], rows


def workbook() -> bytes:
    """The corpus has no workbook: one with 2,000 rows of four cells."""
    from openpyxl import Workbook

    book = Workbook()
    book.active.title = "Lifts"
    for row in sheet_truth()[1]:
        book.active.append([int(cell) if cell.isdigit() else cell for cell in row])
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def files(ending: str) -> Iterator[tuple[Path, bytes]]:
    if ending == "xlsx":
        yield Path("lifts.xlsx"), workbook()
    for path in sorted((EXAMPLES / "documents").glob(f"*.{ending}")):
        yield path, path.read_bytes()


def kept_rows(rows: Rows, text: str) -> int:
    """Rows that stand on one line, or one cell a line, with their cells whole and in order."""
    flat = " ".join(text.replace("|", " ").split())
    return sum(" ".join(" ".join(row).replace("|", " ").split()) in flat for row in rows)


def own_lines(rows: Rows, text: str) -> int:
    """Rows that are a line of their own with their cells told apart: what a reader can be shown as a row."""
    lines = {tuple(" ".join(cell.split()) for cell in re.split(r"\s*[|\t]\s*", line.strip(" |"))) for line in text.splitlines()}
    return sum(tuple(" ".join(cell.split()) for cell in row) in lines for row in rows)


def measure(extract: Callable[[bytes], str], documents: Sequence[tuple[Path, bytes]]) -> dict[str, Any]:
    """Shares over all words and rows of the format's documents, and the best of a few times in CPU seconds."""
    found = wanted = extra = ordered = whole = lines = rows_all = 0
    texts = [extract(data) for _, data in documents]
    for (path, data), text in zip(documents, texts, strict=True):
        words, rows = truth_of(path, data)
        got = tokens(text)
        both = sum((Counter(words) & Counter(got)).values())
        found, wanted, extra = found + both, wanted + len(words), extra + len(got) - both
        ordered += sum(block.size for block in SequenceMatcher(None, words, got, autojunk=False).get_matching_blocks())
        whole, lines, rows_all = whole + kept_rows(rows, text), lines + own_lines(rows, text), rows_all + len(rows)
    seconds = min(_timed(extract, documents) for _ in range(ROUNDS))
    share = {"words": found / wanted, "in order": ordered / wanted, "extra words": extra / wanted}
    tables = {"rows whole": whole / max(1, rows_all), "rows with cells": lines / max(1, rows_all)}
    return {key: round(100 * value, 1) for key, value in (share | tables).items()} | {"seconds": seconds}


def _timed(extract: Callable[[bytes], str], documents: Sequence[tuple[Path, bytes]]) -> float:
    began = time.process_time()
    for _, data in documents:
        extract(data)
    return time.process_time() - began


def main() -> None:
    """One line a candidate, as a Markdown table."""
    print("| Format | Library | Words % | In order % | Extra words % | Rows whole % | Rows with cells % | Time |")
    print("|---|---|---|---|---|---|---|---|")
    for ending, candidates in CANDIDATES.items():
        documents = list(files(ending))
        base: float | None = None
        for name, extract in candidates.items():
            result = measure(extract, documents)
            seconds = result.pop("seconds")
            base = base or seconds
            print(f"| {ending} | {name} | " + " | ".join(map(str, result.values())) + f" | {seconds / base:.2f} |", flush=True)
    print(json.dumps({ending: len(list(files(ending))) for ending in CANDIDATES}))


if __name__ == "__main__":
    main()
