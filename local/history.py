"""Which release is live on this machine, and which were before: an append-only file, one JSON object a line.

`promote` puts a release on top; `rollback` takes the top away. Undoing twice goes back two releases.
"""

import json
import os
from datetime import UTC, datetime
from pathlib import Path


def path(home: Path) -> Path:
    """The file."""
    return home / "releases" / "history.jsonl"


def releases(home: Path) -> list[str]:
    """Ids, the live one last; those before it are what rollbacks go back to."""
    stack: list[str] = []
    lines = path(home).read_text(encoding="utf-8").splitlines() if path(home).exists() else []
    for entry in filter(None, map(_entry, lines)):
        if entry["verb"] == "rollback":
            stack = stack[:-1]
        elif stack[-1:] != [entry["live"]]:
            stack.append(entry["live"])
    return stack


def _entry(line: str) -> dict[str, str] | None:
    """None for a line that a killed process left unfinished."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and {"verb", "live"} <= entry.keys() else None


def record(home: Path, verb: str, live: str) -> None:
    """Append one line: the verb (`promote` or `rollback`) and the release that is live since."""
    path(home).parent.mkdir(parents=True, exist_ok=True)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    with path(home).open("ab") as file:
        line = json.dumps({"at": at, "verb": verb, "live": live}).encode() + b"\n"
        file.write(b"\n" + line if _unfinished(path(home)) else line)
        file.flush()
        os.fsync(file.fileno())


def _unfinished(file: Path) -> bool:
    content = file.read_bytes()
    return bool(content) and not content.endswith(b"\n")
