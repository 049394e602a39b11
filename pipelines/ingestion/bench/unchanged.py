"""How long a run over an unchanged folder takes, and one after a single change; both must encode nothing but that change.

python bench/unchanged.py [DOCUMENTS]     10,000 unless told otherwise; one JSON object on the last line
"""

import json
import random
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from quarry_runtime import tiny

from quarry_ingestion.pipeline import sync
from quarry_ingestion.sources import Folder

WORDS = ("crane", "pile", "wall", "wind", "hook", "mast", "sling", "load")
DOCUMENT_WORDS = 120
WHOSE = {"max_rss_mb": resource.RUSAGE_SELF, "extraction_max_rss_mb": resource.RUSAGE_CHILDREN}


def documents(root: Path, count: int) -> None:
    """`count` small text files, a hundred to a folder."""
    choice = random.Random(1)  # noqa: S311 - the same documents each time
    for number in range(count):
        path = root / f"{number // 100:03}" / f"{number:05}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"Document {number}. " + " ".join(choice.choices(WORDS, k=DOCUMENT_WORDS)) + ".")


def timed(root: Path, home: Path, model: Path) -> dict[str, Any]:
    """One run's report, with the largest memory so far, in MB: of this process, and of the largest of the children that extract."""
    began = time.monotonic()
    found = sync(Folder(root), home, model)
    kept = {name: found[name] for name in ("documents", "added", "updated", "unchanged", "encoded")}
    memory = {name: resource.getrusage(who).ru_maxrss // 1024 for name, who in WHOSE.items()}
    return kept | {"seconds": round(time.monotonic() - began, 2)} | memory


def main() -> None:
    """Print what was measured; fail when an unchanged document was encoded."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as folder:
        root, home, model = Path(folder, "docs"), Path(folder, "home"), Path(folder, "model")
        home.mkdir()
        tiny.encoder(model, WORDS)
        documents(root, count)
        measured = {"first": timed(root, home, model), "unchanged": timed(root, home, model)}
        (root / "000" / "00000.txt").write_text("The crane stands still.")
        measured["one_changed"] = timed(root, home, model)
    assert (measured["unchanged"]["unchanged"], measured["unchanged"]["encoded"]) == (count, 0)
    assert [measured["one_changed"][name] for name in ("updated", "unchanged", "encoded")] == [1, count - 1, 1]
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
