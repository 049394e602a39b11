"""What an Office Open XML container must be before any library opens it: no bomb, no password, no document type definition."""

import io
import zipfile
import zlib
from itertools import pairwise
from xml.parsers import expat

from .blocks import Unreadable

_OFFICE = "application/vnd.openxmlformats-officedocument."
DOCX, PPTX, XLSX = _OFFICE + "wordprocessingml.document", _OFFICE + "presentationml.presentation", _OFFICE + "spreadsheetml.sheet"
_MAIN = {  # content type of the main part (ECMA-376 part 1, 15.2) -> media type of the file
    "wordprocessingml.document.main+xml": DOCX,
    "presentationml.presentation.main+xml": PPTX,
    "ms-powerpoint.presentation.macroEnabled.main+xml": PPTX,
    "spreadsheetml.sheet.main+xml": XLSX,
    "ms-excel.sheet.macroEnabled.main+xml": XLSX,
}
_STRICT = "http://purl.oclc.org/ooxml/"
_TYPES_BYTES = 10_000_000
_ENTRIES = 20_000


def office_type(data: bytes, unzipped_bytes: int) -> str:
    """The media type of a .docx, .pptx or .xlsx.

    Raises:
        Unreadable: `damaged`, `encrypted`, `bomb`, or `unsupported`: another kind of zip container.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_size(archive.infolist(), unzipped_bytes)
            kind = _main_type(archive)
            for entry in archive.infolist():
                if entry.filename.endswith((".xml", ".rels")):
                    _check_prolog(archive, entry)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, OSError, ValueError):
        raise Unreadable("damaged", "the file is a damaged or truncated zip container") from None
    return kind


def _check_size(entries: list[zipfile.ZipInfo], unzipped_bytes: int) -> None:
    """Refuse by the directory alone. A directory that lies is found later: no more is unpacked than it says."""
    if any(entry.flag_bits & 0x1 for entry in entries):
        raise Unreadable("encrypted", "the zip container needs a password")
    if len(entries) > _ENTRIES or sum(entry.file_size for entry in entries) > unzipped_bytes:
        raise Unreadable("bomb", f"unpacks to more than {unzipped_bytes} bytes or {_ENTRIES} parts")
    placed = sorted((entry.header_offset, entry.header_offset + entry.compress_size) for entry in entries)
    if any(end > start for (_, end), (start, _) in pairwise(placed)):
        raise Unreadable("bomb", "parts of the zip container overlap")


def _main_type(archive: zipfile.ZipFile) -> str:
    names = set(archive.namelist())
    if "[Content_Types].xml" not in names:
        raise Unreadable("unsupported", "a zip container that is not a .docx, .pptx or .xlsx")
    with archive.open("[Content_Types].xml") as file:
        types = file.read(_TYPES_BYTES).decode("utf-8", "replace")
    for mark, kind in _MAIN.items():
        if mark in types:
            return kind
    raise Unreadable("unsupported", "an office file of another kind (template, macros, binary workbook): save it as .docx, .pptx or .xlsx")


def _check_prolog(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    """Read a part up to its root element: a document type definition is forbidden there (ECMA-376 part 2, 8.2.5) and where entities come from."""
    parser = expat.ParserCreate(namespace_separator=" ")
    root: list[str] = []

    def refuse(*_: object) -> None:
        raise Unreadable("bomb", "a part of the file declares XML entities, which office files must not")

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = lambda name, _: root.append(name)
    with archive.open(entry) as part:
        try:
            while not root and (piece := part.read(4096)):
                parser.Parse(piece)
        except expat.ExpatError:
            return  # what is after the root, or not XML at all, is for the format's own library to refuse
    if root and root[0].startswith(_STRICT):
        raise Unreadable("unsupported", "a strict Open XML file: save it as an ordinary .docx, .pptx or .xlsx")
