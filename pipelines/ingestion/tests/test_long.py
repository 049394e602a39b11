"""Long documents: extraction needs bounded memory, and a document that needs more is refused and takes no other with it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from docx import Document as new_docx

LONG = """
import json, re, resource, sys
from pathlib import Path
from quarry_ingestion.extract import Limits, Skipped, extract, preload
preload()
path = Path(sys.argv[1])
found = extract(path, path.parent, Limits(memory_bytes=int(sys.argv[2])))
child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
own = re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())  # ru_maxrss still has what was there before exec
print(json.dumps([found.code if isinstance(found, Skipped) else len(found.text), child, int(own.group(1)) // 1024]))
"""


def extracted(path: Path, memory_bytes: int) -> tuple[Any, int, int]:
    """Characters or the reason code, and the largest memory, MB, of the child and of a process that extracts nothing else."""
    done = subprocess.run([sys.executable, "-c", LONG, str(path), str(memory_bytes)], check=True, stdout=subprocess.PIPE)
    code, child, parent = json.loads(done.stdout)
    return code, child, parent


@pytest.mark.parametrize("kind", ["docx", "md"])
def test_a_long_document_needs_bounded_memory_and_more_is_refused(tmp_path: Path, kind: str) -> None:
    words = "The quay wall stands on piles that reach the clay. " * 27
    pages, path = 300, tmp_path / f"long.{kind}"
    if kind == "md":
        path.write_text("\n\n".join(f"# Section {number}\n\n{words}" for number in range(pages)))
    else:
        made = new_docx()
        for number in range(pages):
            made.add_heading(f"Section {number}")
            made.add_paragraph(words)
        made.save(str(path))
    characters, child, parent = extracted(path, 500_000_000)
    assert characters > 300 * 1300
    assert child < 130 and parent < 130, "MB: some 70 are there before anything is read"
    code, child, parent = extracted(path, 1_000_000)
    assert code in ("too_large", "crashed", "damaged"), "libraries tell in their own ways that there is no memory left"
    assert child < 110 and parent < 110
