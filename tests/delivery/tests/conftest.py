"""What these tests need beside Python, and why they are skipped where it is not there."""

import shutil
import subprocess
from pathlib import Path

import pytest

from quarry_delivery import jenkins
from quarry_delivery.workflows import CLONE

SCRIPTS = CLONE / ".github/scripts"
WRONG = {
    "no agent": "pipeline { stages { stage('a') { steps { echo 'x' } } } }",
    "no steps": "pipeline { agent any; stages { stage('a') { agent any } } }",
    "an unknown step": "pipeline { agent any; stages { stage('a') { steps { shell 'x' } } } }",
    "an assignment": "pipeline { agent any; stages { stage('a') { steps { x = 'x' } } } }",
    "an undefined name": "pipeline { agent any; stages { stage('a') { steps { sh command } } } }",
    "scripted": "node { sh 'x' }",
}


def needs_npm() -> None:
    """Skip without the linters that are npm packages."""
    if shutil.which("node") is None or not (jenkins.PROJECT / "node_modules").is_dir():
        pytest.skip("linters that are npm packages are not installed: install the Debian packages nodejs and npm, then run `make envs P=tests/delivery`")


def needs_jenkins() -> None:
    """Skip where a Jenkinsfile cannot be read."""
    needs_npm()
    if reason := jenkins.missing():
        pytest.skip(reason)


def needs_environments(*projects: str) -> None:
    """Build the environments of these projects, unless they are there."""
    subprocess.run(["make", "envs", f"P={' '.join(projects)}"], cwd=CLONE, check=True, capture_output=True, timeout=1800)


@pytest.fixture(scope="session")
def golden() -> Path:
    return Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, jenkins.Node | jenkins.RefusedPipeline]:
    """The Jenkinsfile, by the name of "ours", and those of WRONG: read by one Java process, for which most of the work is to start Groovy."""
    needs_jenkins()
    folder = tmp_path_factory.mktemp("jenkinsfiles")
    for number, text in enumerate(WRONG.values()):
        (folder / str(number)).write_text(text)
    paths = [CLONE / "Jenkinsfile", *(folder / str(number) for number in range(len(WRONG)))]
    return dict(zip(("ours", *WRONG), jenkins.read_all(paths), strict=True))


@pytest.fixture(scope="session")
def pipeline(pipelines: dict[str, jenkins.Node | jenkins.RefusedPipeline]) -> jenkins.Node:
    """The Jenkinsfile."""
    ours = pipelines["ours"]
    assert isinstance(ours, jenkins.Node), ours
    return ours
