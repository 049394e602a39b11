"""Build what is derived in this folder: PDF and DOCX documents, and the questions in SQuAD layout.

Run in the ingestion environment: `make examples`. The result is in the repository; a test checks that it is what this script gives.
"""

import hashlib
import json
import re
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from docx import Document as new_docx
from quarry_ingestion.blocks import Document
from quarry_ingestion.extract import Limits, read
from reportlab import rl_config
from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle, getSampleStyleSheet
from reportlab.lib.units import mm
from reportlab.platypus import Paragraph, SimpleDocTemplate, Spacer, Table, TableStyle

HERE = Path(__file__).parent
# Split by document; a document's revisions, and reports of one series, stay together. The rest is train.
TEST = """hs-003 hs-004 hs-006 hs-007 ir-020 ms-030 ms-033 ds-101 ds-104 em-202 mm-041 mm-042 mm-043 ir-031 qa-001""".split()
DEV = """hs-005 hs-008 ds-102 ct-003 ct-004 ir-032 ir-034""".split()
CONTEXT_WORDS = 120  # contexts grow around the evidence to about this size, by whole blocks


@dataclass(frozen=True)
class Part:
    """A piece of the simple markdown the sources are written in."""

    kind: str  # h1, h2, h3, text, bullet, number, table
    text: str = ""
    rows: tuple[tuple[str, ...], ...] = ()


def parts(source: str) -> Iterator[Part]:
    """Headings, paragraphs, list items and tables, in order."""
    rows: list[tuple[str, ...]] = []
    for line in [*source.splitlines(), ""]:
        line = line.strip()
        if line.startswith("|"):
            if not re.fullmatch(r"[|:\- ]+", line):
                rows.append(tuple(cell.strip() for cell in line.strip("|").split("|")))
            continue
        if rows:
            yield Part("table", rows=tuple(rows))
            rows = []
        if match := re.match(r"(#{1,3}) (.+)", line):
            yield Part(f"h{len(match[1])}", match[2])
        elif line.startswith("- "):
            yield Part("bullet", line[2:])
        elif re.match(r"\d+\. ", line):
            yield Part("number", line)
        elif line:
            yield Part("text", line)


def write_pdf(source: str, path: Path) -> None:
    """A4 with running header and page numbers; the same bytes every time."""
    rl_config.invariant = 1
    sheet = getSampleStyleSheet()
    body = ParagraphStyle("body", sheet["Normal"], fontSize=11.5, leading=17, spaceAfter=9)
    cell = ParagraphStyle("cell", body, fontSize=9.5, leading=12, spaceAfter=0)
    heads = {f"h{n}": ParagraphStyle(f"h{n}", body, fontName="Helvetica-Bold", fontSize=s, leading=s + 4, spaceBefore=9) for n, s in ((1, 18), (2, 14), (3, 12))}
    story: list[Any] = []
    title = path.stem
    for part in parts(source):
        if part.kind == "table":
            table = Table([[Paragraph(_escaped(c), cell) for c in row] for row in part.rows], repeatRows=1, hAlign="LEFT")
            table.setStyle(TableStyle([("GRID", (0, 0), (-1, -1), 0.5, colors.grey), ("VALIGN", (0, 0), (-1, -1), "TOP")]))
            story += [table, Spacer(1, 8)]
        else:
            text = f"- {part.text}" if part.kind == "bullet" else part.text
            story.append(Paragraph(_escaped(text), heads.get(part.kind, body)))

    def furniture(canvas: Any, document: Any) -> None:
        canvas.setFont("Helvetica", 8)
        canvas.drawString(20 * mm, A4[1] - 12 * mm, f"Northgate Quay - {title}")
        canvas.drawRightString(A4[0] - 20 * mm, 10 * mm, f"Page {document.page}")

    frame = {"leftMargin": 30 * mm, "rightMargin": 30 * mm, "topMargin": 28 * mm, "bottomMargin": 26 * mm}
    SimpleDocTemplate(str(path), pagesize=A4, title=title, **frame).build(story, onFirstPage=furniture, onLaterPages=furniture)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def write_docx(source: str, path: Path) -> None:
    """Real headings, lists and tables; the same bytes every time."""
    document = new_docx()
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    document.core_properties.created = document.core_properties.modified = moment
    for part in parts(source):
        if part.kind == "table":
            table = document.add_table(rows=0, cols=max(map(len, part.rows)), style="Table Grid")
            for row in part.rows:
                for target, text in zip(table.add_row().cells, row, strict=False):
                    target.text = text
        elif part.kind.startswith("h"):
            document.add_heading(part.text, level=int(part.kind[1]))
        else:
            document.add_paragraph(part.text, style={"bullet": "List Bullet"}.get(part.kind))
    document.save(str(path))
    _fix_times(path)


def _fix_times(path: Path) -> None:
    """Zip entries carry the time of writing; take it out."""
    with zipfile.ZipFile(path) as archive:
        entries = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), content, zipfile.ZIP_DEFLATED)


