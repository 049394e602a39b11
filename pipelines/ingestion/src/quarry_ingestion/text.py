"""Plain text and Markdown: bytes to blocks."""

import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from .blocks import Block
from .decode import text_of
from .page import html


def plain(data: bytes) -> list[Block]:
    """Paragraphs are set apart by blank lines; the first short line is the title."""
    paragraphs = _paragraphs(text_of(data))
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


def letter(text: str) -> list[Block]:
    """Paragraphs without headings: a short line of a letter is a greeting or a name."""
    return [block for paragraph in _paragraphs(text) for block in _lines([line for line in paragraph.splitlines() if line.strip()])]


def _paragraphs(text: str) -> list[str]:
    return [p for p in re.split(r"\r?\n\s*\r?\n", text) if p.strip()]


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

    # A nesting limit would leave out what is deeper without a word; the interpreter's own limit is an error.
    tokens = MarkdownIt("commonmark", {"maxNesting": sys.maxsize}).enable("table").parse(_FRONT_MATTER.sub("", text_of(data)))
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
