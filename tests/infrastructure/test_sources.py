"""What holds for the Terraform files themselves: as tflint's rules, and that environments differ only where they may."""

import hashlib
import re
import subprocess
from pathlib import Path

import pytest

from runner import CLONE, ENVIRONMENTS, SOURCE, Missing, Terraform, mirror, uninitialised

MODULES = sorted(p for p in SOURCE.glob("modules/*") if p.is_dir())
ROOTS = [SOURCE / "envs" / name for name in ENVIRONMENTS] + [SOURCE / "bootstrap"]
BLOCK = re.compile(r'^(variable|output) "(\w+)" \{\n(.*?)^\}', re.M | re.S)


def text(folder: Path) -> str:
    return "\n".join(p.read_text() for p in sorted(folder.glob("*.tf")))


def test_formatted(terraform_here: None) -> None:
    done = subprocess.run(["terraform", "fmt", "-check", "-recursive", str(SOURCE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def bootstrap(terraform_here: None, tmp_path_factory: pytest.TempPathFactory) -> Terraform:
    """The root that makes the state's bucket; without a backend, as it is."""
    return uninitialised(tmp_path_factory.mktemp("terraform") / "copy", "../bootstrap", "http://127.0.0.1:9")


def test_bootstrap_is_valid(bootstrap: Terraform) -> None:
    bootstrap.init()
    bootstrap.run("validate", "-no-color")


@pytest.mark.parametrize("folder", MODULES + ROOTS, ids=lambda p: p.name)
def test_documented_typed_and_used(folder: Path) -> None:
    whole = text(folder)
    for kind, name, body in BLOCK.findall(whole):
        assert re.search(r'^  description = ".+[.?]', body, re.M), f"{kind} {name} is not described"
        if kind == "variable":
            assert re.search(r"^  type +=", body, re.M), f"variable {name} has no type"
            rest = whole.replace(body, "")
            assert re.search(rf"\bvar\.{name}\b", rest), f"variable {name} is not used"
    for name in re.findall(r'^data "(\w+" "\w+)"', whole, re.M):
        kind, label = name.split('" "')
        assert f"data.{kind}.{label}" in whole, f"data {kind}.{label} is not used"
    for block in re.findall(r"^locals \{\n(.*?)^\}", whole, re.M | re.S):
        for name in re.findall(r"^  (\w+) +=", block, re.M):
            assert re.search(rf"\blocal\.{name}\b", whole), f"local {name} is not used"
    assert re.search(r"required_version = ", whole)
    assert not re.search(r"\b(null_resource|local-exec|remote-exec)\b", whole)


@pytest.mark.parametrize("folder", MODULES + ROOTS, ids=lambda p: p.name)
def test_small_files_and_nothing_secret(folder: Path) -> None:
    for path in folder.glob("*.tf"):
        assert len(path.read_text().splitlines()) <= 200, path
        assert not re.search(r"AKIA[0-9A-Z]{16}|(password|secret_string) *= *\"", path.read_text()), path


@pytest.mark.parametrize("name", ["main.tf", "versions.tf", "variables.tf", "outputs.tf", ".terraform.lock.hcl"])
def test_environments_are_composed_alike(name: str) -> None:
    assert len({(SOURCE / "envs" / env / name).read_text() for env in ENVIRONMENTS}) == 1


def test_roots_only_compose() -> None:
    for env in ENVIRONMENTS:
        assert not re.search(r"^resource ", text(SOURCE / "envs" / env), re.M)


def test_the_provider_is_pinned() -> None:
    for root in ROOTS:
        (version,) = re.findall(r'^  version +=? *"([^"]+)"', (root / ".terraform.lock.hcl").read_text(), re.M)
        assert f'version = "{version}"' in (root / "versions.tf").read_text()


def test_the_live_revision_is_that_of_the_generated_api() -> None:
    """What the deployment's precondition says, without Terraform."""
    api = (SOURCE / "modules/edge/api.json").read_text()
    revision = hashlib.sha256(f"api_key {api}".encode()).hexdigest()[:8]
    for env in ENVIRONMENTS:
        assert revision in (SOURCE / "envs" / env / "settings.tf").read_text(), f"{env}: set revisions to {revision} (docs/aws.md, When the API changes)"


def test_no_path_of_a_machine() -> None:
    try:
        here = str(mirror())
    except Missing as reason:
        pytest.skip(str(reason))
    for path in [*SOURCE.rglob("*.tf"), *(CLONE / "tests/infrastructure").glob("*.py")]:
        assert here not in path.read_text(), path
