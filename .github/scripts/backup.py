"""A copy of what ingestion keeps, made while it runs: `backup.py HOME DIR`. Needs the standard library only.

Index, ledger and releases go into `DIR`, which must not exist yet. SQLite's own backup copies a database as it stands between
two transactions, whoever writes. The ledger comes before the index: what it names is then in the index, and a document that
came in between is found by `--reconcile`. `backup.json` is written last, with every file's SHA-256: without it a copy is not whole.
Models are not copied: they lie in the registry, and releases name them by digest.
"""

import contextlib
import hashlib
import json
import shutil
import sqlite3
import sys
from datetime import UTC, datetime
from pathlib import Path

MANIFEST = "backup.json"
PARTS = ("ledger.db", "index", "releases")
LEFT_OUT = ("-wal", "-shm", ".tmp", ".lock")  # what SQLite and writers keep beside their files


def backup(home: Path, to: Path) -> dict[str, object]:
    """Copy; the manifest.

    Raises:
        OSError, sqlite3.Error: a file cannot be read or written.
    """
    to.mkdir(parents=True)
    found = [file for part in PARTS for file in _files(home / part)]
    for file in found:
        target = to / file.relative_to(home)
        target.parent.mkdir(parents=True, exist_ok=True)
        copy_database(file, target) if file.suffix == ".db" else shutil.copy2(file, target)
    files = {str(file.relative_to(home)): sha256(to / file.relative_to(home)) for file in found}
    manifest: dict[str, object] = {"made": datetime.now(UTC).isoformat(timespec="seconds"), "files": files}
    (to / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return manifest


def copy_database(file: Path, target: Path) -> None:
    """One consistent state of a SQLite file in use."""
    source = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=30)
    with contextlib.closing(source), contextlib.closing(sqlite3.connect(target)) as copy:
        source.backup(copy)


def sha256(file: Path) -> str:
    """Of a file's bytes."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _files(part: Path) -> list[Path]:
    found = [part] if part.is_file() else sorted(p for p in part.rglob("*") if p.is_file())
    return [file for file in found if not file.name.endswith(LEFT_OUT)]


def main() -> None:
    """Entry point."""
    if len(sys.argv) != 3:
        sys.exit("say from where to where: backup.py HOME DIR")
    home, to = map(Path, sys.argv[1:])
    if not (home / "ledger.db").exists():
        sys.exit(f"there is nothing to copy: {home} has no ledger.db; it must be the folder that ingestion works on")
    if to.exists():
        sys.exit(f"{to} is there already; a copy goes into a folder of its own")
    print(json.dumps({"files": len(backup(home, to)["files"])}))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
