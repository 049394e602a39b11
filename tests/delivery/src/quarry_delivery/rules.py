"""What holds for everything that ships Quarry, beyond what actionlint, zizmor and CodeNarc check. Each rule returns what breaks it."""

import re
from collections.abc import Iterator
from pathlib import Path

from .jenkins import Node
from .roles import role_problems
from .workflows import LOCAL, PINNED, Workflow

# All that any job may write; everything else is read.
MAY_WRITE = {
    ("images", "publish"): {"id-token"},
    ("nightly", "recall"): {"id-token"},
    ("nightly", "report"): {"issues"},
    ("nightly", "restore"): {"id-token"},
    ("pipelines", "upload"): {"id-token"},
    ("release", "gate"): {"id-token"},
    ("release", "report"): {"issues"},
    ("release", "rollout"): {"id-token"},
    ("terraform", "apply-dev"): {"id-token"},
    ("terraform", "apply-production"): {"id-token"},
    ("terraform", "apply-staging"): {"id-token"},
    ("terraform", "comment"): {"pull-requests"},
    ("terraform", "plan"): {"id-token"},
    ("terraform-apply", "apply"): {"id-token"},
}
# Where people approve: GitHub waits for the environment's reviewers.
APPROVED = {("release", "rollout"): "production", ("terraform-apply", "apply"): "${{ inputs.environment }}"}
ROLLOUT = ["canary", "watch", "promote", "revert"]
LONGEST_RUN = 6  # lines; more is a script with tests
KEYS = re.compile(r"AKIA|aws-access-key-id|AWS_ACCESS_KEY_ID|AWS_SECRET_ACCESS_KEY|aws-secret-access-key|secrets\.(?!GITHUB_TOKEN)")
MADE = re.compile(r"\bmake ([a-z][a-z-]*)")
CALLED = re.compile(r"make [a-z-]+|\.github/scripts/[a-z_]+\.(?:py|sh)(?: (?:[a-z]+))?")


def check(root: Path, workflows: list[Workflow], jenkinsfile: Node | None) -> list[str]:
    """Everything that breaks a rule in this clone."""
    found = [problem for workflow in workflows for problem in workflow_problems(workflow)]
    if written := sorted(set(MAY_WRITE) - {(w.name, job) for w in workflows for job in w.jobs}):
        found.append(f"rules.py names jobs that do not exist: {written}")
    found += target_problems(root)
    found += image_problems(root, workflows, jenkinsfile)
    found += jenkins_problems(jenkinsfile) if jenkinsfile else []
    return found + role_problems(root, workflows, jenkinsfile)


def workflow_problems(workflow: Workflow) -> Iterator[str]:
    """Of one workflow."""
    yield from (f"{workflow.name}: {problem}" for problem in _of_file(workflow))
    for job, told in workflow.jobs.items():
        yield from (f"{workflow.name}/{job}: {problem}" for problem in _of_job(workflow, job, told))
    if workflow.name == "release":
        yield from _of_release(workflow)


def _of_file(workflow: Workflow) -> Iterator[str]:
    for line in workflow.text.splitlines():
        if re.match(r"\s*(- )?uses:", line) and LOCAL not in line and not PINNED.match(line):
            yield f"not pinned to a full commit with its version beside it: {line.strip()}"
    if workflow.content.get("permissions") != {}:
        yield "permissions of the whole file must be {}"
    if "workflow_call" not in workflow.triggers and "group" not in workflow.content.get("concurrency", {}):
        yield "no concurrency group"
    if key := KEYS.search(workflow.text):
        yield f"a long-lived key: {key.group()}"


def _of_job(workflow: Workflow, job: str, told: dict[str, object]) -> Iterator[str]:
    permissions = told.get("permissions")
    if not isinstance(permissions, dict):
        yield f"permissions must be listed, not {permissions!r}"
        permissions = {}
    writes = {name for name, level in permissions.items() if level == "write"}
    if writes != MAY_WRITE.get((workflow.name, job), set()):
        yield f"may write {sorted(writes)}"
    if "uses" in told:
        return
    if not isinstance(told.get("timeout-minutes"), int):
        yield "no timeout"
    if "id-token" in writes and "environment" not in told:
        yield "takes a role without an environment that it is bound to"
    if told.get("environment") != APPROVED.get((workflow.name, job), told.get("environment")):
        yield f"is not behind the approval of {APPROVED[workflow.name, job]}"
    if told.get("runs-on") != "ubuntu-24.04":
        yield f"runs on {told.get('runs-on')}"
    for step in told["steps"]:  # type: ignore[attr-defined]
        if step.get("uses", "").startswith("actions/checkout@") and step.get("with", {}).get("persist-credentials") is not False:
            yield "the checkout keeps its token"
        if len(step.get("run", "").strip().splitlines()) > LONGEST_RUN:
            yield "a run block is long: make it a script"


