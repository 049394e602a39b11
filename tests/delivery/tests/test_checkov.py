"""checkov over workflows, Dockerfiles, what the chart renders to, and Terraform: nothing found, but for what is listed here with its reason.

Suppressions that stand in the files themselves (`checkov:skip=ID:reason`) must give a reason too.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from quarry_delivery.workflows import CLONE

# Check of checkov -> why it does not apply anywhere in this repository.
SUPPRESSED: dict[str, str] = {
    "CKV_DOCKER_2": "Kubernetes asks the probes that the chart declares; a HEALTHCHECK in an image would be a second, unread one",
    "CKV_DOCKER_7": "the bases are build arguments, given by digest where images are published; checkov reads the argument's name",
    "CKV_K8S_11": "a CPU limit throttles a question while the node has time to spare; CPU is requested, memory is limited",
    "CKV_K8S_15": "tags in the registry cannot be moved: what was pulled once is what would be pulled again",
    "CKV_K8S_21": "the namespace is chosen at the installation, by `helm --namespace`, and not by the chart",
    "CKV_K8S_43": "each image takes a digest (`digest` in the values); the default is a tag that cannot be moved",
}
# The same for one object alone.
QUESTION = "Pod.default.quarry-question"
SUPPRESSED_THERE: dict[tuple[str, str], str] = {
    ("CKV_K8S_8", QUESTION): "the pod of `helm test` asks one question and ends: there is nothing to keep alive",
    ("CKV_K8S_9", QUESTION): "the pod of `helm test` serves nobody: nobody waits until it is ready",
    ("CKV_K8S_35", QUESTION): "the token of `helm test` is read once by a pod that ends within seconds",
}
FRAMEWORKS = ("github_actions", "dockerfile", "kubernetes", "terraform")
SKIP = re.compile(r"checkov:skip=(CKV\w+)(?::(.*))?")
OTHERS = {".venv", ".tools", ".git", "node_modules", ".terraform", "tests"}


def tracked() -> list[Path]:
    """Files of the repository, by git's word, of which checkov reads any."""
    told = subprocess.run(["git", "ls-files"], cwd=CLONE, capture_output=True, text=True, check=True).stdout.splitlines()
    return [Path(name) for name in told if not OTHERS & set(Path(name).parts)]


def what_ships(folder: Path) -> Path:
    """A copy of all that checkov is to read, and what the chart renders to in production, in both modes."""
    folder.mkdir()
    for path in tracked():
        if path.name.startswith("Dockerfile") or path.suffix == ".tf" or path.parts[:2] == (".github", "workflows"):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CLONE / path, folder / path)
    for mode in ("plain", "seldon"):
        (folder / f"{mode}.yaml").write_text(chart(mode))
    return folder


def chart(mode: str) -> str:
    """What it renders to in production, with the golden release live."""
    helm = shutil.which(os.environ.get("QUARRY_HELM", "helm")) or shutil.which(CLONE / ".tools/helm")
    if helm is None:
        pytest.skip("there is no helm to render the chart: `make test P=tests/delivery` brings it")
    release = (CLONE / "services/contract/src/quarry_contract/golden/release_manifest.json").read_text()
    given = {"mode": mode, "releases": {"live": {"manifest": release}}, "artefacts": {"prefix": "s3://bucket/releases"}}
    files = [CLONE / "helm/quarry/values-production.yaml", CLONE / "tests/manifests/account.yaml", "-"]
    values = [word for file in files for word in ("--values", str(file))]
    command = [str(helm), "template", "quarry", str(CLONE / "helm/quarry"), "--namespace", "quarry", *values]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def checkov(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Failed checks by framework."""
    options = ["--output", "json", "--compact", "--skip-download", "--framework", *FRAMEWORKS, "--skip-check", ",".join(SUPPRESSED)]
    program = Path(sysconfig.get_path("scripts")) / "checkov"
    done = subprocess.run([sys.executable, str(program), "--directory", str(folder), *options], capture_output=True, text=True, check=False)
    told = json.loads(done.stdout)
    reports = told if isinstance(told, list) else [told] if "check_type" in told else []
    return {report["check_type"]: report["results"]["failed_checks"] for report in reports}


WRONG = {
    ".github/workflows/a.yml": "on: push\npermissions: write-all\njobs: {a: {runs-on: x, steps: [{run: 'true'}]}}\n",
    "Dockerfile": "FROM debian:latest\nUSER root\n",
    "pod.yaml": "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, image: a, securityContext: {privileged: true}}]}\n",
    "main.tf": 'resource "aws_s3_bucket" "a" {\n  bucket = "a"\n}\n',
}


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """By framework, of one run over what ships and, beside it, over what is wrong: most of a run is checkov's own start."""
    folder = tmp_path_factory.mktemp("checked")
    what_ships(folder / "ships")
    for name, text in WRONG.items():
        (folder / "wrong" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "wrong" / name).write_text(text)
    return checkov(folder)


def test_nothing_is_found(failed: dict[str, list[dict[str, Any]]]) -> None:
    found = [(check["check_id"], check["resource"]) for checks in failed.values() for check in checks if not check["file_path"].startswith("/wrong/")]
    assert set(found) == SUPPRESSED_THERE.keys()


def test_what_is_wrong_is_found_in_every_framework(failed: dict[str, list[dict[str, Any]]]) -> None:
    assert {framework for framework, checks in failed.items() if any(check["file_path"].startswith("/wrong/") for check in checks)} == set(FRAMEWORKS)


def test_every_suppression_has_its_reason() -> None:
    files = [CLONE / path for path in tracked() if path.suffix in (".tf", ".yml", ".yaml", ".tpl") or path.name.startswith("Dockerfile")]
    found = [(path.name, *skip) for path in files for skip in SKIP.findall(path.read_text(encoding="utf-8"))]
    reasons = [*((name, check, why) for name, check, why in found), *(("here", check, why) for check, why in (SUPPRESSED | SUPPRESSED_THERE).items())]
    assert [told for told in reasons if len(told[2].split()) < 4] == []
