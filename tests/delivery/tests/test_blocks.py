"""Every `run:` block of every workflow, and every `sh` step of the Jenkinsfile's rollout, is executed; what it called is golden.

Stand-ins at the command boundary (quarry_delivery.standin) are aws, cosign, docker, gh, grype, helm, kubectl and terraform,
for they reach the cloud, and make, whose targets have tests of their own. Python and shell scripts are run as they are.
`UPDATE_GOLDEN=1` writes the files anew.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from quarry_delivery import blocks, jenkins, workflows
from quarry_delivery.blocks import Ran

from .conftest import SCRIPTS

sys.path.insert(0, str(SCRIPTS))
import release_ids

# Blocks that cannot run here, with the reason. Every other block must run.
CANNOT: dict[str, str] = {}
VALUES = {
    "GITHUB_REPOSITORY": "example/quarry",
    "GITHUB_SHA": "HEAD",
    "github.event.before": "HEAD^",
    "github.event.pull_request.base.sha || github.event.merge_group.base_sha || github.event.before": "HEAD^",
    "github.event.pull_request.number": "7",
    "github.repository": "example/quarry",
    "github.run_id": "1",
    "github.server_url": "https://github.example",
    "github.token": "token",
    "inputs.environment": "staging",
    "join(fromJSON(needs.changed.outputs.projects), ' ')": "services/contract tests",
    "join(needs.*.result, ' ')": "success success skipped",
    "matrix.environment": "dev",
    "matrix.image": "reader",
    "matrix.project": "services/contract",
    "needs.gate.outputs.live": "aaaaaaaaaaaa",
    "needs.gate.outputs.release": "bbbbbbbbbbbb",
    "needs.recall.result": "failure",
    "needs.restore.result": "success",
    "steps.ecr.outputs.registry": "1.dkr.ecr.example",
    "steps.ids.outputs.live": "aaaaaaaaaaaa",
    "steps.ids.outputs.release": "bbbbbbbbbbbb",
}
JOBS = [(w.name, job) for w in workflows.read() for job, told in w.jobs.items() if any("run" in step for step in told.get("steps", []))]
FILES = {w.name: w for w in workflows.read()}


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blocks") / "clone"
    folder.mkdir()
    return blocks.clone(folder)


def run(clone: Path, workflow: str, job: str, fails: str = "") -> Ran:
    subprocess.run(["git", "checkout", "--quiet", "--", "helm"], cwd=clone, check=True)
    (clone / "plans").mkdir(exist_ok=True)
    (clone / "plans/dev.txt").write_text("No changes.\n")
    return blocks.run_shells(blocks.shells_of(FILES[workflow], job, VALUES), clone, blocks.environment(clone, fails))


def named(clone: Path) -> dict[str, str]:
    """The releases that the last deployment named, by role."""
    told = json.loads((clone / release_ids.VALUES).read_text().partition("\n")[2])["releases"]
    return {role: json.loads(release["manifest"])["release_id"] for role, release in told.items() if release["manifest"]}


def compare(golden: Path, name: str, lines: list[str]) -> None:
    text = "".join(re.sub(r"\b[0-9a-f]{40}\b", "COMMIT", re.sub(r"/\S+/tmp\.\w+", "TEMPORARY", line)) + "\n" for line in lines)
    if os.environ.get("UPDATE_GOLDEN"):
        (golden / f"{name}.txt").write_text(text)
    assert text == (golden / f"{name}.txt").read_text()


@pytest.mark.parametrize(("workflow", "job"), JOBS)
def test_blocks_call_what_the_golden_file_says(clone: Path, golden: Path, workflow: str, job: str) -> None:
    if reason := CANNOT.get(f"{workflow}.{job}"):
        pytest.skip(reason)
    ran = run(clone, workflow, job)
    assert ran.succeeded, ran.printed
    if job == "rollout":
        assert named(clone) == {"live": "bbbbbbbbbbbb", "previous": "aaaaaaaaaaaa"}
    compare(golden, f"{workflow}.{job}", ran.lines(clone))


def test_every_golden_file_is_of_a_job(golden: Path) -> None:
    told = {f"{workflow}.{job}" for workflow, job in JOBS} | {"release.rollout.missed", "release.rollout.no-canary"}
    assert {path.stem for path in golden.glob("*.txt")} == told


@pytest.mark.parametrize(("name", "fails"), [("missed", "make canary-watch"), ("no-canary", "make deploy ENVIRONMENT=production RELEASE=bbbbbbbbbbbb")])
def test_a_rollout_that_fails_is_reverted_and_not_promoted(clone: Path, golden: Path, name: str, fails: str) -> None:
    ran = run(clone, "release", "rollout", fails)
    assert not ran.succeeded
    assert ran.calls[-2] == ["make", "deploy", "ENVIRONMENT=production", "RELEASE=aaaaaaaaaaaa"]
    assert ran.calls[-1][:2] == ["helm", "upgrade"]
    assert ["make", "deploy", "ENVIRONMENT=production", "RELEASE=bbbbbbbbbbbb"] not in ran.calls
    assert named(clone) == {"live": "aaaaaaaaaaaa"}
    compare(golden, f"release.rollout.{name}", ran.lines(clone))


def test_a_refused_gate_ends_the_release(clone: Path) -> None:
    ran = run(clone, "release", "gate", "make gate")
    assert not ran.succeeded
    assert ran.calls[-1][:2] == ["make", "gate"]


@pytest.mark.parametrize(("fails", "never"), [("grype", "docker push"), ("docker push", "cosign sign"), ("cosign sign", "cosign attest")])
def test_an_image_goes_no_further_than_what_failed(clone: Path, fails: str, never: str) -> None:
    ran = run(clone, "images", "publish", fails)
    assert not ran.succeeded
    assert not any(" ".join(call).startswith(never) for call in ran.calls)


def test_one_failed_project_fails_the_required_check(clone: Path) -> None:
    values = VALUES | {"join(needs.*.result, ' ')": "success failure skipped"}
    ran = blocks.run_shells(blocks.shells_of(FILES["ci"], "passed", values), clone, blocks.environment(clone))
    assert not ran.succeeded


def test_an_expression_without_a_value_is_no_empty_string() -> None:
    with pytest.raises(blocks.UnknownExpression):
        blocks.shells_of(FILES["ci"], "changed", {})


@pytest.mark.parametrize(("fails", "name"), [("", "release.rollout"), ("make canary-watch", "release.rollout.missed")])
def test_jenkins_rolls_out_as_github_does(clone: Path, golden: Path, pipeline: jenkins.Node, fails: str, name: str) -> None:
    """The same calls in the same order: the golden file is GitHub's."""
    subprocess.run(["git", "checkout", "--quiet", "--", "helm"], cwd=clone, check=True)
    stage = next(node for node in pipeline.walk() if node.kind == "stage" and node.arguments == ["Production"])
    [steps], [post] = stage.of("steps"), stage.of("post")
    variables = {"CLUSTER": "cluster", "GIT_PREVIOUS_SUCCESSFUL_COMMIT": "HEAD^", "SHARE": "0.1"}
    shells = [(step.arguments[0], False, variables) for step in steps.of("sh")]
    shells += [(step.arguments[0], True, variables) for step in post.of("unsuccessful")[0].of("sh")]
    ran = blocks.run_shells(shells, clone, blocks.environment(clone, fails))
    assert ran.succeeded == (not fails)
    compare(golden, name, ran.lines(clone))
