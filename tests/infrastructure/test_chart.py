"""The chart is given what terraform made: its output as values, held against the applied environment, down to the file of keys that the gateway reads."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from quarry_gateway.edge import EdgeKeys

from conftest import Applied
from runner import CLONE

CHART = CLONE / "helm/quarry"
RELEASE = CLONE / "services/contract/src/quarry_contract/golden/release_manifest.json"
EXAMPLE = CLONE / "tests/manifests/account.yaml"


def helm(chart: Path, *values: Path) -> list[dict[str, Any]]:
    """What helm makes of a chart."""
    program = shutil.which(os.environ.get("QUARRY_HELM", "helm")) or shutil.which(CLONE / ".tools/helm")
    if program is None:
        pytest.skip("helm is not there: make test P=tests/infrastructure fetches it")
    command = [program, "template", "quarry", str(chart), *(word for file in values for word in ("--values", str(file)))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [m for m in yaml.safe_load_all(done.stdout) if m]


@pytest.fixture(scope="module")
def account(applied: Applied) -> dict[str, Any]:
    """`terraform output chart`."""
    return dict(yaml.safe_load(applied.terraform.run("output", "-raw", "chart").stdout))


@pytest.fixture(scope="module")
def manifests(account: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The chart on this account, as `make deploy ENVIRONMENT=staging` gives it."""
    folder = tmp_path_factory.mktemp("values")
    (folder / "account.yaml").write_text(yaml.safe_dump(account))
    (folder / "release.yaml").write_text(json.dumps({"releases": {"live": {"manifest": RELEASE.read_text()}}}))
    return helm(CHART, CHART / "values-staging.yaml", folder / "account.yaml", folder / "release.yaml")


def test_it_is_what_the_charts_own_tests_take_it_for(account: dict[str, Any]) -> None:
    example = yaml.safe_load(EXAMPLE.read_text())
    group = account["gateway"]["edge"]["targetGroup"]
    example["gateway"]["edge"]["targetGroup"] = example["gateway"]["edge"]["targetGroup"].replace("0123456789abcdef", group.rpartition("/")[2])
    assert account == example


def test_the_gateways_pods_go_into_the_edges_target_group(applied: Applied, manifests: list[dict[str, Any]]) -> None:
    (binding,) = [m["spec"] for m in manifests if m["kind"] == "TargetGroupBinding"]
    (group,) = applied.client("elbv2").describe_target_groups()["TargetGroups"]
    (service,) = [m for m in manifests if m["kind"] == "Service" and m["metadata"]["name"] == binding["serviceRef"]["name"]]
    (gateway,) = [m for m in manifests if m["kind"] == "Deployment" and m["metadata"]["name"].endswith("-gateway")]
    (container,) = gateway["spec"]["template"]["spec"]["containers"]
    assert (binding["targetGroupARN"], binding["targetType"]) == (group["TargetGroupArn"], group["TargetType"])
    assert [p["port"] for p in service["spec"]["ports"]] == [binding["serviceRef"]["port"]]
    assert container["ports"][0]["containerPort"] == group["Port"]
    assert group["HealthCheckPath"] == container["readinessProbe"]["httpGet"]["path"]


def test_the_gateway_knows_both_of_the_edges_keys(applied: Applied, manifests: list[dict[str, Any]], tmp_path: Path) -> None:
    """As External Secrets does: each remote secret fetched, then the Go template filled, which helm does here."""
    (wanted,) = [m["spec"] for m in manifests if m["kind"] == "ExternalSecret"]
    store = applied.client("secretsmanager")
    fetched = {d["secretKey"]: store.get_secret_value(SecretId=d["remoteRef"]["key"])["SecretString"] for d in wanted["data"]}
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text("apiVersion: v2\nname: filled\nversion: 0.0.1\n")
    (tmp_path / "templates/filled.yaml").write_text('text: {{ tpl .Values.text (merge (dict "Template" .Template) .Values.fetched) | toJson }}')
    (tmp_path / "given.yaml").write_text(yaml.safe_dump({"text": wanted["target"]["template"]["data"]["keys"], "fetched": fetched}))
    (filled,) = helm(tmp_path, tmp_path / "given.yaml")
    (tmp_path / "keys").write_text(filled["text"])
    (stage,) = [r["values"] for r in applied.state if r["type"] == "aws_api_gateway_stage"]
    keys = EdgeKeys(tmp_path / "keys")
    assert len(fetched) == 2 and all(keys.know(key) for key in fetched.values())
    assert keys.know(stage["variables"]["edge_key"]) and not keys.know("x" * 48)


def test_images_and_buckets_that_the_chart_names_are_there(applied: Applied, account: dict[str, Any]) -> None:
    made = {r["repositoryUri"] for r in applied.client("ecr").describe_repositories()["repositories"]}
    assert {account[part]["image"]["repository"] for part in ("gateway", "retriever", "reader", "ingestion")} <= made
    buckets = {f"s3://{b['Name']}/" for b in applied.client("s3").list_buckets()["Buckets"]}
    assert account["ingestion"]["source"] in buckets and account["artefacts"]["prefix"].removesuffix("releases") in buckets
