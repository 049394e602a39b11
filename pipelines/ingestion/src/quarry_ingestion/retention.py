"""How long documents are kept: `retention.json` in QUARRY_HOME, or the file that QUARRY_RETENTION_FILE names: rules for sources and parts of them.

[{"source": "s3://site/*", "documents": "minutes/*", "days": 365, "since": "modified"}, ...]: the last rule that matches a document decides;
`days` null = for ever, as without a rule. Globs are matched as in `.quarry.json` (`*` matches `/` too); both are `*` when they are left out.
"""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from .ledger import Entry
from .sources import SourceError
from .writer import Writer, writer

RETENTION = "retention.json"
EXPIRED = "expired"  # the code of an item whose document is kept no longer
DAY_SEC = 86_400.0
SINCE = ("modified", "seen")


@dataclass(frozen=True)
class Rule:
    """`days` (None = for ever) since the source says that it was modified, or since a run over the source saw it last."""

    source: str
    documents: str
    days: float | None
    since: str


class Retention:
    """The rules, at one moment. `at`: POSIX seconds; now, unless it is given."""

    def __init__(self, rules: Sequence[Rule], at: float | None = None) -> None:
        self._rules, self._at = rules, time.time() if at is None else at

    @classmethod
    def read(cls, home: Path, at: float | None = None) -> "Retention":
        """Those of a QUARRY_HOME; none where there is no file, unless QUARRY_RETENTION_FILE names one.

        Raises:
            SourceError: the file is not as it must be; nothing expires by half of it.
        """
        named = os.environ.get("QUARRY_RETENTION_FILE", "")
        path = Path(named) if named else home / RETENTION
        try:
            found = json.loads(path.read_bytes()) if named or path.exists() else []
        except OSError as error:
            raise SourceError(f"{path} cannot be read ({error.strerror}): nothing is taken, nothing expires, without its rules") from None
        except ValueError:
            raise SourceError(f"{path} is not JSON: correct it and try again") from None
        if not isinstance(found, list):
            raise SourceError(f"{path} is not a list of rules: correct it and try again")
        return cls([_rule(path, number, rule) for number, rule in enumerate(found, start=1)], at)

    def expired(self, entry: Entry) -> str | None:
        """Why its document is kept no longer; None = it is kept."""
        rule = next((r for r in reversed(self._rules) if fnmatchcase(entry.source, r.source) and fnmatchcase(entry.uri, r.documents)), None)
        if rule is None or rule.days is None:
            return None
        since = entry.modified if rule.since == "modified" else entry.last_seen
        return f"not {rule.since} for more than {rule.days:g} days" if self._at - since > rule.days * DAY_SEC else None


def _rule(path: Path, number: int, found: Any) -> Rule:
    told = f"{path}, rule {number}"
    if not isinstance(found, dict) or not found.keys() <= {"source", "documents", "days", "since"} or not {"days", "since"} <= found.keys():
        raise SourceError(f'{told}: must be {{"source": glob, "documents": glob, "days": number or null, "since": "modified" or "seen"}}')
    source, documents, days, since = found.get("source", "*"), found.get("documents", "*"), found["days"], found["since"]
    if not isinstance(source, str) or not isinstance(documents, str):
        raise SourceError(f"{told}: source and documents must be globs")
    if days is not None and (isinstance(days, bool) or not isinstance(days, int | float) or not 0 < days < 1e6):
        raise SourceError(f"{told}: days must be a number above 0, or null for ever")
    if since not in SINCE:
        raise SourceError(f"{told}: since must be modified or seen")
    return Rule(source, documents, days, since)


def expire(made: Writer, rules: Retention) -> list[str]:
    """Take out of the index what is kept no longer, of all sources; the documents' ids. Their items stay in the ledger, with code and reason."""
    due = [entry for entry in made.ledger.indexed() if rules.expired(entry)]
    return [entry.document_id for entry in due if made.expire(entry, EXPIRED, rules.expired)]


def expire_all(home: Path, at: float | None = None) -> dict[str, Any]:
    """`--expire`: what `expire` says, for a QUARRY_HOME.

    Raises:
        SourceError: `retention.json` is not as it must be.
        ManifestError: an index is not whole.
        VectorStoreError: Pinecone fails; index.db is without what was due so far, the next try goes on.
    """
    rules = Retention.read(home, at)
    with writer(home) as made:
        return {"expired": expire(made, rules)}
