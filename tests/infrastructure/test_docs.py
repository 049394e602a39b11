"""What docs/aws.md and docs/cost.md tell to type exists: make targets, outputs, variables, files, names."""

import re

import pytest

from held import LISTED
from runner import CLONE, ENVIRONMENTS, SOURCE

PAGES = {name: (CLONE / "docs" / f"{name}.md").read_text() for name in ("aws", "cost")}
DEV = SOURCE / "envs/dev"


def declared(kind: str, *folders: str) -> set[str]:
    text = "\n".join(p.read_text() for folder in folders for p in (SOURCE / folder).glob("*.tf"))
    return set(re.findall(rf'^{kind} "(\w+)"', text, re.M))


@pytest.mark.parametrize("page", PAGES)
def test_make_targets(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (CLONE / "Makefile").read_text(), re.M))
    assert set(re.findall(r"(?:`|^ {4}|&& )make ([a-z-]+)", PAGES[page], re.M)) <= targets


def test_scripts_and_modules() -> None:
    """Every program of ours that is called is there, and every file that is written to lies in a folder that is."""
    called = set(re.findall(r"^ {4}([\w./-]+\.sh) ", PAGES["aws"], re.M))
    assert called and all((CLONE / name).stat().st_mode & 0o100 for name in called)
    for project, module, part in re.findall(r"([\w/]+)/\.venv/bin/python -m (\w+)\.(\w+)", PAGES["aws"]):
        assert (CLONE / project / "src" / module / f"{part}.py").is_file()
    for written in re.findall(r" > ((?:helm|terraform|k8s)/\S+|\.\./\S+)", PAGES["aws"]):
        assert ((SOURCE / "bootstrap" if written.startswith("..") else CLONE) / written).parent.is_dir(), written


def test_the_example_has_all_it_needs() -> None:
    """Terraform's root, the platform's overlay, and the chart's values, of the environment that the page takes."""
    (environment,) = set(re.findall(r"ENVIRONMENT=(\w+)", PAGES["aws"])) & set(ENVIRONMENTS)
    assert set(re.findall(r"platform\.sh (\w+)", PAGES["aws"])) == {environment}
    assert set(re.findall(r"terraform/envs/(\w+)", PAGES["aws"])) == {environment}
    assert (CLONE / f"k8s/overlays/{environment}").is_dir() and (CLONE / f"helm/quarry/values-{environment}.yaml").is_file()


def test_roles_that_github_takes() -> None:
    told = dict(re.findall(r"^\| (\w+) \| staging(-\w+)? \|", PAGES["aws"], re.M))
    text = (SOURCE / "modules/identity/github.tf").read_text()
    assert told == dict(re.findall(r'^    (\w+) += (?:"\$\{var\.environment\}(-\w+)"|var\.environment)$', text, re.M))


def test_outputs() -> None:
    told = set(re.findall(r"terraform (?:-chdir=\S+ )?output (?:-raw |-json )?(\w+)", PAGES["aws"] + (CLONE / "docs/delivery.md").read_text()))
    assert told and told <= declared("output", "envs/dev", "bootstrap")


def test_variables() -> None:
    told = set(re.findall(r"-var (\w+)=", PAGES["aws"]))
    assert told == declared("variable", "bootstrap")
    for name in ("edge_key", "edge_key_versions", "domain", "cognito_pool_arns", "administrators", "api_cidrs", "alarm_email"):
        assert f"{name}" in PAGES["aws"] and name in declared("variable", "envs/dev")


def test_roles() -> None:
    """The table of workloads is that of identity, in any order."""
    rows = re.findall(r"^\| ([a-z, ]+) \| ([a-z-]+) / ([a-z, -]+) \|", PAGES["aws"], re.M)
    told = {(w, namespace, account) for ws, namespace, accounts in rows for w, account in zip(ws.split(", "), accounts.split(", "), strict=True)}
    text = (SOURCE / "modules/identity/workloads.tf").read_text()
    heading = {("workload", "namespace", "service account")}
    assert told - heading == set(re.findall(r'^    (\w+) += \{ namespace = "([\w-]+)", service_account = "([\w-]+)"', text, re.M))


def test_the_number_of_planted_faults() -> None:
    planted = len(re.findall(r"^    Fault\(", (CLONE / "tests/infrastructure/faults.py").read_text(), re.M))
    assert f"plants {planted} faults" in PAGES["aws"] and planted >= 15


def test_the_number_of_kinds_that_are_looked_for_after_destroy() -> None:
    assert f"it holds of {len(LISTED)} kinds" in PAGES["aws"]


def test_links_and_settings() -> None:
    for page in PAGES.values():
        for link in re.findall(r"\]\((?!http)([^)#]+)", page):
            assert (CLONE / "docs" / link).exists() or link.startswith("../helm/"), link
    for env in ENVIRONMENTS:
        settings = (SOURCE / "envs" / env / "settings.tf").read_text()
        assert all(re.search(rf"^  {name} +=", settings, re.M) for name in ("protected", "revisions", "budget_usd", "nat", "zones"))
        assert (SOURCE / "envs" / env / "example.tfvars").is_file()
