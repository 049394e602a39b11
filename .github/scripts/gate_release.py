"""The gate once more, on what will be served: `gate_release.py RELEASE LIVE --artefacts s3://bucket/prefix --data squad.json`.

Both releases' manifests and the models in which they differ are fetched; each model that differs is judged against the live one
by `make gate`; the first that is refused ends it. Under the prefix lie ID/release.json and models/KIND/N, as
`python -m quarry_ingestion.artefacts push` puts them there. Standard library only.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

WORK = Path("build/gate")


def fetch_manifest(artefacts: str, release: str) -> dict[str, Any]:
    """A release's manifest.

    Raises:
        SystemExit: it cannot be fetched, or is another release's.
    """
    path = WORK / "releases" / release / "release.json"
    _run("aws", "s3", "cp", "--only-show-errors", f"{artefacts}/{release}/release.json", str(path))
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if manifest["release_id"] != release:
        sys.exit(f"{artefacts}/{release} holds release {manifest['release_id']}")
    return manifest


def fetch_model(artefacts: str, reference: str) -> Path:
    """The folder of models:/KIND/N. Raises as fetch_manifest."""
    place = "models/" + reference.removeprefix("models:/")
    _run("aws", "s3", "sync", "--only-show-errors", f"{artefacts}/{place}", str(WORK / place))
    return WORK / place


def _run(*command: str) -> None:
    if subprocess.run(command, check=False).returncode:
        sys.exit(f"failed: {' '.join(command)}")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="gate_release.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release")
    parser.add_argument("live")
    parser.add_argument("--artefacts", required=True)
    parser.add_argument("--data", required=True)
    args = parser.parse_args()
    candidate, live = (fetch_manifest(args.artefacts.rstrip("/"), release) for release in (args.release, args.live))
    differing = [kind for kind in ("reader", "retriever") if candidate[f"{kind}_digest"] != live[f"{kind}_digest"]]
    print(f"differing: {', '.join(differing) or 'no model'}", flush=True)
    for kind in differing:
        challenger, champion = (fetch_model(args.artefacts.rstrip("/"), manifest[kind]) for manifest in (candidate, live))
        _run("make", "gate", f"CHALLENGER={challenger}", f"CHAMPION={champion}", f"DATA={args.data}", f"OUT={WORK / kind}")


if __name__ == "__main__":
    main()
