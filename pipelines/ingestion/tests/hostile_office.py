"""Office files and other zip containers."""

import io
import struct
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress

import docx
import msoffcrypto.format.ooxml
import openpyxl
import pptx

from .hostile_text import Made

_MAIN = {".docx": "word/document.xml", ".pptx": "ppt/presentation.xml", ".xlsx": "xl/worksheets/sheet1.xml"}
_BOMB = b'<?xml version="1.0"?>\n<!DOCTYPE x [<!ENTITY a "%s">%s]>\n' % (
    b"ha" * 50,
    b"".join(b'<!ENTITY a%d "%s">' % (i, (b"&a%d;" % (i - 1) if i else b"&a;") * 10) for i in range(9)),
)


def made(secret: str) -> Made:
    """name -> (bytes, reason code or "=format")."""
    good = {".docx": _docx(secret), ".pptx": _pptx(secret), ".xlsx": _xlsx(secret)}
    each: Made = {}
    for ending, data in good.items():
        main = _MAIN[ending]
        each[f"password{ending}"] = (_locked(data), "encrypted")
        for name, size in (("start", 30), ("half", len(data) // 2), ("end", len(data) - 10)):
            each[f"cut-{name}{ending}"] = (data[:size], "damaged")
        each[f"entities{ending}"] = (_with(data, main, lambda xml: _BOMB + _root(xml)), "bomb")
        each[f"bomb{ending}"] = (_with(data, main, lambda xml: xml + b" " * 6_000_000), "bomb")
        each[f"no-main{ending}"] = (_without(data, main), "no_text" if ending == ".xlsx" else "damaged")
        each[f"bad-xml{ending}"] = (_with(data, main, lambda xml: xml[: len(xml) // 2]), "damaged")
        each[f"deep{ending}"] = (_with(data, main, _deep), "=xlsx" if ending == ".xlsx" else "damaged")
        each[f"bad-sum{ending}"] = (_bad_sum(data, main), "damaged")
    return {**each, **_others(good), **_workbooks(good[".xlsx"]), **_archives(secret)}


def _others(good: Mapping[str, bytes]) -> Made:
    """Files of one office format that are, or are named, something else."""
    word = good[".docx"]
    outside = b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
    macros = lambda xml: xml.replace(  # noqa: E731
        b"openxmlformats-officedocument.wordprocessingml.document.main", b"ms-word.document.macroEnabled.main"
    )
    strict = lambda xml: xml.replace(b"http://schemas.openxmlformats.org/wordprocessingml/2006/main", b"http://purl.oclc.org/ooxml/wordprocessingml/main")  # noqa: E731
    return {
        "docx.pdf": (word, "=docx"),
        "xlsx.docx": (good[".xlsx"], "=xlsx"),
        "pptx.txt": (good[".pptx"], "=pptx"),
        "outside.docx": (_with(word, "word/document.xml", lambda xml: outside + _root(xml)), "bomb"),
        "utf-16-entities.docx": (_with(word, "word/styles.xml", _wide_entities), "bomb"),
        "relations-entities.pptx": (_with(good[".pptx"], "ppt/_rels/presentation.xml.rels", lambda xml: _BOMB + _root(xml)), "bomb"),
        "macros.docm": (_with(word, "[Content_Types].xml", macros), "unsupported"),
        "strict.docx": (_with(word, "word/document.xml", strict), "unsupported"),
        "nothing-in-it.docx": (_saved(docx.Document()), "no_text"),
        "nothing-in-it.pptx": (_saved(pptx.Presentation()), "no_text"),
        "nothing-in-it.xlsx": (_saved(openpyxl.Workbook()), "no_text"),
    }


def _workbooks(data: bytes) -> Made:
    sheet = "xl/worksheets/sheet1.xml"
    head = b'<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><dimension ref="A1:XFD1048576"/><sheetData>'
    wide = b"".join(b'<row r="%d"><c r="XFD%d"><v>1</v></c></row>' % (i, i) for i in range(1, 400))
    return {
        "many-cells.xlsx": (_with(data, sheet, lambda _: head + wide + b"</sheetData></worksheet>"), "too_large"),
        "far-row.xlsx": (_with(data, sheet, lambda _: head + b'<row r="999999999"><c r="A999999999"><v>1</v></c></row></sheetData></worksheet>'), "too_large"),
        "dimension-lie.xlsx": (_with(data, sheet, lambda _: head + b'<row r="1"><c r="A1"><v>7</v></c></row></sheetData></worksheet>'), "=xlsx"),
        "string-index.xlsx": (_with(data, sheet, lambda _: head + b'<row r="1"><c r="A1" t="s"><v>99</v></c></row></sheetData></worksheet>'), "damaged"),
    }


def _archives(secret: str) -> Made:
    text = _zip({f"{secret}.txt": b"words"})
    nested = text
    for _ in range(4):
        nested = _zip({f"{i}.zip": nested for i in range(4)})
    bomb = _zip({f"word/{i}.xml": bytes(1_000_000) for i in range(8)} | {"[Content_Types].xml": b""})
    return {
        "plain.zip": (text, "unsupported"),
        "zip.docx": (text, "unsupported"),
        "no-entries.docx": (_zip({}), "unsupported"),
        "open-document.odt": (_zip({"mimetype": b"application/vnd.oasis.opendocument.text"}), "unsupported"),
        "nested.zip": (nested, "unsupported"),
        "flat-bomb.docx": (bomb, "bomb"),
        "overlap.docx": (_overlapping(), "bomb"),
        "many-parts.docx": (_zip({f"{i}": b"" for i in range(21_000)}), "bomb"),
        "password.zip": (_flagged(text), "encrypted"),
        "size-lie.docx": (_lying(), "damaged"),
        "method.docx": (_method(), "damaged"),
        "directory-only.docx": (text[text.index(b"PK\x01\x02") :].replace(b"PK\x01\x02", b"PK\x03\x04", 1), "damaged"),
    }


def _saved(document: object) -> bytes:
    out = io.BytesIO()
    document.save(out)  # type: ignore[attr-defined]
    return out.getvalue()


def _docx(secret: str) -> bytes:
    document = docx.Document()
    document.add_paragraph(f"The {secret} sings.")
    return _saved(document)


def _pptx(secret: str) -> bytes:
    show = pptx.Presentation()
    show.slides.add_slide(show.slide_layouts[5]).shapes.title.text = f"The {secret} sings"
    return _saved(show)


def _xlsx(secret: str) -> bytes:
    book = openpyxl.Workbook()
    book.active.append(["Bird", secret])
    return _saved(book)


def _locked(data: bytes) -> bytes:
    out = io.BytesIO()
    msoffcrypto.format.ooxml.OOXMLFile(io.BytesIO(data)).encrypt("secret", out)
    return out.getvalue()


def _zip(parts: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return out.getvalue()


def _parts(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _with(data: bytes, part: str, change: Callable[[bytes], bytes]) -> bytes:
    parts = _parts(data)
    return _zip(parts | {part: change(parts[part])})


def _without(data: bytes, part: str) -> bytes:
    return _zip({name: content for name, content in _parts(data).items() if name != part})


def _root(xml: bytes) -> bytes:
    """Without the XML declaration."""
    return xml[xml.index(b"?>") + 2 :] if xml.startswith(b"<?xml") else xml


def _wide_entities(xml: bytes) -> bytes:
    return (_BOMB + _root(xml)).decode().replace('"1.0"', '"1.0" encoding="utf-16"').encode("utf-16")


def _deep(xml: bytes) -> bytes:
    """The root element with very many elements within each other as its first child."""
    at = xml.index(b">", xml.index(b"<", 5 if xml.startswith(b"<?xml") else 0)) + 1
    return xml[:at] + b"<x>" * 20_000 + b"</x>" * 20_000 + xml[at:]


def _bad_sum(data: bytes, part: str) -> bytes:
    """The checksum of one part is wrong, in the directory and before the part."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        right = struct.pack("<L", archive.getinfo(part).CRC)
    return data.replace(right, b"\x01\x02\x03\x04")


def _overlapping() -> bytes:
    """Two entries of the directory give the same bytes (as in https://www.bamsoftware.com/hacks/zipbomb/)."""
    one = bytearray(_zip({"[Content_Types].xml": b"a" * 1000, "b.xml": b"a" * 1000}))
    second = one.rindex(b"PK\x01\x02")
    one[second + 42 : second + 46] = struct.pack("<L", 0)
    return bytes(one)


def _flagged(data: bytes) -> bytes:
    """Marked as encrypted, before the part and in the directory."""
    changed = bytearray(data)
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        with suppress(ValueError):
            changed[changed.index(mark) + flags] |= 1
    return bytes(changed)


def _lying() -> bytes:
    """The directory says 10 bytes, the part unpacks to four million."""
    data = bytearray(_zip({"[Content_Types].xml": bytes(4_000_000)}))
    for mark, size in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = data.index(mark) + size
        data[at : at + 4] = struct.pack("<L", 10)
    return bytes(data)


def _method() -> bytes:
    """A compression method that nobody knows."""
    data = bytearray(_zip({"[Content_Types].xml": b"a" * 100}))
    for mark, method in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        at = data.index(mark) + method
        data[at : at + 2] = struct.pack("<H", 77)
    return bytes(data)
