"""PDF: bytes to blocks."""

import io
import re
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from .blocks import Block, Unreadable


def pdf(data: bytes) -> list[Block]:
    """Lines joined into paragraphs by their distance, headings by their size, ruled tables as rows.

    Raises:
        Unreadable: encrypted, or without any text (scanned pages).
    """
    import pdfplumber
    from pdfminer.pdfdocument import PDFPasswordIncorrect
    from pdfplumber.utils.exceptions import PdfminerException

    try:
        with pdfplumber.open(io.BytesIO(data)) as file:
            pages = [_page_items(page) for page in file.pages]
    except PdfminerException as error:
        if any(isinstance(cause, PDFPasswordIncorrect) for cause in error.args):
            raise Unreadable("encrypted", "the PDF needs a password") from None
        if any(isinstance(cause, MemoryError) for cause in error.args):
            raise MemoryError from None
        raise Unreadable("damaged", "the PDF is damaged or truncated") from None
    lines = [item for items in pages for item in items if isinstance(item, dict)]
    if not lines:
        raise Unreadable("no_text", "the PDF has no text: scanned pages need optical character recognition first")
    body = Counter(round(line["size"], 1) for line in lines for _ in range(len(line["text"]))).most_common(1)[0][0]
    repeated = _running_lines(pages)
    return _joined([list(_page_blocks(items, number, body, repeated)) for number, items in enumerate(pages, start=1)])


def _joined(pages: Sequence[Sequence[Block]]) -> list[Block]:
    """Paragraphs cut by a page break, made whole: the first part ends without a stop and the next page goes on in small letters."""
    blocks: deque[Block] = deque()
    for page in reversed(pages):
        if page and blocks and _goes_on(page[-1], blocks[0]):
            page = [*page[:-1], replace(page[-1], runs_on=blocks.popleft())]
        blocks.extendleft(reversed(page))
    return list(blocks)


def _goes_on(before: Block, after: Block) -> bool:
    cut = before.kind == after.kind == "paragraph" and not re.search(r"[.!?:;][\"'”’)\]]*$", before.text.rstrip())
    return cut and bool(re.match(r"[\"'“‘(]*[a-z0-9£$€]", after.text)) and not re.match(r"(\d+(\.\d+)*|[a-z])[.)]\s", after.text)


def _page_items(page: Any) -> list[Any]:
    """Lines (dicts with text, top, bottom, size, x0) and tables (lists of rows), from top to bottom."""
    tables = page.find_tables()
    items: list[tuple[float, Any]] = [(t.bbox[1], t.extract()) for t in tables]
    outside = page.filter(lambda o: not any(_inside(o, t.bbox) for t in tables)) if tables else page
    for line in outside.extract_text_lines(strip=True, return_chars=True):
        size = Counter(round(c["size"], 1) for c in line["chars"]).most_common(1)[0][0]
        position = {"top": line["top"], "bottom": line["bottom"], "x0": line["x0"], "height": page.height}
        items.append((line["top"], {"text": line["text"], "size": size, **position}))
    page.close()  # or every page's characters stay in memory until the last
    return [item for _, item in sorted(items, key=lambda pair: pair[0])]


def _inside(thing: dict[str, Any], box: tuple[float, float, float, float]) -> bool:
    middle = (thing["top"] + thing["bottom"]) / 2
    return bool(box[1] <= middle <= box[3] and box[0] - 1 <= thing["x0"] <= box[2])


def _running_lines(pages: Sequence[Sequence[Any]]) -> set[str]:
    """Headers and footers: lines at the top or bottom that return, but for their numbers, on most pages."""
    seen: Counter[str] = Counter()
    for items in pages:
        edges = {_shape(i["text"]) for i in items if isinstance(i, dict) and (i["top"] < 0.09 * i["height"] or i["bottom"] > 0.91 * i["height"])}
        seen.update(edges)
    return {shape for shape, count in seen.items() if len(pages) > 1 and count >= max(2, 0.6 * len(pages))}


def _shape(text: str) -> str:
    return re.sub(r"\d+", "#", text)


def _page_blocks(items: Sequence[Any], page: int, body: float, repeated: set[str]) -> Iterator[Block]:
    run: list[str] = []
    last: dict[str, Any] | None = None
    for item in items:
        if isinstance(item, list):
            yield from _paragraph(run, last, body, page)
            run, last = [], None
            yield from (Block("row", " | ".join((cell or "").replace("\n", " ") for cell in row), page) for row in item)
            continue
        edge = item["top"] < 0.09 * item["height"] or item["bottom"] > 0.91 * item["height"]
        if edge and _shape(item["text"]) in repeated:
            continue
        if last is not None and (item["top"] - last["bottom"] > 0.55 * last["size"] or abs(item["size"] - last["size"]) > 0.4):
            yield from _paragraph(run, last, body, page)
            run = []
        run.append(item["text"])
        last = item
    yield from _paragraph(run, last, body, page)


def _paragraph(run: Sequence[str], last: dict[str, Any] | None, body: float, page: int) -> Iterator[Block]:
    if run and last is not None:
        text = run[0]
        for line in run[1:]:
            # A word broken at the line's end stays as it is written: joining would guess.
            text += line if text.endswith("-") else f" {line}"
        yield Block("heading" if last["size"] > body + 0.6 and len(text) <= 200 else "paragraph", text, page)
