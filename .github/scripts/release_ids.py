"""Which release is to go live, and which is live: `release_ids.py COMMIT` prints `release=` and `live=`, lines for a job's outputs.

The candidate is the one that helm/quarry/values-release.yaml names now, the live one the one it named at COMMIT. Standard library only.
"""

import re
import subprocess
import sys
from pathlib import Path

VALUES = "helm/quarry/values-release.yaml"
IDENTITY = re.compile(r"""^release:(?:\s*\n(?:\s+.*\n)*?\s+id:)?\s*["']?([0-9a-f]{12})["']?\s*(?:#.*)?$""", re.MULTILINE)


def identity(text: str, where: str) -> str:
    """The release that these values name, as `release: ID` or as `id: ID` under `release:`.

    Raises:
        SystemExit: they name none.
    """
    named = IDENTITY.search(text)
    if named is None:
        sys.exit(f"{where} names no release: it needs `release:` with an id of 12 hex digits")
    return named.group(1)


def main() -> None:
    """Entry point."""
    if len(sys.argv) != 2:
        sys.exit("say since which commit: release_ids.py COMMIT")
    now = identity(Path(VALUES).read_text(encoding="utf-8"), VALUES)
    before = subprocess.run(["git", "show", f"{sys.argv[1]}:{VALUES}"], capture_output=True, text=True, check=False)
    if before.returncode:
        sys.exit(f"{VALUES} is not in {sys.argv[1]}: the first release is deployed by hand (docs/delivery.md)")
    live = identity(before.stdout, f"{VALUES} at {sys.argv[1]}")
    if live == now:
        sys.exit(f"release {now} is live already: there is nothing to roll out")
    print(f"release={now}\nlive={live}")


if __name__ == "__main__":
    main()
