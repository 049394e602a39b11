"""Every format, with real files made on the spot; and every way a file can be bad."""

import io
import os
import random
import re
import time
import zipfile
from datetime import datetime
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import openpyxl
import pptx
import pytest
from docx import Document as new_docx
from docx.oxml import parse_xml
from pypdf import PdfReader, PdfWriter
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import getSampleStyleSheet
from reportlab.platypus import PageBreak, Paragraph, SimpleDocTemplate, Spacer, Table, TableStyle

from quarry_ingestion import extract as module
from quarry_ingestion.blocks import Document, assemble
from quarry_ingestion.extract import Limits, Skipped, extract, extract_bytes
from quarry_ingestion.formats import NAMES
from quarry_ingestion.package import DOCX

MODULES = ("extract", "kinds", "package", "decode", "text", "page", "pdf", "sheets")


def pdf() -> bytes:
    out = io.BytesIO()
    style = getSampleStyleSheet()
    long = "The quay wall stands on piles that reach the clay. " * 8
    table = Table([["Part", "Mass"], ["Mast", "2,400 kg"]], style=TableStyle([("GRID", (0, 0), (-1, -1), 1, "black")]))
    story = [Paragraph("Lifting plan", style["Title"]), Paragraph(long, style["Normal"]), table, PageBreak()]
    story += [Paragraph("2 Weather", style["Heading1"]), Paragraph("Lifting stops at 14 m/s.", style["Normal"])]

    def header(canvas: object, document: object) -> None:
        canvas.drawString(60, A4[1] - 30, "Confidential draft")  # type: ignore[attr-defined]
        canvas.drawString(60, 25, f"Page {document.page}")  # type: ignore[attr-defined]

    SimpleDocTemplate(out, pagesize=A4).build(story, onFirstPage=header, onLaterPages=header)
    return out.getvalue()


def docx() -> bytes:
    document = new_docx()
    document.add_heading("Method statement", 1)
    document.add_paragraph("First the mast, then the jib.")
    table = document.add_table(rows=2, cols=2)
    for cell, text in zip((c for row in table.rows for c in row.cells), ("Part", "Mass", "Mast", "2,400 kg"), strict=True):
        cell.text = text
    document.add_paragraph("After the table.")
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


MARKDOWN = "# Title *here*\n\nA paragraph\nwith `two` lines.\n\n- one\n- two\n\n| Part | Mass |\n|---|---|\n| Mast | 2,400 kg |\n\n## Next\n\nThe end."
HTML = """<!doctype html><html><head><title>x</title><style>p{}</style></head><body><nav>menu</nav><h1>Title</h1><p>One <b>bold</b>
 line.<script>evil()</script></p><ul><li>first</li><li>second</li></ul>
<table><tr><th>Part</th><th>Mass</th></tr><tr><td>Mast</td><td>2,400 kg</td></tr></table></body></html>"""


def put(folder: Path, name: str, data: bytes) -> Document | Skipped:
    (folder / name).write_bytes(data)
    return extract(folder / name, folder)


def good(folder: Path, name: str, data: bytes) -> Document:
    found = put(folder, name, data)
    assert isinstance(found, Document), found
    return found


def test_markdown(tmp_path: Path) -> None:
    found = good(tmp_path, "a.md", MARKDOWN.encode())
    assert found.text == "Title here\n\nA paragraph with two lines.\n\none\n\ntwo\n\nPart | Mass\nMast | 2,400 kg\n\nNext\n\nThe end."
    assert [found.text[a : a + len(h)] for h, a in found.sections] == ["Title here", "Next"]
    assert found.title == "Title here"


def test_markdown_with_front_matter_and_html(tmp_path: Path) -> None:
    text = "---\ntitle: not this\ndate: 2026-01-01\n---\n\n# Water\n\nH<sub>2</sub>O<br>freezes.\n\n<div>\nIn a größer box.\n</div>\n\n<!-- hidden -->\n"
    assert good(tmp_path, "a.md", text.encode()).text == "Water\n\nH2O freezes.\n\nIn a größer box."
    assert good(tmp_path, "b.md", b"---\n\nA rule: kept.\n\n---\n\nEnd.").text == "A rule: kept.\n\nEnd."


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_html_without_a_declared_encoding(tmp_path: Path, encoding: str) -> None:
    page = "<html><body><p>Prüfung שלום 日本</p></body></html>"
    assert good(tmp_path, "a.html", page.encode(encoding)).text == "Prüfung שלום 日本"
    declared = '<?xml version="1.0" encoding="utf-8"?>' + page
    assert good(tmp_path, "b.html", declared.encode()).text == "Prüfung שלום 日本"


