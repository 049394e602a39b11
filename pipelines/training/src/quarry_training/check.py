"""First step: check a SQuAD or DPR file, mend it, split it by document into train and held out, and look for leaks between the two."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import dpr_data, leakage, squad
from .leakage import Item
from .squad import DatasetError

# Each layout is a module with load, check, split, items, digest and dump.
LAYOUTS: dict[str, Any] = {"squad": squad, "dpr": dpr_data}


def check(layout: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Write train.json and dev.json; returns the report.

    Raises:
        DatasetError: too much of the file is unusable, nothing can be held out or learnt, or the held-out side is known to training.
    """
    examples, report = layout.check(layout.load(args.data), args.max_dropped)
    summary: dict[str, Any] = report.to_dict()
    if args.dev is not None:
        train, (dev, dev_report) = examples, layout.check(layout.load(args.dev), args.max_dropped)
        summary["held_out"] = dev_report.to_dict()
    else:
        train, dev = layout.split(examples, args.held_out_percent)
        repeated = leakage.repeats(layout.items(train), layout.items(dev))
        train = [e for e, again in zip(train, repeated, strict=True) if not again]
        summary["dropped"] |= {"asked_in_held_out": sum(repeated)} if any(repeated) else {}
        summary |= {"examples": len(train) + len(dev), "digest": layout.digest(train + dev)}
    _refuse_if_useless(layout.items(train), layout.items(dev))
    leaks = leakage.leaks(layout.items(train), layout.items(dev))
    if leaks.questions > args.max_leaked * len(dev):
        reason = f"training has seen {leaks.questions} of {len(dev)} held-out questions {leaks.counts}"
        pairs = {kind: [f"{a} -> {b}" for a, b in found] for kind, found in leaks.pairs.items()}
        raise DatasetError(f"{reason}: take them out of one file, or accept it with --max-leaked", pairs)
    layout.dump(train, args.out / "train.json")
    layout.dump(dev, args.out / "dev.json")
    return summary | {"train": len(train), "dev": len(dev), "leaks": asdict(leaks)}


def _refuse_if_useless(train: Sequence[Item], dev: Sequence[Item]) -> None:
    if not train or not dev:
        raise DatasetError("too few documents to hold any out: give a file with more documents, or a held-out file with --dev")
    for side, found in (("training", train), ("held-out", dev)):
        if not any(i.answers for i in found):
            raise DatasetError(f"no {side} question has an answer: nothing can be learnt or measured on it; add answered ones")


def main() -> None:
    """`python -m quarry_training.check`: writes train.json, dev.json and report.json; of a refused file, only a report of why."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--dev", type=Path, help="a held-out file of its own; without one, documents are held out of --data")
    parser.add_argument("--layout", choices=["squad", "dpr"], default="squad")
    parser.add_argument("--held-out-percent", type=int, default=15)
    parser.add_argument("--max-dropped", type=float, default=0.25, help="refuse the file if more than this share of its examples is unusable")
    parser.add_argument("--max-leaked", type=float, default=0.0, help="refuse the split if training has seen more than this share of the held-out")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    try:
        summary = check(LAYOUTS[args.layout], args)
    except OSError as error:
        sys.exit(f"dataset refused: {error}")
    except DatasetError as error:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "report.json").write_text(json.dumps({"refused": str(error), "ids": error.ids}, indent=1))
        sys.exit(f"dataset refused: {error}")
    (args.out / "report.json").write_text(json.dumps(summary, indent=1))
    print(json.dumps({k: v for k, v in summary.items() if k != "ids"}))


if __name__ == "__main__":
    main()
