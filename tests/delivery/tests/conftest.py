"""What these tests need beside Python, and why they are skipped where it is not there."""

import shutil
import subprocess
from pathlib import Path

import pytest

from quarry_delivery import jenkins
from quarry_delivery.workflows import CLONE

SCRIPTS = CLONE / ".github/scripts"


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
def pipeline() -> jenkins.Node:
    """The Jenkinsfile."""
    needs_jenkins()
    return jenkins.read()