def test_html(tmp_path: Path) -> None:
    found = good(tmp_path, "a.html", HTML.encode())
    assert found.text == "Title\n\nOne bold line.\n\nfirst\n\nsecond\n\nPart | Mass\nMast | 2,400 kg"
    assert "evil" not in found.text and "menu" not in found.text


def test_docx(tmp_path: Path) -> None:
    found = good(tmp_path, "a.docx", docx())
    assert found.text == "Method statement\n\nFirst the mast, then the jib.\n\nPart | Mass\nMast | 2,400 kg\n\nAfter the table."


def test_docx_content_controls_and_tracked_changes(tmp_path: Path) -> None:
    names = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    changed = """<w:p {}><w:r><w:t xml:space="preserve">The limit is </w:t></w:r><w:del w:id="1"><w:r><w:delText>9</w:delText></w:r></w:del>
<w:ins w:id="2"><w:r><w:t>11</w:t></w:r></w:ins>
<w:r><w:t xml:space="preserve"> m/s.</w:t></w:r><w:moveFrom w:id="3"><w:r><w:t>Gone.</w:t></w:r></w:moveFrom></w:p>"""
    control = "<w:sdt {}><w:sdtContent><w:p><w:r><w:t>In a control.</w:t></w:r></w:p></w:sdtContent></w:sdt>"
    document = new_docx()
    document.add_heading("Wind", 1)
    for xml in (control, changed):
        document.element.body.insert(-1, parse_xml(xml.format(names)))
    table = document.add_table(rows=1, cols=3)
    table.cell(0, 0).merge(table.cell(0, 1)).text = "merged"
    table.cell(0, 2).add_table(1, 1).cell(0, 0).text = "inner"
    out = io.BytesIO()
    document.save(out)
    assert good(tmp_path, "a.docx", out.getvalue()).text == "Wind\n\nIn a control.\n\nThe limit is 11 m/s.\n\nmerged | inner"


def test_pdf_pages_paragraphs_tables_headings_and_no_running_lines(tmp_path: Path) -> None:
    found = good(tmp_path, "a.pdf", pdf())
    assert "piles that reach the clay. The quay wall" in found.text, "lines are joined into a paragraph"
    assert "Part | Mass\nMast | 2,400 kg" in found.text
    assert "Confidential" not in found.text and "Page 1" not in found.text
    second = dict(found.pages)[2]
    assert found.text[second:] == "2 Weather\n\nLifting stops at 14 m/s."
    assert [h for h, _ in found.sections] == ["Lifting plan", "2 Weather"]


def test_a_paragraph_over_a_page_break_stays_whole_and_knows_both_pages(tmp_path: Path) -> None:
    style = getSampleStyleSheet()["Normal"]
    rng = random.Random(4)
    words = " ".join("".join(rng.choices("abcdefgh", k=rng.randint(2, 9))) for _ in range(1500))
    SimpleDocTemplate(str(tmp_path / "a.pdf"), pagesize=A4).build(
        [Paragraph("The wall begins here.", style), Spacer(1, 12), Paragraph(f"It goes on {words} to its end.", style)]
    )
    found = extract(tmp_path / "a.pdf", tmp_path)
    assert isinstance(found, Document)
    assert found.text == f"The wall begins here.\n\nIt goes on {words} to its end."
    (_, first), (number, second), *_ = found.pages
    assert (first, number) == (0, 2)
    assert found.text[second - 1] == " " and found.text[second].islower()


def test_paragraphs_that_end_with_their_page_stay_apart(tmp_path: Path) -> None:
    style = getSampleStyleSheet()["Normal"]
    story = [Paragraph("The wall ends.", style), PageBreak(), Paragraph("a) first of the list", style), PageBreak(), Paragraph("Then more", style)]
    SimpleDocTemplate(str(tmp_path / "a.pdf"), pagesize=A4).build(story)
    found = extract(tmp_path / "a.pdf", tmp_path)
    assert isinstance(found, Document)
    assert found.text == "The wall ends.\n\na) first of the list\n\nThen more"


