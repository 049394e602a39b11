"""One long document of each format, taken in as any other: how much memory its extraction and the writing process need, and how long it takes.

python bench/pages.py [PAGES] [FORMAT ...]     2,000 pages unless told otherwise, of pdf, docx and md; one JSON object per line
"""

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corpus import Corpus
from quarry_runtime import tiny

from quarry_ingestion.pipeline import sync
from quarry_ingestion.sources import Folder

FORMATS = ("pdf", "docx", "md")
PAGE_WORDS = 250
WHOSE = {"max_rss_mb": resource.RUSAGE_SELF, "extraction_max_rss_mb": resource.RUSAGE_CHILDREN}


def main() -> None:
    """Each made in one process and taken in by another, so that each has its own peak of memory."""
    if sys.argv[1:2] == ["--make"]:
        make(Path(sys.argv[2]), int(sys.argv[3]))
    elif sys.argv[1:2] == ["--take"]:
        print(json.dumps(take(Path(sys.argv[2]))))
    else:
        pages = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
        for kind in sys.argv[2:] or FORMATS:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "docs", f"long.{kind}")
                path.parent.mkdir()
                subprocess.run([sys.executable, __file__, "--make", str(path), str(pages)], check=True)
                taken = subprocess.run([sys.executable, __file__, "--take", folder], check=True, stdout=subprocess.PIPE, text=True).stdout
                print(json.dumps({"format": kind, "pages": pages, "file_mb": round(path.stat().st_size / 1e6, 1)} | json.loads(taken)), flush=True)


def sections(pages: int) -> Iterator[tuple[str, str]]:
    """A heading and its words, for each page."""
    corpus, choose = Corpus.read(), random.Random(6)  # noqa: S311 - the same document each time
    for number in range(pages):
        yield f"{number + 1} {choose.choice(corpus.sections)[0]}", " ".join(choose.choices(corpus.words, k=PAGE_WORDS))


def make(path: Path, pages: int) -> None:
    """Write the file."""
    if path.suffix == ".md":
        path.write_text("\n\n".join(f"# {heading}\n\n{words}" for heading, words in sections(pages)))
    elif path.suffix == ".docx":
        import docx

        document = docx.Document()
        for heading, words in sections(pages):
            document.add_heading(heading)
            document.add_paragraph(words)
        document.save(str(path))
    else:
        from reportlab.lib.styles import getSampleStyleSheet
        from reportlab.platypus import PageBreak, Paragraph, SimpleDocTemplate

        style = getSampleStyleSheet()
        parts = [(Paragraph(heading, style["Heading1"]), Paragraph(words, style["Normal"]), PageBreak()) for heading, words in sections(pages)]
        SimpleDocTemplate(str(path)).build([part for page in parts for part in page])


def take(folder: Path) -> dict[str, Any]:
    """Ingest it."""
    tiny.encoder(folder / "model", sorted({word.lower() for word in Corpus.read().words}), 384)
    (folder / "home").mkdir()
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    found = sync(Folder(folder / "docs"), folder / "home", folder / "model")
    peaks = {name: resource.getrusage(who).ru_maxrss // 1024 for name, who in WHOSE.items()}
    kept = {name: found[name] for name in ("documents", "passages", "words", "skipped")}
    return kept | {"seconds": round(time.monotonic() - began, 1), "max_rss_before_mb": before // 1024} | peaks


if __name__ == "__main__":
    main()