def build_documents() -> None:
    """Render the PDF and DOCX sources."""
    for source in sorted((HERE / "sources").glob("*.md")):
        path = HERE / "documents" / source.stem
        {"pdf": write_pdf, "docx": write_docx}[path.suffix[1:]](source.read_text(encoding="utf-8"), path)


def build_questions() -> dict[str, int]:
    """Write train, dev and test; returns their sizes.

    Raises:
        SystemExit: an answer or its evidence is not in its document.
    """
    splits: dict[str, list[dict[str, Any]]] = {"train": [], "dev": [], "test": []}
    problems: list[str] = []
    for path in sorted((HERE / "sources" / "questions").glob("*.jsonl")):
        name = path.name.removesuffix(".jsonl")
        document = read((HERE / "documents" / name).read_bytes(), name, Limits())
        number = "-".join(name.split("-")[:2])
        split = "test" if number in TEST else "dev" if number in DEV else "train"
        splits[split].append(_article(name, document, path.read_text(encoding="utf-8").splitlines(), problems))
    if problems:
        sys.exit("\n".join(problems))
    sizes = {}
    for split, articles in splits.items():
        target = HERE / "questions" / f"{split}.json"
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps({"version": "v2.0", "data": articles}, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        sizes[split] = sum(len(p["qas"]) for a in articles for p in a["paragraphs"])
    return sizes


def _article(name: str, document: Document, lines: list[str], problems: list[str]) -> dict[str, Any]:
    paragraphs: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for line in filter(str.strip, lines):
        record = json.loads(line)
        identity = hashlib.sha256(f"{name}\n{record['question']}".encode()).hexdigest()[:16]
        if record["answer"] is None:
            a, b = _related(document.text, record["question"])
            answers = []
        else:
            found = _locate(document.text, record["evidence"])
            at = document.text.find(record["answer"], found[0], found[1]) if found else -1
            if found is None or at < 0:
                problems.append(f"{name}: not in the document: {record['evidence']!r} / {record['answer']!r}")
                continue
            a, b = _around(document.text, *found)
            spans = [(at, record["answer"]), *((_nearest(document.text[:b], other, at), other) for other in record.get("also", []))]
            if any(start < a for start, _ in spans):
                problems.append(f"{name}: not in the context: {record['also']!r}")
                continue
            answers = [{"text": text, "answer_start": start - a} for start, text in spans]
        qa = {"id": identity, "question": record["question"], "answers": answers, "is_impossible": not answers}
        paragraphs.setdefault((a, b), []).append(qa)
    made = [{"heading": _heading(document, a), "context": document.text[a:b], "qas": qas} for (a, b), qas in sorted(paragraphs.items())]
    return {"title": name, "paragraphs": made}


def _nearest(text: str, wanted: str, at: int) -> int:
    """Where `wanted` begins, nearest to `at`; -1 if it is not in the text."""
    found = [m.start() for m in re.finditer(re.escape(wanted), text)]
    return min(found, key=lambda start: abs(start - at), default=-1)


def _heading(document: Document, start: int) -> str:
    """The document's title and the section at `start`, as the gateway tells them to the reader."""
    sections = [heading for heading, at in document.sections if at <= start]
    return " - ".join(dict.fromkeys([document.title, *sections[-1:]]))


def _locate(text: str, evidence: str) -> tuple[int, int] | None:
    """Where the evidence stands, white space and table bars folded."""
    words = [re.escape(w) for w in evidence.replace("|", " ").split()]
    match = re.search(r"[\s|]+".join(words), text)
    return match.span() if match else None


def _blocks(text: str) -> list[tuple[int, int]]:
    bounds = [0, *(m.end() for m in re.finditer(r"\n\n", text)), len(text)]
    return [(a, b - 2 if text[a:b].endswith("\n\n") else b) for a, b in zip(bounds, bounds[1:], strict=False) if text[a:b].strip()]


def _around(text: str, start: int, end: int) -> tuple[int, int]:
    """Whole blocks around [start, end), about CONTEXT_WORDS words."""
    blocks = _blocks(text)
    first = max(i for i, (a, _) in enumerate(blocks) if a <= start)
    last = min(i for i, (_, b) in enumerate(blocks) if b >= end)
    while len(text[blocks[first][0] : blocks[last][1]].split()) < CONTEXT_WORDS and (first > 0 or last < len(blocks) - 1):
        if last < len(blocks) - 1:
            last += 1
        if first > 0 and len(text[blocks[first][0] : blocks[last][1]].split()) < CONTEXT_WORDS:
            first -= 1
    return blocks[first][0], blocks[last][1]


def _related(text: str, question: str) -> tuple[int, int]:
    """The block that shares most words with an unanswerable question, and its neighbours."""
    asked = set(re.findall(r"\w{4,}", question.lower()))
    blocks = _blocks(text)
    best = max(blocks, key=lambda b: len(asked & set(re.findall(r"\w{4,}", text[b[0] : b[1]].lower()))))
    return _around(text, *best)


if __name__ == "__main__":
    build_documents()
    print(json.dumps(build_questions()))
