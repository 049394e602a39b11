"""What docs/aws.md and docs/cost.md tell to type exists: make targets, outputs, variables, files, names."""

import re

import pytest

from runner import CLONE, ENVIRONMENTS, SOURCE

PAGES = {name: (CLONE / "docs" / f"{name}.md").read_text() for name in ("aws", "cost")}
DEV = SOURCE / "envs/dev"


def declared(kind: str, *folders: str) -> set[str]:
    text = "\n".join(p.read_text() for folder in folders for p in (SOURCE / folder).glob("*.tf"))
    return set(re.findall(rf'^{kind} "(\w+)"', text, re.M))


@pytest.mark.parametrize("page", PAGES)
def test_make_targets(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (CLONE / "Makefile").read_text(), re.M))
    assert set(re.findall(r"(?:`|^ {4})make ([a-z-]+)", PAGES[page], re.M)) - {"images"} <= targets  # images come with the containers


def test_outputs() -> None:
    told = set(re.findall(r"terraform (?:-chdir=\S+ )?output (?:-raw |-json )?(\w+)", PAGES["aws"]))
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


def test_links_and_settings() -> None:
    for page in PAGES.values():
        for link in re.findall(r"\]\((?!http)([^)#]+)", page):
            assert (CLONE / "docs" / link).exists() or link.startswith("../helm/"), link
    for env in ENVIRONMENTS:
        settings = (SOURCE / "envs" / env / "settings.tf").read_text()
        assert all(re.search(rf"^  {name} +=", settings, re.M) for name in ("protected", "revisions", "budget_usd", "nat", "zones"))
        assert (SOURCE / "envs" / env / "example.tfvars").is_file()
