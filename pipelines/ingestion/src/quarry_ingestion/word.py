"""Word documents: bytes to blocks."""

import io
from collections.abc import Iterator
from typing import Any

from .blocks import Block

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_WRAPPERS = {_W + name for name in ("sdt", "sdtContent", "customXml", "ins", "moveTo")}
_UNSEEN = {_W + "moveFrom", _W + "txbxContent"}  # text moved elsewhere, and boxes beside the text (which come twice)


def docx(data: bytes) -> list[Block]:
    """Paragraphs and tables in the order of the body, those in content controls too; insertions are taken as accepted.

    python-docx's own `text` leaves content controls and tracked insertions out (ECMA-376 part 1, 17.5.2 and 17.13.5.18).
    """
    from docx import Document as open_docx
    from docx.table import Table
    from docx.text.paragraph import Paragraph

    file = open_docx(io.BytesIO(data))
    blocks: list[Block] = []
    for element in _body(file.element.body):
        if element.tag == _W + "tbl":
            blocks += [Block("row", " | ".join(_cells(row))) for row in Table(element, file._body).rows]
            continue
        style = Paragraph(element, file._body).style
        name = (style.name if style is not None else "") or ""
        if not name.lower().startswith("toc "):  # a table of contents repeats the headings
            blocks.append(Block("heading" if name.startswith(("Heading", "Title")) else "paragraph", _words(element)))
    return blocks


def _body(parent: Any) -> Iterator[Any]:
    for child in parent.iterchildren():
        if child.tag in _WRAPPERS:
            yield from _body(child)
        elif child.tag in (_W + "p", _W + "tbl"):
            yield child


def _words(paragraph: Any) -> str:
    """All text that stands in a `w:p`; deleted text has another tag (`w:delText`)."""
    shown = (n for n in paragraph.iter(*(_W + x for x in ("t", "tab", "br", "cr", "noBreakHyphen"))) if not any(a.tag in _UNSEEN for a in n.iterancestors()))
    return "".join({_W + "t": node.text or "", _W + "noBreakHyphen": "-"}.get(node.tag, " ") for node in shown)


def _cells(row: Any) -> list[str]:
    """The texts of a row's cells; a merged cell comes once."""
    cells = {cell._tc: " ".join(map(_words, cell._tc.iter(_W + "p"))) for cell in row.cells}
    return list(cells.values())
