"""A file to a Document, in a child process with limits: whatever it is, it costs at most that file."""

import hashlib
import io
import multiprocessing
import resource
import zipfile
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from .blocks import Document, assemble
from .formats import EXTRACTORS, Unreadable
from .sources import readable

DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
SUFFIXES = {".md": "text/markdown", ".markdown": "text/markdown", ".html": "text/html", ".htm": "text/html", ".txt": "text/plain"}


@dataclass(frozen=True)
class Limits:
    """What one document may cost."""

    seconds: float = 300.0  # a PDF of close print takes about 0.1 s a page
    memory_bytes: int = 1_500_000_000
    input_bytes: int = 200_000_000
    output_characters: int = 20_000_000
    unzipped_bytes: int = 500_000_000


@dataclass(frozen=True)
class Skipped:
    """A file that gave no document, and why. `code` is stable."""

    source: str
    code: str
    detail: str


def media_type(data: bytes, name: str) -> str:
    """The format, by content first; a name only tells text formats apart.

    Raises:
        Unreadable: none of the formats Quarry reads.
    """
    if data[:1024].lstrip().startswith(b"%PDF-"):
        return "application/pdf"
    if data.startswith(b"PK\x03\x04"):
        return _zipped(data)
    if data.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
        raise Unreadable("encrypted", "an encrypted or old-format office file: save it as an unprotected .docx")
    head = data[:4096].lower().lstrip(b"\xef\xbb\xbf \t\r\n")
    if head.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "text/html"
    found = SUFFIXES.get(Path(name).suffix.lower())
    if found is None:
        raise Unreadable("unsupported", "not a format Quarry reads: md, txt, html, pdf, docx")
    return found


def _zipped(data: bytes) -> str:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if "word/document.xml" in archive.namelist():
                return DOCX
    except zipfile.BadZipFile:
        raise Unreadable("damaged", "the file is a damaged or truncated zip container") from None
    raise Unreadable("unsupported", "a zip container that is not a .docx")


def extract(path: Path, root: Path, limits: Limits | None = None) -> Document | Skipped:
    """Read one file under `root`. Never raises for what is in the file."""
    limits = limits or Limits()
    source = readable(path.relative_to(root).as_posix())
    try:
        size = path.stat().st_size
        if size == 0 or size > limits.input_bytes:
            return Skipped(source, "empty" if size == 0 else "too_large", "the file is empty" if size == 0 else f"over {limits.input_bytes} bytes")
        data = path.read_bytes()
    except OSError as error:
        return Skipped(source, "unreadable", error.strerror or "cannot be read")
    return _in_child(data, source, limits)


def preload() -> None:
    """Import the parsers once, so that the forked children need not."""
    import bs4  # noqa: F401
    import docx  # noqa: F401
    import lxml.etree  # noqa: F401
    import markdown_it  # noqa: F401
    import pdfplumber  # noqa: F401


def _in_child(data: bytes, source: str, limits: Limits) -> Document | Skipped:
    """Fork, limit, extract, and read the result; a child that overruns its time is killed."""
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(sending, data, source, limits), daemon=True)
    child.start()
    sending.close()
    try:
        if receiving.poll(limits.seconds):
            result: Document | Skipped = receiving.recv()
            return result
        return Skipped(source, "timeout", f"took longer than {limits.seconds:g} s")
    except EOFError:
        return Skipped(source, "crashed", "the extractor ran out of memory or crashed")
    finally:
        child.kill()
        child.join()
        receiving.close()


def _child(sending: Connection, data: bytes, source: str, limits: Limits) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if Path("/proc/self/statm").exists() else 0
    resource.setrlimit(resource.RLIMIT_AS, (used + limits.memory_bytes, used + limits.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        sending.send(read(data, source, limits))
    except Unreadable as error:
        sending.send(Skipped(source, error.code, error.detail))
    except MemoryError:
        sending.send(Skipped(source, "too_large", f"needs more than {limits.memory_bytes} bytes of memory"))
    except Exception as error:  # a parser's own errors may quote the document: only their kind is told
        sending.send(Skipped(source, "damaged", f"the file cannot be read as what it is ({type(error).__name__})"))


def read(data: bytes, source: str, limits: Limits) -> Document:
    """Extract in this process.

    Raises:
        Unreadable: with the reason.
    """
    kind = media_type(data, source)
    if kind == DOCX:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > limits.unzipped_bytes:
                raise Unreadable("bomb", f"unpacks to more than {limits.unzipped_bytes} bytes")
    text, pages, sections = assemble(EXTRACTORS[kind](data))
    if not text:
        raise Unreadable("no_text", "there is no text in it")
    if len(text) > limits.output_characters:
        raise Unreadable("too_large", f"gives more than {limits.output_characters} characters of text")
    title = sections[0][0] if sections else Path(source).stem
    return Document(source, hashlib.sha256(data).hexdigest(), title, source, kind, text, pages, sections, {"format": Path(source).suffix.lstrip(".").lower()})
