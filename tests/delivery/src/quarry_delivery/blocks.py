"""Runs the `run:` blocks of a workflow's job, or the `sh` steps of Jenkins' stages, with stand-ins for whatever reaches the cloud.

As GitHub does: each block by `bash -e -o pipefail` in one working folder, `if:` decides which run once one has failed, what is
written to $GITHUB_OUTPUT is there for later blocks. Expressions (`${{ }}`) are replaced by the values a caller gives; one
without a value is an error, so a new one cannot go unnoticed.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .workflows import CLONE, Workflow, files_named

STOOD_IN = ("aws", "cosign", "docker", "gh", "grype", "helm", "kubectl", "make", "terraform")
EXPRESSION = re.compile(r"\$\{\{\s*(.+?)\s*\}\}")
AFTER_FAILURE = ("failure()", "failure() || cancelled()")
NOTE = (CLONE / "helm/quarry/values-release.yaml").read_text(encoding="utf-8").partition("\n")[0] + "\n"
SHELL = ("bash", "--noprofile", "--norc", "-eo", "pipefail")
COPIED = (".github", "Jenkinsfile", "Makefile", "local")


class UnknownExpression(Exception):
    """An expression that no value was given for."""


@dataclass(frozen=True)
class Ran:
    """What happened: whether all blocks succeeded, the calls of stand-ins in order, and what was printed."""

    succeeded: bool
    calls: list[list[str]]
    printed: str

    def lines(self, clone: Path) -> list[str]:
        """The calls as lines of a golden file; the clone's own folder is a dot."""
        return [" ".join(_quoted(word.replace(str(clone), ".")) for word in call) for call in self.calls]


def _quoted(word: str) -> str:
    return json.dumps(word) if re.search(r"\s", word) or not word else word


def clone(folder: Path) -> Path:
    """A small git repository with what the blocks read: two commits, of which the second changes the release."""
    for part in COPIED:
        source = CLONE / part
        shutil.copytree(source, folder / part) if source.is_dir() else shutil.copy2(source, folder / part)
    for path in files_named("pyproject.toml"):
        target = folder / path.relative_to(CLONE)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    for environment in ("dev", "staging", "production"):
        (folder / "terraform/envs" / environment).mkdir(parents=True)
    values = folder / "helm/quarry/values-release.yaml"
    values.parent.mkdir(parents=True)
    git = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    for identity in ("aaaaaaaaaaaa", "bbbbbbbbbbbb"):
        named = {"live": {"manifest": json.dumps({"release_id": identity})}, "candidate": {"manifest": ""}, "previous": {"manifest": ""}}
        values.write_text(NOTE + json.dumps({"releases": named}) + "\n", encoding="utf-8")
        subprocess.run([*git, "add", "--force", "."], check=True)
        subprocess.run([*git, "commit", "--quiet", "--message", identity], check=True)
    return folder


def environment(folder: Path, fails: str = "") -> dict[str, str]:
    """For the blocks: stand-ins first on PATH, their log, and nothing that is this machine's own."""
    stubs = folder.parent / "bin"
    stubs.mkdir(exist_ok=True)
    for name in STOOD_IN:
        if not (stubs / name).exists():
            shutil.copy2(Path(__file__).with_name("standin.py"), stubs / name)
            (stubs / name).chmod(0o755)
    if not (stubs / "python3").exists():  # a version manager's python3 would put its own folder before the stand-ins
        (stubs / "python3").symlink_to(Path(sys.executable).resolve())
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
    real = shutil.which("make") or "make"
    return {**kept, "PATH": f"{stubs}:{os.environ['PATH']}", "CALLS": str(folder.parent / "calls"), "REAL_MAKE": real} | ({"FAILS": fails} if fails else {})


def run_shells(shells: Sequence[tuple[str, bool, Mapping[str, str]]], folder: Path, base: dict[str, str]) -> Ran:
    """Each (script, whether it runs after a failure, its variables), in order."""
    calls, output = Path(base["CALLS"]), folder.parent / "output"
    calls.write_text("", encoding="utf-8")
    output.write_text("", encoding="utf-8")
    failed, printed = False, ""
    for script, after_failure, variables in shells:
        if after_failure != failed:
            continue
        path = folder.parent / "block.sh"
        path.write_text(script, encoding="utf-8")
        told = {**base, "GITHUB_OUTPUT": str(output), **variables}
        done = subprocess.run([*SHELL, str(path)], cwd=folder, env=told, capture_output=True, text=True, check=False)
        printed += done.stdout + done.stderr
        failed = failed or done.returncode != 0
    return Ran(not failed, [json.loads(line) for line in calls.read_text(encoding="utf-8").splitlines()], printed)


def shells_of(workflow: Workflow, job: str, values: Mapping[str, str]) -> list[tuple[str, bool, dict[str, str]]]:
    """A job's run blocks for run_shells.

    Raises:
        UnknownExpression: `values` lacks one.
    """
    told = workflow.jobs[job]
    outer = {**workflow.content.get("env", {}), **told.get("env", {})}
    blocks = [step for step in told["steps"] if "run" in step]
    return [(_put_in(step["run"], values), step.get("if") in AFTER_FAILURE, _variables(outer | step.get("env", {}), values)) for step in blocks]


def _variables(told: Mapping[str, Any], values: Mapping[str, str]) -> dict[str, str]:
    github = {name: value for name, value in values.items() if name.startswith("GITHUB_")}
    return {**github, **{name: _put_in(str(value), values) for name, value in told.items()}}


def _put_in(text: str, values: Mapping[str, str]) -> str:
    def value(found: "re.Match[str]") -> str:
        expression = found.group(1)
        if expression.startswith("vars."):
            return expression.removeprefix("vars.").lower()
        if expression not in values:
            raise UnknownExpression(expression)
        return values[expression]

    return EXPRESSION.sub(value, text)
