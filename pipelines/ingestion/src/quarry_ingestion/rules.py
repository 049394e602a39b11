"""Who may read what a folder or prefix holds: `.quarry.json` files, {"principals": {"glob": ["group:a", ...], ...}}.

A rule's glob is matched against the path from its file's folder (`*` matches `/` too). The nearest folder with a match wins, and in it the last match.
"""

import json
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

from quarry_contract.index_store import EVERYONE
from quarry_contract.messages import MAX_PRINCIPAL_CHARS, MAX_PRINCIPALS

RULES = ".quarry.json"
FOLDERS_REMEMBERED = 4096

Rule = tuple[str, tuple[str, ...]]


class RulesError(Exception):
    """A `.quarry.json` is not as it must be; the message says what is wrong."""


def checked(principals: Any) -> tuple[str, ...]:
    """Sorted, each once.

    Raises:
        RulesError: not a list of 1,000 texts of 1 to 256 characters at most.
    """
    if not isinstance(principals, list) or not all(isinstance(p, str) and 0 < len(p) <= MAX_PRINCIPAL_CHARS for p in principals):
        raise RulesError(f"principals must be a list of texts of 1 to {MAX_PRINCIPAL_CHARS} characters")
    if len(principals) > MAX_PRINCIPALS:
        raise RulesError(f"more than {MAX_PRINCIPALS} principals")
    return tuple(sorted(set(principals)))


def parse(data: bytes) -> tuple[Rule, ...]:
    """The rules of one file.

    Raises:
        RulesError: it is not such a file.
    """
    try:
        found = json.loads(data)
        rules = found["principals"].items()
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RulesError('not {"principals": {"glob": ["group:a", ...]}}') from None
    return tuple((glob, checked(principals)) for glob, principals in rules)


class Rules:
    """The rules of one source. `read` gives a folder's `.quarry.json` ("" = the root's), or None where there is none."""

    def __init__(self, read: Callable[[str], bytes | None]) -> None:
        self._of = lru_cache(FOLDERS_REMEMBERED)(lambda folder: _rules(read, folder))

    def principals(self, path: str) -> tuple[str, ...]:
        """Of the file at this path from the source's root; everyone, where no rule matches.

        Raises:
            RulesError: a file that has a say in it is not as it must be.
        """
        for folder in _folders(path):
            inner = path[len(folder) + 1 :] if folder else path
            found = [principals for glob, principals in self._of(folder) if fnmatchcase(inner, glob)]
            if found:
                return found[-1]
        return (EVERYONE,)


def _rules(read: Callable[[str], bytes | None], folder: str) -> tuple[Rule, ...]:
    data = read(folder)
    try:
        return () if data is None else parse(data)
    except RulesError as error:
        raise RulesError(f"{folder}/{RULES}: {error}".lstrip("/")) from None


def _folders(path: str) -> Iterator[str]:
    """From the nearest to the root."""
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path
    yield ""
