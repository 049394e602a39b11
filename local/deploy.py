"""Writes what a deployment changes, helm/quarry/values-release.yaml: which release is live, which is tried, which ran before.

    deploy.py ID              make it live; what was live runs on as `previous`
    deploy.py ID --share 0.1 [--mirror 0.2]     try it beside the live one; 0 and 0 end that
    deploy.py --back          make the previous release live again

Releases come from QUARRY_HOME/releases. The file is YAML by being JSON, so that the standard library can write it.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

NOTE = "# What a release changes, and nothing else: merging it deploys, reverting it rolls back (docs/delivery.md). Written by `make deploy`.\n"
NONE = {"manifest": ""}


def read(path: Path) -> dict[str, Any]:
    """The releases of the file as it is; none where there is no file yet.

    Raises:
        SystemExit: it is not as this writes it; to go on would lose what is live.
    """
    if not path.exists():
        return {"live": NONE, "candidate": NONE, "previous": NONE}
    lines = path.read_text(encoding="utf-8").splitlines()
    try:
        found = json.loads("\n".join(line for line in lines if not line.startswith("#")))["releases"]
        [name(found[role]) for role in ("live", "candidate", "previous")]
        return dict(found)
    except (ValueError, KeyError, TypeError, AttributeError):
        sys.exit(f"{path} is not as make deploy writes it, so what is live is not known: take it back (git checkout) and try again")


def manifest(home: Path, identity: str) -> dict[str, Any]:
    """A release of this home.

    Raises:
        SystemExit: there is none with this id.
    """
    folder = home / "releases"
    try:
        return {"manifest": (folder / identity / "release.json").read_text(encoding="utf-8")}
    except OSError:
        known = ", ".join(sorted(p.parent.name for p in folder.glob("*/release.json"))) or "none: make release makes one"
        sys.exit(f"there is no release {identity}; there are: {known}")


def name(release: dict[str, Any]) -> str:
    """Its id; nothing for none."""
    return str(json.loads(release["manifest"])["release_id"]) if release.get("manifest") else ""


def changed(now: dict[str, Any], home: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The releases after what was asked.

    Raises:
        SystemExit: it cannot be.
    """
    if args.back:
        if not name(now["previous"]):
            sys.exit("no release was live before: there is nothing to go back to")
        return {"live": now["previous"], "candidate": NONE, "previous": now["live"]}
    wanted = manifest(home, args.release)
    if args.share is None and args.mirror is None:
        same = name(wanted) == name(now["live"])
        return {"live": wanted, "candidate": NONE, "previous": now["previous"] if same else now["live"]}
    share, mirror = args.share or 0.0, args.mirror or 0.0
    if not (0 <= share <= 1 and 0 <= mirror <= 1):
        sys.exit("shares are from 0 to 1")
    if not name(now["live"]) or name(wanted) == name(now["live"]):
        sys.exit("there is no other release live to try it beside: deploy it without a share")
    previous = NONE if name(now["previous"]) == name(wanted) else now["previous"]
    return {"live": now["live"], "candidate": wanted | {"share": share, "mirror": mirror} if share or mirror else NONE, "previous": previous}


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release", nargs="?", default="")
    parser.add_argument("--share", type=float)
    parser.add_argument("--mirror", type=float)
    parser.add_argument("--back", action="store_true")
    parser.add_argument("--home", type=Path, required=True, help="QUARRY_HOME")
    parser.add_argument("--values", type=Path, required=True, help="values-release.yaml")
    args = parser.parse_args()
    if bool(args.release) == args.back:
        sys.exit("say which release: make deploy RELEASE=id, or make deploy BACK=yes")
    releases = changed(read(args.values), args.home, args)
    args.values.write_text(NOTE + json.dumps({"releases": releases}, indent=1) + "\n", encoding="utf-8")
    said = {role: name(release) for role, release in releases.items() if name(release)}
    print(", ".join(f"{role} {identity}" for role, identity in said.items()))


if __name__ == "__main__":
    main()