def _of_release(workflow: Workflow) -> Iterator[str]:
    steps = [step for step in workflow.jobs["rollout"]["steps"] if step.get("name") in ROLLOUT]
    if [step["name"] for step in steps] != ROLLOUT:
        yield f"release/rollout: the order is {[step['name'] for step in steps]}"
    for step in steps:
        if f"rollout.sh {step['name']} " not in step["run"]:
            yield f"release/rollout: {step['name']} does {step['run']}"
        if step.get("if") != ("failure() || cancelled()" if step["name"] == "revert" else None):
            yield f"release/rollout: {step['name']} runs if {step.get('if')}"
    if workflow.jobs["rollout"].get("needs") != "gate":
        yield "release/rollout: does not wait for the gate"


def target_problems(root: Path) -> list[str]:
    """Make targets that workflows, their scripts or the Jenkinsfile name and the Makefile does not have."""
    files = [*sorted((root / ".github").rglob("*.yml")), *sorted((root / ".github/scripts").glob("*.sh")), root / "Jenkinsfile"]
    used = {(target, path.name) for path in files for target in MADE.findall(_without_comments(path))}
    there = set(re.findall(r"^([a-z][a-z-]*):", (root / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    return [f"{name}: there is no `make {target}`" for target, name in sorted(used) if target not in there]


def image_problems(root: Path, workflows: list[Workflow], jenkinsfile: Node | None) -> list[str]:
    """Lists of images that are not those there is a Dockerfile of."""
    there = {path.parent.name for part in ("services", "pipelines") for path in (root / part).glob("*/Dockerfile")}
    listed = [(f"images/{job}", told["strategy"]["matrix"]["image"]) for w in workflows if w.name == "images" for job, told in w.jobs.items()]
    listed += [("Jenkinsfile", node.arguments) for node in (jenkinsfile.walk() if jenkinsfile else ()) if node.kind == "values"]
    return [f"{place}: makes {sorted(names)}, and there are Dockerfiles of {sorted(there)}" for place, names in listed if there and set(names) != there]


def _without_comments(path: Path) -> str:
    return "\n".join(line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith(("#", "//")))


def jenkins_problems(pipeline: Node) -> Iterator[str]:
    """Of the Jenkinsfile."""
    stages = [node for node in pipeline.walk() if node.kind == "stage"]
    for stage in (stage for stage in stages if stage.of("steps")):
        if not any(option.kind == "timeout" for options in stage.of("options") for option in options.children):
            yield f"Jenkinsfile/{stage.arguments[0]}: no timeout"
    names = [stage.arguments[0] for stage in stages]
    approval = next((stage for stage in stages if stage.arguments[0] == "Approve production"), None)
    if approval is None or not approval.of("input") or names.index("Approve production") > names.index("Production"):
        yield "Jenkinsfile: production is not behind an approval"
    if not all(stage.of("input") for stage in stages if stage.arguments[0] == "Apply production"):
        yield "Jenkinsfile: production's infrastructure is not behind an approval"
    shells = [str(argument) for node in pipeline.walk() if node.kind == "sh" for argument in node.arguments]
    if [verb for shell in shells for verb in re.findall(r"rollout\.sh (\w+)", shell)] != ROLLOUT:
        yield f"Jenkinsfile: the order of the rollout is not {ROLLOUT}"
    for node in pipeline.walk():
        if KEYS.search(node.kind) or any(KEYS.search(str(argument)) for argument in node.arguments):
            yield f"Jenkinsfile: a long-lived key: {node.kind}"
    for stage in stages:
        if stage.arguments[0] in ("Images", "Infrastructure", "Gate", "Approve production", "Production") and not _on_main(stage):
            yield f"Jenkinsfile/{stage.arguments[0]}: not only on main"


def _on_main(stage: Node) -> bool:
    return any(child.kind == "branch" and child.arguments == ["main"] for when in stage.of("when") for child in when.children)
