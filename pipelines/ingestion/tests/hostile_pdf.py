"""PDF files, most of them written by hand (ISO 32000-1, 7.5)."""

import io
import zlib

from pypdf import PdfReader, PdfWriter
from reportlab.pdfgen.canvas import Canvas

from .hostile_text import Made


def made(secret: str) -> Made:
    """name -> (bytes, reason code or "=format", seconds)."""
    good = _good(secret)
    show = f"BT /F1 12 Tf 72 700 Td ({secret}) Tj ET".encode()
    blank = _raw([*_PAGES, _stream(b"q Q")])
    return {
        "password.pdf": (_locked(good, "secret", "AES-256"), "encrypted"),
        "password-rc4.pdf": (_locked(good, "secret", "RC4-128"), "encrypted"),
        "owner-password.pdf": (_locked(good, "", "AES-256"), "=pdf"),
        "cut-10.pdf": (good[:10], "damaged"),
        "cut-quarter.pdf": (good[: len(good) // 4], "damaged"),
        "cut-half.pdf": (good[: len(good) // 2], "damaged"),
        "cut-end.pdf": (good[:-200], "damaged"),
        "head-only.pdf": (b"%PDF-1.7\n", "damaged"),
        "pdf.txt": (good, "=pdf"),
        "pdf-without-ending": (good, "=pdf"),
        "junk-inside.pdf": (good[:300] + bytes(300) + good[600:], "=pdf"),
        "no-words.pdf": (blank, "no_text"),
        "xref-loop.pdf": (_raw([*_PAGES, _stream(show)], prev=True), "damaged"),
        "page-loop.pdf": (_raw([_PAGES[0], b"<< /Type /Pages /Kids [2 0 R 3 0 R] /Count 2 >>", *_PAGES[2:], _stream(show)]), "=pdf"),
        "count-lie.pdf": (_raw([_PAGES[0], b"<< /Type /Pages /Kids [3 0 R] /Count 1000000000 >>", *_PAGES[2:], _stream(show)]), "=pdf"),
        "many-pages.pdf": (_many(30_000), "timeout", 2.0),
        "deep-arrays.pdf": (_raw([*_PAGES, _stream(show), b"[" * 20_000 + b"]" * 20_000], root_extra=b"/X 6 0 R"), "=pdf"),
        "deep-operands.pdf": (_raw([*_PAGES, _stream(b"[" * 20_000 + show)]), "no_text"),
        "stream-bomb.pdf": (_raw([*_PAGES, _stream(_zeros(400), b"/Filter /FlateDecode")]), "too_large"),
        "form-loop.pdf": (_raw([_PAGES[0], _PAGES[1], _LOOP_PAGE, _PAGES[3], _stream(show + b" /F Do"), _FORM]), "=pdf"),
        "stream-length-lie.pdf": (_raw([*_PAGES, _stream(show, length=10**12)]), "no_text"),
        "outline-loop.pdf": (_raw([*_PAGES, _stream(show), b"<< /First 6 0 R /Next 6 0 R >>"], root_extra=b"/Outlines 6 0 R"), "=pdf"),
    }


_PAGES = [
    b"<< /Type /Catalog /Pages 2 0 R %s >>",
    b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
    b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 5 0 R /Resources << /Font << /F1 4 0 R >> >> >>",
    b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
]
_LOOP_PAGE = _PAGES[2].replace(b"/Font <<", b"/XObject << /F 6 0 R >> /Font <<")
_FORM = b"<< /Type /XObject /Subtype /Form /BBox [0 0 9 9] /Resources << /XObject << /F 6 0 R >> >> /Length 5 >>\nstream\n/F Do\nendstream"


def _good(secret: str) -> bytes:
    out = io.BytesIO()
    canvas = Canvas(out, pageCompression=1)
    for page in range(3):
        canvas.drawString(72, 700, f"Page {page} of the {secret}.")
        canvas.showPage()
    canvas.save()
    return out.getvalue()


def _zeros(megabytes: int) -> bytes:
    packer = zlib.compressobj(1)
    return b"".join(packer.compress(bytes(1_000_000)) for _ in range(megabytes)) + packer.flush()


def _locked(data: bytes, password: str, algorithm: str) -> bytes:
    writer = PdfWriter()
    writer.append(PdfReader(io.BytesIO(data)))
    writer.encrypt(password, "owner", algorithm=algorithm)
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def _stream(data: bytes, extra: bytes = b"", length: int | None = None) -> bytes:
    return b"<< /Length %d %s >>\nstream\n" % (len(data) if length is None else length, extra) + data + b"\nendstream"


def _raw(objects: list[bytes], prev: bool = False, root_extra: bytes = b"") -> bytes:
    """Objects numbered from 1, the first the catalogue; `prev` makes the cross-reference table its own predecessor."""
    out = bytearray(b"%PDF-1.7\n")
    places = []
    for number, content in enumerate([objects[0] % root_extra, *objects[1:]], start=1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1) + b"".join(b"%010d 00000 n \n" % at for at in places)
    loop = b"/Prev %d" % start if prev else b""
    return bytes(out) + b"trailer\n<< /Size %d /Root 1 0 R %s >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, loop, start)


def _many(count: int) -> bytes:
    kids = b" ".join(b"%d 0 R" % (n + 5) for n in range(1, count + 1))
    page = _PAGES[2]
    return _raw([_PAGES[0], b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, count), page, _PAGES[3], _stream(b"q Q"), *[page] * count])
