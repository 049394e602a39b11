"""First step: check a SQuAD file, mend it, and split it by document into train and held out."""

import argparse
import json
import sys
from pathlib import Path

from . import squad


def main() -> None:
    """`python -m quarry_training.check`: writes train.json, dev.json and report.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--dev", type=Path, help="a held-out file of its own; without one, documents are held out of --data")
    parser.add_argument("--held-out-percent", type=int, default=15)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    try:
        examples, report = squad.check(squad.load(args.data))
        train, dev = squad.split(examples, args.held_out_percent) if args.dev is None else (examples, squad.check(squad.load(args.dev))[0])
        if not train or not dev:
            raise squad.DatasetError("too few documents to hold any out: give a file with more contexts, or --dev")
    except (squad.DatasetError, OSError) as error:
        sys.exit(f"dataset refused: {error}")
    squad.dump(train, args.out / "train.json")
    squad.dump(dev, args.out / "dev.json")
    summary = report.to_dict() | {"train": len(train), "dev": len(dev)}
    (args.out / "report.json").write_text(json.dumps(summary, indent=1))
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
