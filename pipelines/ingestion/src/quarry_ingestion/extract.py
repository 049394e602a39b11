"""A file to a Document, in a child process with limits: whatever it is, it costs at most that file."""

import gc
import hashlib
import logging
import multiprocessing
import os
import resource
import stat
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from .blocks import Document, Unreadable, assemble
from .formats import CSV, EXTRACTORS, NAMES
from .kinds import media_type
from .package import XLSX
from .sources import readable

VERSION = 2  # raised whenever the same bytes give another text
# What the extractors import, by the suffixes their files mostly have, so that reading text waits for no PDF library; of any other suffix, all.
_MARKUP = ("bs4", "lxml.etree")
_PARSERS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys((".txt", ".text", ".csv", ".tsv"), ()),
    **dict.fromkeys((".md", ".markdown"), ("markdown_it", *_MARKUP)),
    **dict.fromkeys((".html", ".htm", ".xhtml", ".eml"), _MARKUP),
    ".pdf": ("pdfplumber",),
    ".docx": ("docx",),
    ".pptx": ("pptx",),
    ".xlsx": ("openpyxl",),
}
_ALL = tuple(dict.fromkeys(parser for parsers in _PARSERS.values() for parser in parsers))


@dataclass(frozen=True)
class Limits:
    """What one document may cost."""

    seconds: float = 1200.0  # a PDF of close print takes about 0.1 s a page, and more where others are at work
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


def extract(path: Path, root: Path, limits: Limits | None = None) -> Document | Skipped:
    """Read one file under `root`. Never raises for what is in the file."""
    limits = limits or Limits()
    source = readable(path.relative_to(root).as_posix())
    try:
        with _regular_file(path) as file:
            if os.fstat(file.fileno()).st_size > limits.input_bytes:
                return Skipped(source, "too_large", f"over {limits.input_bytes} bytes")
            return _in_child(lambda: file.read(limits.input_bytes + 1), source, limits)
    except OSError as error:
        return Skipped(source, "unreadable", error.strerror or "cannot be read")


def extract_bytes(data: bytes, source: str, limits: Limits | None = None) -> Document | Skipped:
    """Read bytes that came from elsewhere; `source` becomes the document's id, and its ending tells text formats apart."""
    return _in_child(lambda: data, source, limits or Limits())


def _regular_file(path: Path) -> BinaryIO:
    """Opened. A pipe or device could go on for ever, a link could lead out of the folder.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(0, "not a regular file")
    return os.fdopen(handle, "rb")


def preload(suffix: str = "") -> None:
    """Import the parsers of files whose names end so (in lower case), or all, so that the forked children need not: a misnamed file's child does."""
    for parser in _PARSERS.get(suffix, _ALL):
        import_module(parser)


def _in_child(load: Callable[[], bytes], source: str, limits: Limits) -> Document | Skipped:
    """Fork, load, limit, extract, and read the result; a child that overruns its time is killed. The bytes are the child's alone."""
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(sending, load, source, limits), daemon=True)
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


def _child(sending: Connection, load: Callable[[], bytes], source: str, limits: Limits) -> None:
    gc.freeze()  # else each collection of garbage here looks through all that the parent has, and by that copies it
    try:
        data = load()
    except OSError as error:
        sending.send(Skipped(source, "unreadable", error.strerror or "cannot be read"))
        return
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if Path("/proc/self/statm").exists() else 0
    resource.setrlimit(resource.RLIMIT_AS, (used + limits.memory_bytes, used + limits.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    logging.disable()  # what parsers say of a file may quote it
    warnings.simplefilter("ignore")
    try:
        sending.send(read(data, source, limits))
    except Unreadable as error:
        sending.send(Skipped(source, error.code, error.detail))
    except MemoryError:
        sending.send(Skipped(source, "too_large", f"needs more than {limits.memory_bytes} bytes of memory"))
    except RecursionError:
        sending.send(Skipped(source, "damaged", "the file is nested too deeply"))
    except Exception as error:  # a parser's own errors may quote the document: only their kind is told
        sending.send(Skipped(source, "damaged", f"the file cannot be read as what it is ({type(error).__name__})"))


def read(data: bytes, source: str, limits: Limits) -> Document:
    """Extract in this process.

    Raises:
        Unreadable: with the reason.
    """
    if not data:
        raise Unreadable("empty", "the file is empty")
    if len(data) > limits.input_bytes:
        raise Unreadable("too_large", f"over {limits.input_bytes} bytes")
    kind = media_type(data, source, limits.unzipped_bytes)
    text, pages, sections = assemble(EXTRACTORS[kind](data))
    if not text:
        raise Unreadable("no_text", "there is no text in it")
    if len(text) > limits.output_characters:
        raise Unreadable("too_large", f"gives more than {limits.output_characters} characters of text")
    # A sheet's name ("Sheet1") says less than the file's.
    title = sections[0][0] if sections and kind not in (XLSX, CSV) else PurePosixPath(source).stem
    return Document(source, hashlib.sha256(data).hexdigest(), title, source, kind, text, pages, sections, {"format": NAMES[kind]})
