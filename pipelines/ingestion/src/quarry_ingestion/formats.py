"""One function per format: bytes to blocks. Each runs in a child process with limits (see extract)."""

import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from .blocks import Block
from .word import docx


class Unreadable(Exception):
    """The bytes are not a readable document of their format. `code` is stable; `detail` never quotes the document."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


_CONTROLS = [chr(i) for i in range(32) if chr(i) not in "\t\n\v\f\r\x1b"]  # hardly ever in text, a tenth of compressed bytes


def text_of(data: bytes) -> str:
    """Decode UTF-8 (with or without a mark), UTF-16 with a mark, else Windows-1252.

    Raises:
        Unreadable: it is not text.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="replace")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
    if sum(map(text.count, _CONTROLS)) > max(8, len(text) / 100):
        raise Unreadable("not_text", "the file is binary, not text")
    return text


def plain(data: bytes) -> list[Block]:
    """Paragraphs are set apart by blank lines; the first short line is the title."""
    paragraphs = [p for p in re.split(r"\r?\n\s*\r?\n", text_of(data)) if p.strip()]
    blocks = []
    for i, paragraph in enumerate(paragraphs):
        lines = [line for line in paragraph.splitlines() if line.strip()]
        rest = lines
        if _looks_like_heading(lines[0], alone=len(lines) == 1) and (len(lines) == 1 or lines[0].isupper()):
            blocks.append(Block("heading", lines[0]))
            rest = lines[1:]
        elif i == 0 and len(lines) == 1 and len(lines[0]) <= 120 and len(paragraphs) > 1:
            blocks.append(Block("heading", lines[0]))
            rest = []
        blocks += _lines(rest)
    return blocks


def _looks_like_heading(line: str, alone: bool) -> bool:
    line = line.strip()
    if len(line) > 90 or line[-1:] in ".!?;,:":
        return False
    return line.isupper() or (alone and len(line.split()) <= 12 and bool(re.match(r"(\d+(\.\d+)*\.?\s+)?[A-Z]", line)))


def _lines(lines: Sequence[str]) -> Iterator[Block]:
    """List items stand alone; other lines are one wrapped paragraph."""
    run: list[str] = []
    for line in lines:
        if re.match(r"\s*([-*•]|\d+[.)])\s+", line) and run:
            yield Block("paragraph", " ".join(run))
            run = []
        run.append(line.strip())
    if run:
        yield Block("paragraph", " ".join(run))


_FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n(?=\w[\w-]*:)(?:[^\n]*\S[^\n]*\n)*?(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)")


def markdown(data: bytes) -> list[Block]:
    """CommonMark with tables; marks are dropped, their words kept; front matter between `---` lines is left out."""
    from markdown_it import MarkdownIt

    tokens = MarkdownIt("commonmark").enable("table").parse(_FRONT_MATTER.sub("", text_of(data)))
    blocks: list[Block] = []
    cells: list[str] | None = None
    heading = False
    for token in tokens:
        if token.type == "heading_open":
            heading = True
        elif token.type == "tr_open":
            cells = []
        elif token.type == "tr_close" and cells is not None:
            blocks.append(Block("row", " | ".join(cells)))
            cells = None
        elif token.type == "inline":
            words = "".join(map(_inline, token.children or []))
            if cells is not None:
                cells.append(words.strip())
            else:
                blocks.append(Block("heading" if heading else "paragraph", words))
            heading = False
        elif token.type in ("fence", "code_block"):
            blocks.append(Block("paragraph", token.content))
        elif token.type == "html_block":
            blocks += html(token.content.encode())
    return blocks


def _inline(token: Any) -> str:
    if token.type == "html_inline":
        return " " if token.content.lower().startswith("<br") else ""
    return " " if token.type in ("softbreak", "hardbreak") else str(token.content)


_BLOCK_TAGS = set("p li dt dd blockquote pre caption figcaption address summary td th div section article main body".split())


def html(data: bytes) -> list[Block]:
    """Visible text by block elements; table rows with their cells joined; scripts, styles and navigation left out."""
    from bs4 import BeautifulSoup

    try:  # what is valid UTF-8 is UTF-8: the library would guess
        soup = BeautifulSoup(data.decode("utf-8-sig"), "lxml")
    except UnicodeDecodeError:
        soup = BeautifulSoup(data, "lxml")
    for tag in soup(["script", "style", "template", "noscript", "nav", "svg", "head"]):
        tag.decompose()
    blocks: list[Block] = []
    _walk(soup.body or soup, blocks)
    return blocks


def _walk(node: Any, blocks: list[Block]) -> None:
    run: list[str] = []

    def flush() -> None:
        if "".join(run).strip():
            blocks.append(Block("paragraph", "".join(run)))
        run.clear()

    for child in node.children:
        name = getattr(child, "name", None)
        if name is None:
            if type(child).__name__ == "NavigableString":
                run.append(str(child))
        elif name == "tr":
            flush()
            cells = [c.get_text(" ", strip=True) for c in child.find_all(["td", "th"])]
            blocks.append(Block("row", " | ".join(cells)))
        elif re.fullmatch(r"h[1-6]", name):
            flush()
            blocks.append(Block("heading", child.get_text(" ", strip=True)))
        elif name in _BLOCK_TAGS or child.find(["p", "li", "tr", "div", "h1", "h2", "h3"]):
            flush()
            _walk(child, blocks)
        elif name == "br":
            run.append(" ")
        else:
            run.append(child.get_text())
    flush()


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
        raise Unreadable("damaged", "the PDF is damaged or truncated") from None
    lines = [item for items in pages for item in items if isinstance(item, dict)]
    if not lines:
        raise Unreadable("no_text", "the PDF has no text: scanned pages need optical character recognition first")
    body = Counter(round(line["size"], 1) for line in lines for _ in range(len(line["text"]))).most_common(1)[0][0]
    repeated = _running_lines(pages)
    return _joined([list(_page_blocks(items, number, body, repeated)) for number, items in enumerate(pages, start=1)])


def _joined(pages: Sequence[Sequence[Block]]) -> list[Block]:
    """Paragraphs cut by a page break, made whole: the first part ends without a stop and the next page goes on in small letters."""
    blocks: list[Block] = []
    for page in reversed(pages):
        if page and blocks and _goes_on(page[-1], blocks[0]):
            page = [*page[:-1], replace(page[-1], runs_on=blocks.pop(0))]
        blocks = [*page, *blocks]
    return blocks


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


Extractor = Callable[[bytes], list[Block]]
EXTRACTORS: dict[str, Extractor] = {
    "text/plain": plain,
    "text/markdown": markdown,
    "text/html": html,
    "application/pdf": pdf,
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": docx,
}
