"""Which format a file is: by its content; its name only tells the text formats apart."""

import re
from pathlib import PurePosixPath

from .blocks import Unreadable
from .decode import text_of
from .formats import CSV, EML, HTML, MARKDOWN, PDF, TEXT
from .package import office_type

_BY_NAME = {
    ".txt": TEXT,
    ".text": TEXT,
    ".md": MARKDOWN,
    ".markdown": MARKDOWN,
    ".html": HTML,
    ".htm": HTML,
    ".xhtml": HTML,
    ".csv": CSV,
    ".tsv": CSV,
    ".eml": EML,
}
_BINARY_NAMES = {".pdf", ".docx", ".pptx", ".xlsx", ".xlsm", ".pptm"}
# First bytes of what is often found beside documents (https://en.wikipedia.org/wiki/List_of_file_signatures).
_OTHERS = [
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"II*\x00", "a TIFF image"),
    (b"MM\x00*", "a TIFF image"),
    (b"RIFF", "an image, sound or film"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"\xca\xfe\xba\xbe", "a program"),
    (b"SQLite format 3\x00", "a database"),
    (b"PAR1", "a Parquet table"),
    (b"{\\rtf", "an RTF file: save it as .docx"),
    (b"%!PS", "a PostScript file: save it as .pdf"),
    (b"ID3", "sound"),
    (b"OggS", "sound"),
    (b"fLaC", "sound"),
]
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_READ = "md, txt, html, csv, eml, pdf, docx, pptx, xlsx"
_HEADER = re.compile(r"^([!-9;-~]+):", re.MULTILINE)


def media_type(data: bytes, name: str, unzipped_bytes: int) -> str:
    """The media type.

    Raises:
        Unreadable: `unsupported`, `mislabelled`, or what is wrong with a container.
    """
    if data[:1024].lstrip().startswith(b"%PDF-"):
        return PDF
    if data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return office_type(data, unzipped_bytes)
    if data.startswith(_OLE):
        raise _old_office(data)
    _refuse_others(data)
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in _BINARY_NAMES:
        raise _mislabelled(data, suffix)
    return _text_type(data, suffix)


def _old_office(data: bytes) -> Unreadable:
    if "EncryptedPackage".encode("utf-16-le") in data:
        return Unreadable("encrypted", "the office file needs a password")
    return Unreadable("unsupported", "an old-format office file (.doc, .xls, .ppt, .msg): save it as .docx, .xlsx, .pptx or .eml")


def _refuse_others(data: bytes) -> None:
    found = next((what for mark, what in _OTHERS if data.startswith(mark)), None)
    if found in ("a program", "an image, sound or film", "sound", "a bzip2 archive") and b"\x00" not in data[:4096]:
        found = None  # "MZ", "RIFF", "ID3" and "BZh" can begin a text
    if data[257:262] == b"ustar":
        found = "a tar archive"
    if data[4:8] == b"ftyp":
        found = "a film or image"
    if found:
        raise Unreadable("unsupported", f"{found}, not a format Quarry reads: {_READ}")


def _mislabelled(data: bytes, suffix: str) -> Unreadable:
    """Text under the name of a binary format is most often a server's error or login page: not the document's words."""
    try:
        text_of(data[:65536])
    except Unreadable:
        return Unreadable("damaged", f"the name says {suffix}, but its first bytes are missing or overwritten")
    return Unreadable("mislabelled", f"the name says {suffix}, the content is text (an error page saved in its place?): rename it if it is to be read")


def _text_type(data: bytes, suffix: str) -> str:
    head = _head(data)
    if re.match(r"(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*(<!doctype html|<html|<head|<body)", head, re.IGNORECASE | re.DOTALL):
        return HTML
    by_name = _BY_NAME.get(suffix)
    if by_name == EML and not re.match(rb"\s*[!-9;-~]+:", data):
        raise Unreadable("damaged", "the name says .eml, but it does not begin with the headers of a message")
    if by_name in (TEXT, None) and _is_message(head):
        return EML
    if by_name is None:
        raise Unreadable("unsupported", f"not a format Quarry reads: {_READ}")
    return by_name


def _head(data: bytes) -> str:
    try:
        return text_of(data[:4096]).lstrip()
    except Unreadable:
        return ""


def _is_message(head: str) -> bool:
    """Whether a file without the name of a message has the headers that a mail server or program writes."""
    names = {n.lower() for n in _HEADER.findall(re.split(r"\r?\n\r?\n", head, maxsplit=1)[0])}
    return bool(_HEADER.match(head)) and {"from", "date"} <= names and bool({"message-id", "mime-version", "received"} & names)
