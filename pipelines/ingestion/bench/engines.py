"""Where Spark should take over: the local engine against Spark on local[2], on the same made documents, in interleaved runs, each in a new process.

python bench/engines.py [DOCUMENTS ...]     10 and 100 unless told otherwise

Needs a released retriever (make demo): encoding is what most of the time goes into. Prints a JSON object per number of documents: the median seconds of
each engine, by the clock, of the whole command, so that Spark's start counts; then, from the smallest and the largest number, each engine's start and
documents per second, and the number of documents from which Spark is quicker. Fails when digests differ.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HOME = Path(os.environ.get("QUARRY_HOME", Path(__file__).resolve().parents[3] / ".quarry"))
ENGINES = {"local": (), "spark": ("--engine", "spark", "--spark-master", "local[2]")}
ROUNDS = 3
SENTENCE = "The contractor keeps wall {n} wet for seven days after the pour, and strikes the formwork when the cubes reach ten newtons. "


def command(*arguments: object) -> str:
    """The last line that an ingestion command prints."""
    whole = [sys.executable, "-m", "quarry_ingestion", *map(str, arguments)]
    return subprocess.run(whole, capture_output=True, text=True, check=True).stdout.strip().splitlines()[-1]


def timed(docs: Path, model: Path, engine: str, work: Path) -> tuple[float, str]:
    """One first ingest: seconds, and the index's digest."""
    with tempfile.TemporaryDirectory(dir=work) as home:
        began = time.monotonic()
        command(docs, "--home", home, "--model-dir", model, *ENGINES[engine])
        return time.monotonic() - began, command("--digest", "--home", home)


def measure(count: int, model: Path, work: Path) -> dict[str, float]:
    """Median seconds for so many documents, by engine."""
    docs = work / f"docs-{count}"
    docs.mkdir()
    for number in range(count):
        (docs / f"{number:05}.md").write_text(f"# Wall {number}\n\n" + SENTENCE.format(n=number) * 20)  # four passages
    rounds = [{engine: timed(docs, model, engine, work) for engine in ENGINES} for _ in range(ROUNDS)]
    assert len({digest for each in rounds for _, digest in each.values()}) == 1, "the engines do not give the same index"
    return {engine: round(statistics.median(each[engine][0] for each in rounds), 1) for engine in ENGINES}


def main() -> None:
    """Print what was measured."""
    found = sorted((HOME / "models" / "retriever").glob("*/model.json"))
    if not found:
        sys.exit("nothing is released yet: run `make demo` first")
    counts = sorted(map(int, sys.argv[1:])) or [10, 100]
    with tempfile.TemporaryDirectory() as folder:
        told = {}
        for count in counts:
            told[count] = measure(count, found[0].parent, Path(folder))
            print(json.dumps({"documents": count, "seconds": told[count]}), flush=True)
    if len(counts) > 1:
        print(json.dumps(crossing(counts[0], counts[-1], told)))


def crossing(few: int, many: int, told: dict[int, dict[str, float]]) -> dict[str, object]:
    """Start and pace of each engine by the clock, as a straight line through two numbers of documents; where the lines cross."""
    each = {engine: (told[many][engine] - told[few][engine]) / (many - few) for engine in ENGINES}
    start = {engine: told[few][engine] - few * each[engine] for engine in ENGINES}
    saved = each["local"] - each["spark"]
    quicker = round((start["spark"] - start["local"]) / saved) if saved > 0 else None
    pace = {engine: round(1 / seconds, 2) if seconds > 0 else None for engine, seconds in each.items()}
    return {"start_s": {engine: round(s, 1) for engine, s in start.items()}, "documents_per_s": pace, "spark_is_quicker_from": quicker}


if __name__ == "__main__":
    main()
