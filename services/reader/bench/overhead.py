"""What the reader costs beside its model: CPU time of whole answers against the bare ONNX Runtime forward on the same windows.

Prints one JSON object per workload: the ratio raw / whole (1 = the reader adds nothing), median over interleaved rounds, and an
A/A ratio of the raw side with itself, which should be near 1 or the run says nothing. Needs a released reader (make demo).
"""

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from quarry_contract.messages import ReadPassage, ReadRequest
from quarry_runtime.session import Session

from quarry_reader.core import Reader, ReaderSettings

HOME = Path(os.environ.get("QUARRY_HOME", Path(__file__).resolve().parents[3] / ".quarry"))
SENTENCE = "The contractor keeps the walls wet for seven days after the pour, and strikes the formwork when the cubes reach ten newtons. "
WORKLOADS = {"8 passages of 100 words": [SENTENCE * 5] * 8, "10 passages of 20 words": [SENTENCE] * 10, "one of 900 words": [SENTENCE * 43]}
ROUNDS = 9


def cpu(work: Callable[[], object]) -> float:
    """CPU seconds of this process for one call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def measure(reader: Reader, raw: Session, texts: list[str]) -> dict[str, float]:
    """Ratios over interleaved rounds."""
    request = ReadRequest("How long are the walls kept wet?", tuple(ReadPassage(str(i), t) for i, t in enumerate(texts)))
    rows = [(w.ids, w.types) for w in reader._windows.windows(request.question, texts)]

    def whole() -> None:
        asyncio.run(reader.read(request, time.monotonic() + 120))

    def forward() -> None:
        for row in rows:
            raw.run([row])

    for work in (whole, forward):
        work()
    ratios, same = [], []
    for _ in range(ROUNDS):
        first, both, second = cpu(forward), cpu(whole), cpu(forward)
        ratios.append((first + second) / 2 / both)
        same.append(first / second)
    return {"raw_over_whole": round(statistics.median(ratios), 3), "a_over_a": round(statistics.median(same), 3), "windows": len(rows)}


def main() -> None:
    """Entry point."""
    found = list((HOME / "models" / "reader").glob("*/model.json"))
    if not found:
        sys.exit("nothing is released yet: run `make demo` first")
    folder = max(found, key=lambda path: path.stat().st_mtime).parent  # the one fetched last
    reader = Reader.load(ReaderSettings(folder, runners=1))
    raw = Session(folder / "model.onnx", ["start_logits", "end_logits"])
    for name, texts in WORKLOADS.items():
        print(json.dumps({"workload": name, **measure(reader, raw, texts)}))
    reader.close()


if __name__ == "__main__":
    main()
