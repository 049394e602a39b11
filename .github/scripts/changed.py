"""Which projects a change concerns: `changed.py BASE HEAD` prints `projects=[...]`, a line for a job's outputs.

A project is concerned when a file of its own changed, or one of a project it is installed with or whose commands it calls. What
belongs to no project is told by the table below.
"""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WHOLE = "tests"  # drives all services and pipelines as processes
DELIVERY = "tests/delivery"  # and this one what ships them
EVERYTHING = ("Makefile", "ruff.toml", ".ci/")
READ_BY = {  # outside of projects; what is not here is read by the tests of delivery
    "local/": (WHOLE,),
    "examples/": (WHOLE,),
    "k8s/": (WHOLE,),
    "helm/": (WHOLE, DELIVERY),
    "terraform/": ("tests/infrastructure", DELIVERY),
}

CALLS = {"pipelines/airflow": {"pipelines/ingestion", "pipelines/kubeflow", "services/retriever"}}  # commands, in their environments


def projects() -> list[str]:
    """All projects, by the Makefile's word."""
    return _output("make", "--silent", "projects").split()


def needs(project: str) -> set[str]:
    """The sibling projects that it is installed with, or calls."""
    told = tomllib.loads((ROOT / project / "pyproject.toml").read_text(encoding="utf-8"))
    sources = told.get("tool", {}).get("uv", {}).get("sources", {})
    installed = {str((ROOT / project / source["path"]).resolve().relative_to(ROOT)) for source in sources.values() if "path" in source}
    return installed | CALLS.get(project, set())


def concerned(paths: list[str], known: list[str]) -> list[str]:
    """The projects that these changed files concern, in the order of `known`."""
    if any(path.startswith(EVERYTHING) for path in paths):
        return known
    found = {owner for path in paths for owner in _owners(path, known) if owner in known}
    depends = {project: needs(project) for project in known}
    while more := {project for project in known if depends[project] & found} - found:
        found |= more
    if any(project.startswith(("services/", "pipelines/")) for project in found):
        found |= {WHOLE, DELIVERY}
    return [project for project in known if project in found]


def _owners(path: str, known: list[str]) -> tuple[str, ...]:
    owners = [project for project in known if path.startswith(f"{project}/")]
    if owners:
        return (max(owners, key=len),)
    return next((readers for folder, readers in READ_BY.items() if path.startswith(folder)), (DELIVERY,))


def _output(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def main() -> None:
    """Entry point."""
    if len(sys.argv) != 3:
        sys.exit("say between which commits: changed.py BASE HEAD")
    base, head = sys.argv[1:]
    known = projects()
    if set(base) <= {"0"}:  # the first push of a branch has no commit before it
        print(f"projects={json.dumps(known)}")
        return
    paths = _output("git", "diff", "--name-only", f"{base}...{head}").splitlines()
    print(f"projects={json.dumps(concerned(paths, known))}")


if __name__ == "__main__":
    main()
