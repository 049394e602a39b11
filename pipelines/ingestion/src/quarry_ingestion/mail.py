"""Mail messages (RFC 5322, MIME): bytes to blocks."""

from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from .blocks import Block, clean
from .decode import refuse_binary, text_of
from .page import html
from .text import letter

_HEADERS = ("From", "To", "Cc", "Date", "Subject")


def eml(data: bytes) -> list[Block]:
    """The subject as heading, the headers that say who, when and what, the text, and the names of attachments (which are not read)."""
    message = message_from_bytes(data, policy=policy.default)
    headers = [(name, _header(message, name)) for name in _HEADERS]
    blocks = [Block("heading", dict(headers)["Subject"])]
    blocks += [Block("row", f"{name}: {value}") for name, value in headers if value]
    names: list[str] = []
    blocks += _body(message, names)
    if names:
        blocks.append(Block("paragraph", "Attachments: " + ", ".join(names)))
    return blocks


def _header(message: EmailMessage, name: str) -> str:
    """A header decoded, or as it stands where the library cannot make sense of it."""
    raw = next((str(value) for key, value in message.raw_items() if key.lower() == name.lower()), "")
    if not raw.isascii():  # UTF-8 without an encoding (RFC 6532)
        return clean(raw.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
    try:
        return clean(str(message[name] or ""))
    except (ValueError, IndexError, AttributeError, TypeError, LookupError, RecursionError):  # of broken addresses and dates
        return clean(raw)


def _body(part: Any, names: list[str]) -> Iterator[Block]:
    """The texts of a part. Of alternatives the plain one, unless it is empty. Attachments add to `names`."""
    kind = part.get_content_type()
    if part.get_content_disposition() == "attachment" or part.get_filename() or kind == "message/rfc822":
        names.append(clean(part.get_filename() or "") or kind)
    elif kind == "multipart/alternative" and part.is_multipart():
        yield from _alternative(part, names)
    elif part.is_multipart():
        for child in part.iter_parts():
            yield from _body(child, names)
    elif kind in ("text/plain", "text/html") or kind.startswith("multipart/"):  # one without its boundary is text
        yield from _text(part, kind)


def _alternative(part: Any, names: list[str]) -> Iterator[Block]:
    children = sorted(part.iter_parts(), key=lambda child: child.get_content_type() != "text/plain")
    for child in children:
        blocks = list(_body(child, names))
        if any(clean(block.text) for block in blocks):
            yield from blocks
            return


def _text(part: Any, kind: str) -> list[Block]:
    raw = part.get_payload(decode=True) or b""
    try:
        text = refuse_binary(raw.decode(part.get_content_charset() or "utf-8"))
    except (LookupError, UnicodeDecodeError):
        if kind == "text/html":
            return html(raw)
        text = text_of(raw)
    return html(text.encode("utf-8", "replace")) if kind == "text/html" else letter(text)