def test_memory_does_not_grow_with_a_pdfs_pages(tmp_path: Path) -> None:
    style = getSampleStyleSheet()
    page = [Paragraph("The quay wall stands on piles that reach the clay. " * 60, style["Normal"]), PageBreak()]
    SimpleDocTemplate(str(tmp_path / "long.pdf"), pagesize=A4).build(page * 20)
    module.preload(".pdf")
    limit = 60_000_000  # over which are 12 such pages that stay in memory; 12 that do not are under half of it
    found = extract(tmp_path / "long.pdf", tmp_path, Limits(memory_bytes=limit))
    assert isinstance(found, Document), found
    assert len(found.pages) == 20


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"One.\r\n\r\nTwo\r\nlines.", "One.\n\nTwo lines."),
        ("\ufeffÜber 👩‍🚒 שלום".encode(), "Über 👩‍🚒 שלום"),
        ("é".encode("cp1252"), "é"),
        ("Grüße 日本".encode("utf-16"), "Grüße 日本"),
        (b"before\x00after and a good deal more text that makes it a text " * 3, None),
    ],
)
def test_plain_text(tmp_path: Path, data: bytes, text: str | None) -> None:
    found = good(tmp_path, "a.txt", data)
    assert "\x00" not in found.text
    assert "\r" not in found.text
    if text is not None:
        assert found.text == text


def test_the_content_decides_the_format_not_the_name(tmp_path: Path) -> None:
    assert good(tmp_path, "a.txt", pdf()).media_type == "application/pdf"
    assert good(tmp_path, "b.pdf", docx()).media_type == DOCX
    assert good(tmp_path, "c.txt", HTML.encode()).media_type == "text/html"


def encrypted() -> bytes:
    writer = PdfWriter()
    writer.append(PdfReader(io.BytesIO(pdf())))
    writer.encrypt("secret", algorithm="AES-256")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def bomb() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b"0" * 600_000_000, compresslevel=1)
    return out.getvalue()


def other_zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a", b"b")
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("empty.txt", b"", "empty"),
        ("blank.md", b" \n\n ", "no_text"),
        ("a.xyz", b"words", "unsupported"),
        ("noise.txt", os.urandom(100) + b"\x00" * 5_000, "not_text"),
        ("photo.txt", random.Random(1).randbytes(20_000), "not_text"),
        ("locked.pdf", encrypted, "encrypted"),
        ("cut.pdf", lambda: pdf()[:700], "damaged"),
        ("cut.docx", lambda: docx()[:5_000], "damaged"),
        ("bomb.docx", bomb, "bomb"),
        ("other.docx", other_zip, "unsupported"),
        ("old.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"x" * 100, "unsupported"),
        ("fake.pdf", b"%PDF-1.7\nnothing", "damaged"),
    ],
)
def test_bad_files_are_recorded_with_a_reason(tmp_path: Path, name: str, data: object, code: str) -> None:
    found = put(tmp_path, name, data() if callable(data) else data)
    assert isinstance(found, Skipped)
    assert (found.source, found.code) == (name, code)
    assert found.detail


def test_too_much_time_memory_or_output_costs_only_that_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_bytes(b"words " * 1_000)
    assert extract(tmp_path / "a.txt", tmp_path, Limits(output_characters=100)).code == "too_large"  # type: ignore[union-attr]
    assert extract(tmp_path / "a.txt", tmp_path, Limits(input_bytes=100)).code == "too_large"  # type: ignore[union-attr]

    def sleep(_: bytes) -> list[object]:
        time.sleep(60)
        return []

    def hoard(_: bytes) -> list[object]:
        return [bytearray(4_000_000_000)]

    def die(_: bytes) -> list[object]:
        os._exit(9)

    for extractor, code in ((sleep, "timeout"), (hoard, "too_large"), (die, "crashed")):
        monkeypatch.setitem(module.EXTRACTORS, "text/plain", extractor)  # type: ignore[arg-type]
        assert extract(tmp_path / "a.txt", tmp_path, Limits(seconds=1.0)).code == code  # type: ignore[union-attr]


def test_assemble_maps_what_it_writes() -> None:
    from quarry_ingestion.blocks import Block

    text, pages, sections = assemble(
        [Block("heading", "A", 1), Block("paragraph", " b\n c ", 1), Block("row", "x | y", 2), Block("row", "z", 2), Block("paragraph", "")]
    )
    assert (text, pages, sections) == ("A\n\nb c\n\nx | y\nz", ((1, 0), (2, 8)), (("A", 0),))


