"""The formats Quarry reads: the media type of each, its short name, and its function from bytes to blocks."""

from collections.abc import Callable

from .blocks import Block
from .mail import eml
from .package import DOCX, PPTX, XLSX
from .page import html
from .pdf import pdf
from .sheets import separated, xlsx
from .slides import pptx
from .text import markdown, plain
from .word import docx

TEXT, MARKDOWN, HTML, CSV, EML = "text/plain", "text/markdown", "text/html", "text/csv", "message/rfc822"
PDF = "application/pdf"
Extractor = Callable[[bytes], list[Block]]
EXTRACTORS: dict[str, Extractor] = {
    TEXT: plain,
    MARKDOWN: markdown,
    HTML: html,
    CSV: separated,
    EML: eml,
    PDF: pdf,
    DOCX: docx,
    PPTX: pptx,
    XLSX: xlsx,
}
NAMES = {TEXT: "txt", MARKDOWN: "md", HTML: "html", CSV: "csv", EML: "eml", PDF: "pdf", DOCX: "docx", PPTX: "pptx", XLSX: "xlsx"}
