"""What every extractor gives, and how it becomes a document's canonical text with its map."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["heading", "paragraph", "row"]
Scalar = str | int | float | bool

_BLANKS = re.compile(r"[^\S\n]+")
# Control characters say nothing to a reader; NUL would end strings in SQLite. Lone surrogates cannot be stored or sent.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufeff]")


@dataclass(frozen=True)
class Block:
    """One heading, paragraph or table row, as it stands in the document. `page` is 1-based where there are pages.

    `runs_on` is what follows on the next page, of a paragraph that a page break cuts.
    """

    kind: Kind
    text: str
    page: int | None = None
    runs_on: "Block | None" = None


@dataclass(frozen=True)
class Document:
    """A document version: offsets everywhere count characters of `text`."""

    document_id: str
    version: str  # SHA-256 of the bytes
    title: str
    source: str
    media_type: str
    text: str
    pages: tuple[tuple[int, int], ...]  # (page number, where it starts)
    sections: tuple[tuple[str, int], ...]  # (heading, where it starts)
    metadata: dict[str, Scalar] = field(default_factory=dict)
    principals: tuple[str, ...] = ("*",)  # who may read it, sorted; "*" = everyone, none = nobody


def clean(text: str) -> str:
    """One line of printable text: line breaks and runs of white space become one blank."""
    return " ".join(_UNPRINTABLE.sub(" ", text.replace("\n", " ")).split())


def assemble(blocks: Sequence[Block]) -> tuple[str, tuple[tuple[int, int], ...], tuple[tuple[str, int], ...]]:
    """Canonical text, pages and sections. Blocks are set apart by a blank line, rows of one table by a line break."""
    parts: list[str] = []
    pages: list[tuple[int, int]] = []
    sections: list[tuple[str, int]] = []
    length = 0
    previous: Kind | None = None
    for block in blocks:
        if not clean(block.text):
            continue
        gap = "" if previous is None else "\n" if previous == block.kind == "row" else "\n\n"
        if block.kind == "heading":
            sections.append((clean(block.text), length + len(gap)))
        part: Block | None = block
        while part is not None:
            text = clean(part.text)
            length += len(gap)
            if part.page is not None and (not pages or pages[-1][0] != part.page):
                pages.append((part.page, length))
            parts += [gap, text]
            length += len(text)
            part, gap = part.runs_on, "" if text.endswith("-") else " "
        previous = block.kind
    return "".join(parts), tuple(pages), tuple(sections)
