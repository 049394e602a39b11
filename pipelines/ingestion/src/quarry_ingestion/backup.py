"""A copy of what ingestion keeps, made while it runs: `python -m quarry_ingestion.backup HOME DIR|s3://bucket/prefix`.

Index, ledger, retention and releases go into `DIR`, which must not exist yet. SQLite's own backup copies a database as it stands between
two transactions, whoever writes. The ledger comes before the index: what it names is then in the index, and a document that
came in between is found by `--reconcile`. `backup.json` is written last, with every file's SHA-256: without it a copy is not whole.
In S3 a copy is a folder by the moment it was made, and the object `latest` names the last whole one.
Models are not copied: they lie in the registry, and releases name them by digest.
"""

import contextlib
import json
import shutil
import sqlite3
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from quarry_contract.manifests import digest_file

from .artefacts import ArtefactError, Bucket

MANIFEST = "backup.json"
LATEST = "latest"
PARTS = ("ledger.db", "retention.json", "index", "releases")
LEFT_OUT = ("-wal", "-shm", ".tmp", ".lock")  # what SQLite and writers keep beside their files


def backup(home: Path, to: Path) -> list[str]:
    """Copy; the files' names.

    Raises:
        OSError, sqlite3.Error: a file cannot be read or written.
    """
    to.mkdir(parents=True)
    found = [file for part in PARTS for file in _files(home / part)]
    for file in found:
        target = to / file.relative_to(home)
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy_database(file, target) if file.suffix == ".db" else shutil.copy2(file, target)
    files = {str(file.relative_to(home)): digest_file(to / file.relative_to(home)).sha256 for file in found}
    manifest = {"made": datetime.now(UTC).isoformat(timespec="seconds"), "files": files}
    (to / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return list(files)


def backup_to_bucket(home: Path, bucket: Bucket) -> tuple[str, list[str]]:
    """Copy by way of a temporary folder; the copy's name in the bucket, and the files'.

    Raises:
        OSError, sqlite3.Error: a file cannot be read or written.
        ArtefactError: S3 does not take it.
    """
    with tempfile.TemporaryDirectory() as scratch:
        name, copy, latest = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%SZ"), Path(scratch) / "copy", Path(scratch) / LATEST
        files = backup(home, copy)
        for file in (*files, MANIFEST):
            bucket.put(f"{name}/{file}", copy / file)
        latest.write_text(name, encoding="utf-8")
        bucket.put(LATEST, latest)
    return name, files


def _copy_database(file: Path, target: Path) -> None:
    """One consistent state of a SQLite file in use."""
    source = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=30)
    with contextlib.closing(source), contextlib.closing(sqlite3.connect(target)) as copy:
        source.backup(copy)


def _files(part: Path) -> list[Path]:
    found = [part] if part.is_file() else sorted(p for p in part.rglob("*") if p.is_file())
    return [file for file in found if not file.name.endswith(LEFT_OUT)]


def main() -> None:
    """Entry point; the last line of standard output is a JSON report."""
    if len(sys.argv) != 3:
        sys.exit("say from where to where: backup HOME DIR|s3://bucket/prefix")
    home, to = Path(sys.argv[1]), sys.argv[2]
    if not (home / "ledger.db").exists():
        sys.exit(f"there is nothing to copy: {home} has no ledger.db; it must be the folder that ingestion works on")
    if not to.startswith("s3://") and Path(to).exists():
        sys.exit(f"{to} is there already; a copy goes into a folder of its own")
    try:
        name, files = backup_to_bucket(home, Bucket(to)) if to.startswith("s3://") else (to, backup(home, Path(to)))
    except (ArtefactError, OSError, sqlite3.Error) as error:
        sys.exit(f"the backup is not whole: {error}")
    print(json.dumps({"backup": name, "files": len(files)}))


if __name__ == "__main__":
    main()
