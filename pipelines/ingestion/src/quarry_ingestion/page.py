"""HTML pages: bytes to blocks."""

import re
from typing import Any

from .blocks import Block
from .decode import refuse_binary, unicode_of

_BLOCK_TAGS = set("p li dt dd blockquote pre caption figcaption address summary td th div section article main body".split())


def html(data: bytes) -> list[Block]:
    """Visible text by block elements; table rows with their cells joined; scripts, styles and navigation left out."""
    from bs4 import BeautifulSoup

    text = unicode_of(data)
    refuse_binary(data.decode("latin-1") if text is None else text)
    soup = BeautifulSoup(data if text is None else text, "lxml")  # only what is not Unicode is for the library to guess
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
