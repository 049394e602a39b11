"""Is the backup one that answers? `restore_drill.py BACKUP --models DIR` restores it into a fresh home, reconciles, and asks.

Every file is compared with the digest that was written when the copy was made; `--reconcile` runs until it finds nothing to
repair, at most twice; the stack starts on free ports; words of passages that everyone may read are searched for, and must bring
their document. Exit code 0 only when all of that held; the report is JSON on standard output. The fresh home is removed.
Needs the standard library, and the clone's environments (`make envs`).
"""

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

CLONE = Path(__file__).resolve().parents[2]
MANIFEST = "backup.json"
WORDS_ASKED = 12
PASSAGES = """SELECT d.document_id, p.text FROM documents d JOIN passages p USING (document_id)
WHERE d.principals = '["*"]' GROUP BY d.document_id ORDER BY d.document_id LIMIT ?"""


class DrillError(Exception):
    """The backup would not have helped; the message says why."""


def restore(backup: Path, home: Path, models: Path) -> int:
    """Copy the backup's files into `home` beside the models; how many.

    Raises:
        DrillError: no manifest, or a file is not what was copied.
    """
    try:
        files: dict[str, str] = json.loads((backup / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError):
        raise DrillError(f"{backup} is no whole backup: {MANIFEST} is missing or cannot be read") from None
    for name, digest in files.items():
        if not (backup / name).is_file() or sha256(backup / name) != digest:
            raise DrillError(f"{name} is missing in the backup, or is not what was copied")
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(backup / name, home / name)
    (home / "models").symlink_to(models.resolve())
    return len(files)


def sha256(file: Path) -> str:
    """Of a file's bytes."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def reconcile(home: Path) -> list[dict[str, object]]:
    """Reports of the one or two runs it took.

    Raises:
        DrillError: it cannot run, or the second run still found something.
    """
    reports: list[dict[str, object]] = []
    for _ in range(2):
        command = [str(CLONE / "pipelines/ingestion/.venv/bin/python"), "-m", "quarry_ingestion", "--reconcile", "--home", str(home)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise DrillError(f"reconcile failed: {done.stderr.strip()}")
        reports.append(json.loads(done.stdout.splitlines()[-1]))
        if reports[-1]["sound"]:
            return reports
    raise DrillError(f"after a repair there was still something to repair: {reports[-1]}")


@contextlib.contextmanager
def serving(home: Path) -> Iterator[str]:
    """The stack on the home's live release; the gateway's address.

    Raises:
        DrillError: it does not start.
    """
    names = ("MLFLOW", "READER", "RETRIEVER", "INGESTION", "GATEWAY")
    ports = {f"QUARRY_{name}_PORT": str(_free_port()) for name in names}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("QUARRY_")} | ports | {"QUARRY_HOME": str(home)}
    stack = [str(CLONE / "services/contract/.venv/bin/python"), str(CLONE / "local/stack.py")]
    try:
        done = subprocess.run([*stack, "up", "gateway"], env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise DrillError(f"the stack does not start: {done.stderr.strip()}")
        yield f"http://127.0.0.1:{ports['QUARRY_GATEWAY_PORT']}"
    finally:
        subprocess.run([*stack, "down"], env=environment, capture_output=True, check=False)


def readable(home: Path, how_many: int) -> list[tuple[str, str]]:
    """(document, words of a passage) of that many documents.

    Raises:
        DrillError: there are none.
    """
    databases = sorted(home.glob("index/*/index.db"))
    if not databases:
        raise DrillError("the backup holds no index")
    with contextlib.closing(sqlite3.connect(f"{databases[0].as_uri()}?mode=ro", uri=True)) as connection:
        rows = connection.execute(PASSAGES, (how_many,)).fetchall()
    if not rows:
        raise DrillError("the backup holds no document that everyone may read")
    return [(document_id, " ".join(text.split()[:WORDS_ASKED])) for document_id, text in rows]


def ask(gateway: str, questions: list[tuple[str, str]]) -> None:
    """Search for each document's words, and ask for an answer.

    Raises:
        DrillError: a document was not found by its own words, or a reply was an error.
    """
    for document_id, words in questions:
        reply = _post(gateway + "/v1/search", {"question": words, "top_k": 5, "retrieval": "hybrid"})
        if document_id not in [hit["passage"]["document_id"] for hit in reply["passages"]]:
            raise DrillError(f"{document_id} was not found by its own words")
        _post(gateway + "/v1/answers", {"question": words})


def _post(address: str, body: dict[str, object]) -> dict[str, list[dict[str, dict[str, object]]]]:
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return dict(json.load(reply))
    except urllib.error.HTTPError as error:
        raise DrillError(f"{address} answered {error.code}: {error.read().decode(errors='replace')[:200]}") from None
    except OSError as error:
        raise DrillError(f"{address} does not answer: {error}") from None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="restore_drill.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backup", type=Path, help="folder that make backup wrote")
    parser.add_argument("--models", type=Path, required=True, help="folder that holds reader/N and retriever/N of the live release")
    parser.add_argument("--documents", type=int, default=20, help="how many documents to ask about")
    args = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="quarry-drill-"))
    try:
        files = restore(args.backup, home, args.models)
        repairs = reconcile(home)
        questions = readable(home, args.documents)
        with serving(home) as gateway:
            ask(gateway, questions)
    except DrillError as error:
        sys.exit(f"the restore drill failed: {error}")
    finally:
        shutil.rmtree(home)
    print(json.dumps({"files": files, "asked": len(questions), "repaired": len(repairs) - 1, "reconcile": repairs[0]}))


if __name__ == "__main__":
    main()
