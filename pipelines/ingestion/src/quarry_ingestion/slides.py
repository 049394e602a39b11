"""PowerPoint presentations: bytes to blocks; a slide is a page."""

import io
from collections.abc import Iterator
from typing import Any

from .blocks import Block

_A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_P = "{http://schemas.openxmlformats.org/presentationml/2006/main}"
_MC = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
_TITLES = ("title", "ctrTitle")
_FURNITURE = ("dt", "ftr", "sldNum", "hdr", "sldImg")  # date, footer, slide number; of notes also header and picture


def pptx(data: bytes) -> list[Block]:
    """Per slide: its title, its texts and tables in their order, then the speaker's notes. Charts and SmartArt are not read.

    The tree is walked here because python-pptx leaves out shapes in `mc:AlternateContent`.
    """
    from pptx import Presentation

    blocks: list[Block] = []
    for number, slide in enumerate(Presentation(io.BytesIO(data)).slides, start=1):
        # The title says what the rest is about, wherever it stands in the file.
        blocks += sorted(_shapes(slide.shapes._spTree, number), key=lambda block: block.kind != "heading")
        if slide.has_notes_slide:
            blocks += _shapes(slide.notes_slide.shapes._spTree, number)
    return blocks


def _shapes(parent: Any, page: int) -> Iterator[Block]:
    for child in parent.iterchildren():
        if child.tag == _P + "sp":
            yield from _texts(child, page)
        elif child.tag == _P + "graphicFrame":
            yield Block("break", "")
            yield from (Block("row", " | ".join(_words(cell) for cell in row.iter(_A + "tc")), page) for row in child.iter(_A + "tr"))
        elif child.tag in (_P + "grpSp", _MC + "AlternateContent", _MC + "Choice"):  # not mc:Fallback: the same once more
            yield from _shapes(child, page)


def _texts(shape: Any, page: int) -> Iterator[Block]:
    place = next((p.get("type", "") for p in shape.iterfind(f"{_P}nvSpPr/{_P}nvPr/{_P}ph")), "")
    if place in _TITLES:
        yield Block("heading", _words(shape), page)
    elif place not in _FURNITURE:
        yield from (Block("paragraph", _line(paragraph), page) for paragraph in shape.iter(_A + "p"))


def _words(parent: Any) -> str:
    return " ".join(map(_line, parent.iter(_A + "p")))


def _line(paragraph: Any) -> str:
    return "".join((node.text or "") if node.tag == _A + "t" else " " for node in paragraph.iter(_A + "t", _A + "br", _A + "tab"))
