"""The roles and environments that workflows and the Jenkinsfile name, against those that terraform/modules/identity makes and docs/delivery.md tells to set."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .jenkins import Node
from .workflows import CLONE, LOCAL, Workflow

ENVIRONMENTS = sorted(path.name for path in (CLONE / "terraform/envs").iterdir() if path.is_dir())
IDENTITY = "terraform/modules/identity"
MADE = re.compile(r'^    (\w+) += (?:"\$\{var\.environment\}(-\w+)"|var\.environment)$', re.MULTILINE)
TRUSTS_JENKINS = re.compile(r'jenkins_roles = .*\[("[^\]]+")\]')
TAKEN = re.compile(r"\$\{\{ vars\.AWS_([A-Z]+)_ROLE \}\}")
FROM_JENKINS = re.compile(r"credentials\(quarry-(\w+)-(\w+)-role\)")
ANY = ("${{ inputs.environment }}", "${{ matrix.environment }}")


def role_problems(root: Path, workflows: list[Workflow], jenkinsfile: Node | None) -> list[str]:
    """Roles and environments that are named and not made, or made and not taken."""
    made = dict(MADE.findall((root / IDENTITY / "github.tf").read_text(encoding="utf-8")))
    named = [(f"{w.name}/{job}", told, step) for w in workflows for job, told in w.jobs.items() for step in told.get("steps", []) if _role(step)]
    found = [problem for place, told, step in named for problem in _of_step(place, told, str(_role(step)), made)]
    taken = {match.group(1).lower() for _, _, step in named if (match := TAKEN.fullmatch(str(_role(step))))}
    found += [f"terraform makes the role {role}, and no workflow takes it" for role in sorted(made.keys() - taken)]
    found += [f"{w.name}/{job}: there is no environment {wrong}" for w in workflows for job, told in w.jobs.items() for wrong in _unknown(told)]
    told = (root / "docs/delivery.md").read_text(encoding="utf-8")
    wanted = [(f"AWS_{role.upper()}_ROLE", f"production{suffix}") for role, suffix in made.items()]
    found += [f"docs/delivery.md: no line has {variable} and {where}" for variable, where in wanted if not _in_a_line(told, f"`{variable}`", f"`{where}`")]
    return found + (list(_of_jenkins(root, jenkinsfile)) if jenkinsfile else [])


def _role(step: dict[str, Any]) -> object:
    return step.get("with", {}).get("role-to-assume")


def _of_step(place: str, told: dict[str, Any], role: str, made: dict[str, str]) -> Iterator[str]:
    match = TAKEN.fullmatch(role)
    if match is None or match.group(1).lower() not in made:
        yield f"{place}: takes {role}, which terraform does not make"
        return
    suffix = made[match.group(1).lower()]
    if told.get("environment") not in [f"{name}{suffix}" for name in (*ENVIRONMENTS, *ANY)]:
        yield f"{place}: {role} is bound to ENVIRONMENT{suffix}, and the job's environment is {told.get('environment')}"


def _unknown(told: dict[str, Any]) -> list[str]:
    """Environments that a matrix or a call of another workflow names and that are not in terraform/envs."""
    matrix = told.get("strategy", {}).get("matrix", {}).get("environment", [])
    given = [told["with"]["environment"]] if LOCAL in told.get("uses", "") else []
    return [name for name in [*matrix, *given] if name not in ENVIRONMENTS]


def _in_a_line(text: str, *words: str) -> bool:
    return any(all(word in line for word in words) for line in text.splitlines())


def _of_jenkins(root: Path, jenkinsfile: Node) -> Iterator[str]:
    match = TRUSTS_JENKINS.search((root / IDENTITY / "jenkins.tf").read_text(encoding="utf-8"))
    trusting = set(re.findall(r"\w+", match.group(1))) if match else set()
    values = [str(argument) for node in jenkinsfile.walk() if node.kind == "AWS_ROLE_ARN" for argument in node.arguments]
    taken = {value: FROM_JENKINS.fullmatch(value) for value in values}
    for value, found in taken.items():
        if found is None or found.group(1) not in ENVIRONMENTS or found.group(2) not in trusting:
            yield f"Jenkinsfile: takes {value}, which is no role that terraform lets Jenkins take"
    for role in sorted(trusting - {found.group(2) for found in taken.values() if found}):
        yield f"terraform lets Jenkins take the role {role}, and the Jenkinsfile does not"
