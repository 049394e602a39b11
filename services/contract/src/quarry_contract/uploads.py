"""What travels with an upload, from client to gateway to ingestion: the document's id in the path, principals and submitter in headers.

HTTP headers hold ASCII: names in them are percent-encoded as in RFC 3986, so a comma inside a name is %2C.
"""

import re
from collections.abc import Iterable
from urllib.parse import quote, unquote

from .errors import invalid
from .messages import MAX_PRINCIPAL_CHARS, MAX_PRINCIPALS

HEADER_PRINCIPALS = "X-Quarry-Principals"  # who may read the document: comma separated, each percent-encoded; "*" = everyone
HEADER_SUBMITTER = "X-Quarry-Submitter"  # gateway to ingestion only: whose job it is, percent-encoded; absent = nobody in particular
MAX_DOCUMENT_ID_CHARS = 512
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\ufffd\ud800-\udfff]")  # U+FFFD: what was sent was not UTF-8
_READABLE = "*:@+/=._-~"


def check_document_id(document_id: str) -> str:
    """The id, when a document may be uploaded under it.

    Raises:
        QuarryError: `invalid_request`, it is empty, too long, no proper text, or has segments that proxies take away.
    """
    if not 1 <= len(document_id) <= MAX_DOCUMENT_ID_CHARS:
        raise invalid(f"a document's id must have 1 to {MAX_DOCUMENT_ID_CHARS} characters")
    if _UNSAFE.search(document_id):
        raise invalid("a document's id must be UTF-8 without control characters")
    if any(part in ("", ".", "..") for part in document_id.split("/")):
        raise invalid('a document\'s id must not have empty segments, or "." or ".." as one')
    return document_id


def encode_name(name: str) -> str:
    """One principal or submitter as a header holds it."""
    return quote(name, safe=_READABLE)


def decode_name(text: str, header: str) -> str:
    """The other way.

    Raises:
        QuarryError: `invalid_request`, it is empty, too long, or no percent-encoded UTF-8 without control characters.
    """
    name = unquote(text.strip(" \t"), errors="replace") if text.isascii() else ""
    if not 1 <= len(name) <= MAX_PRINCIPAL_CHARS or _UNSAFE.search(name):
        raise invalid(f"a name in {header} must have 1 to {MAX_PRINCIPAL_CHARS} characters, percent-encoded where they are not ASCII")
    return name


def encode_principals(principals: Iterable[str]) -> str:
    """The header's value; empty = nobody."""
    return ",".join(encode_name(p) for p in principals)


def decode_principals(text: str) -> tuple[str, ...]:
    """The principals a header names, sorted, each once; of an empty header none, so that nobody reads the document.

    Raises:
        QuarryError: `invalid_request`, as decode_name, or they are too many.
    """
    if not text.strip(" \t"):
        return ()
    found = sorted({decode_name(part, HEADER_PRINCIPALS) for part in text.split(",")})
    if len(found) > MAX_PRINCIPALS:
        raise invalid(f"{HEADER_PRINCIPALS} names more than {MAX_PRINCIPALS}")
    return tuple(found)
