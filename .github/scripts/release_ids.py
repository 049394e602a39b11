"""Which release is to go live, and which is live: `release_ids.py COMMIT [--prepare]` prints `release=` and `live=`, lines for a job's outputs.

The candidate is the one that helm/quarry/values-release.yaml names as live now, the live one the one it named at COMMIT, the
commit before the merge. With --prepare the file is set back to COMMIT and both releases' manifests are put under QUARRY_HOME, so
that `make deploy` starts from what runs. Standard library only: the file is YAML by being JSON below a line of comment.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

VALUES = Path("helm/quarry/values-release.yaml")


def live(text: str, where: str) -> tuple[str, str]:
    """Id and manifest of the release that these values name as live.

    Raises:
        SystemExit: they name none.
    """
    try:
        content = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
        manifest = json.loads(content)["releases"]["live"]["manifest"]
        return str(json.loads(manifest)["release_id"]), manifest
    except (ValueError, KeyError, TypeError):
        sys.exit(f"{where} names no live release: the first one is deployed by hand, by `make deploy` (docs/delivery.md)")


def prepare(before: str, manifests: dict[str, str]) -> None:
    """As if nothing had been merged, and both releases were known."""
    VALUES.write_text(before, encoding="utf-8")
    for identity, manifest in manifests.items():
        path = Path(os.environ.get("QUARRY_HOME", ".quarry")) / "releases" / identity / "release.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(manifest, encoding="utf-8")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="release_ids.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit")
    parser.add_argument("--prepare", action="store_true")
    args = parser.parse_args()
    told = subprocess.run(["git", "show", f"{args.commit}:{VALUES}"], capture_output=True, text=True, check=False)
    if told.returncode:
        sys.exit(f"{VALUES} is not in {args.commit}")
    new = live(VALUES.read_text(encoding="utf-8"), str(VALUES))
    old = live(told.stdout, f"{VALUES} at {args.commit}")
    if new[0] == old[0]:
        sys.exit(f"release {new[0]} is live already: there is nothing to roll out")
    if args.prepare:
        prepare(told.stdout, dict((new, old)))
    print(f"release={new[0]}\nlive={old[0]}")


if __name__ == "__main__":
    main()