def test_the_readme_names_every_reason_code_and_format() -> None:
    project = Path(__file__).parents[1]
    readme = (project / "README.md").read_text()
    source = "".join((project / "src" / "quarry_ingestion" / f"{m}.py").read_text() for m in MODULES)
    used = set(re.findall(r'(?:Unreadable\(|Skipped\(source, )"([a-z_]+)"', source))
    assert set(re.findall(r"^\| `([a-z_]+)` \|", readme, re.MULTILINE)) == used
    assert set(re.findall(r"^\| ([a-z]+) \|", readme, re.MULTILINE)) - {"time", "none", "memory"} == set(NAMES.values())


def test_presentation(tmp_path: Path) -> None:
    show = pptx.Presentation()
    slide = show.slides.add_slide(show.slide_layouts[5])
    slide.shapes.title.text = "Lift plan"
    slide.shapes.add_textbox(0, 0, 9, 9).text_frame.text = "Two cranes.\nOne mast."
    table = slide.shapes.add_table(2, 2, 0, 0, 9, 9).table
    for cell, text in zip(table.iter_cells(), ("Part", "Mass", "Mast", "2,400 kg"), strict=True):
        cell.text = text
    slide.notes_slide.notes_text_frame.text = "Ask Anna."
    second = show.slides.add_slide(show.slide_layouts[5])
    second.shapes.add_group_shape().shapes.add_textbox(0, 0, 9, 9).text_frame.text = "In a group."
    second.shapes.title.text = "Weather"
    found = good(tmp_path, "a.pptx", saved(show))
    assert found.text == "Lift plan\n\nTwo cranes.\n\nOne mast.\n\nPart | Mass\nMast | 2,400 kg\n\nAsk Anna.\n\nWeather\n\nIn a group."
    assert [number for number, _ in found.pages] == [1, 2]
    assert (found.title, [h for h, _ in found.sections]) == ("Lift plan", ["Lift plan", "Weather"])


def test_workbook(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "Loads"
    for row in ([None, "Part", "Share", "Checked"], [None, "Mast", 0.25, datetime(2026, 2, 3)], [], [None, "Total", None, True]):
        sheet.append(row)
    sheet["C2"].number_format = "0%"
    book.create_sheet("Hidden").append(["secret"])
    book["Hidden"].sheet_state = "hidden"
    book.create_sheet("Empty")
    found = good(tmp_path, "lifts.xlsx", saved(book))
    assert found.text == "Loads\n\nPart | Share | Checked\nMast | 25% | 2026-02-03\n\nTotal | TRUE"
    assert (found.title, found.sections, found.metadata) == ("lifts", (("Loads", 0),), {"format": "xlsx"})


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_separated_values(tmp_path: Path, separator: str) -> None:
    rows = [["Part", "Mass", "Note"], ["Mast", "2", f'"a{separator} ""b"""'], ["", "", ""], ["Jib", "", "x"]]
    found = good(tmp_path, "a.csv", "\r\n".join(separator.join(row) for row in rows).encode())
    assert [line.replace(f"a{separator}", "a") for line in found.text.splitlines()] == ["Part | Mass | Note", 'Mast | 2 | a "b"', "", "Jib | x"]


def test_mail(tmp_path: Path) -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "Anna <a@b.example>", "c@d.example", "Kran für Müller"
    message["Date"] = "Tue, 03 Feb 2026 10:00:00 +0000"
    message.set_content("Hello,\n\nthe crane\ncomes on Monday.\n\nAnna\n")
    message.add_alternative("<p>the same in HTML</p>", subtype="html")
    message.add_attachment(b"not read", maintype="application", subtype="pdf", filename="plan.pdf")
    found = good(tmp_path, "a.eml", message.as_bytes())
    lines = "From: Anna <a@b.example>\nTo: c@d.example\nDate: Tue, 03 Feb 2026 10:00:00 +0000\nSubject: Kran für Müller"
    assert found.text == f"Kran für Müller\n\n{lines}\n\nHello,\n\nthe crane comes on Monday.\n\nAnna\n\nAttachments: plan.pdf"
    assert found.title == "Kran für Müller"
    page = EmailMessage()
    page["From"] = "a@b.example"
    page.set_content("<p>Only <b>HTML</b>.</p>", subtype="html")
    assert good(tmp_path, "b.eml", page.as_bytes()).text.endswith("Only HTML.")


def test_bytes_are_read_like_files() -> None:
    found = extract_bytes(MARKDOWN.encode(), "team/a.md")
    assert isinstance(found, Document) and (found.document_id, found.title) == ("team/a.md", "Title here")
    assert extract_bytes(b"", "a.md") == Skipped("a.md", "empty", "the file is empty")


def saved(document: Any) -> bytes:
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()
