"""Bytes to text, and what is no text."""

import re

from .blocks import Unreadable

_CONTROLS = [chr(i) for i in range(32) if chr(i) not in "\t\n\v\f\r\x1b"]  # hardly ever in text, a tenth of compressed bytes
_MARKS = [  # the longer first: UTF-32's begins with UTF-16's
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
]


def text_of(data: bytes) -> str:
    """Decode UTF-8, UTF-16 or UTF-32 with a mark, UTF-16 without one if it is mostly ASCII; what is not UTF-8 at all as Windows-1252.

    Raises:
        Unreadable: it is not text.
    """
    text = unicode_of(data)
    return refuse_binary(data.decode("cp1252", errors="replace") if text is None else text)


def unicode_of(data: bytes) -> str | None:
    """Decode what is one of the Unicode encodings; none if it is not.

    A few bytes that are wrong do not make UTF-8 another encoding: letters outside ASCII hardly ever look like UTF-8 by accident.
    """
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), None) or _unmarked_utf16(data)
    if encoding:
        return data.decode(encoding, errors="replace")
    text = data.decode("utf-8-sig", errors="replace")
    wrong = len(re.findall("\ufffd+", text))
    right = sum(ord(c) > 127 and c != "\ufffd" for c in text) if wrong else 0
    return text if right >= wrong else None


def refuse_binary(text: str) -> str:
    """The text as it is.

    Raises:
        Unreadable: control characters say that it is none.
    """
    if sum(map(text.count, _CONTROLS)) > max(8, len(text) / 100):
        raise Unreadable("not_text", "the file is binary, not text")
    return text


def _unmarked_utf16(data: bytes) -> str | None:
    """Latin letters in UTF-16 have a zero as every other byte."""
    head = data[: min(4096, len(data) // 2 * 2)]
    half = len(head) // 2
    even, odd = head[::2].count(0), head[1::2].count(0)
    if odd > 0.7 * half and even < 0.05 * half:
        return "utf-16-le"
    return "utf-16-be" if even > 0.7 * half and odd < 0.05 * half else None
