"""Every environment by its plan, without the overrides that moto needs to apply: also what moto lacks is here."""

import json
from pathlib import Path
from typing import Any

import pytest

import cost
from loopback import LACKING
from rules import broken, of
from runner import ENVIRONMENTS, resources

ADDONS = {"vpc-cni", "kube-proxy", "eks-pod-identity-agent", "coredns", "aws-ebs-csi-driver"}
WORKLOADS = {"reader", "retriever", "ingestion", "training", "mlflow", "secrets", "balancer", "autoscaler"}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_no_rule_is_broken(plans: dict[str, Any], name: str) -> None:
    assert broken(resources(plans[name])) == {}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_everything_is_made_and_nothing_else_touched(plans: dict[str, Any], name: str) -> None:
    assert {tuple(r["change"]["actions"]) for r in plans[name]["resource_changes"] if r["mode"] == "managed"} == {("create",)}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_what_moto_lacks(plans: dict[str, Any], name: str) -> None:
    planned = resources(plans[name])
    assert {r["type"] for r in planned} >= set(LACKING)
    addons = {v["addon_name"]: v for _, v in of(planned, "aws_eks_addon")}
    assert set(addons) == ADDONS
    assert json.loads(addons["vpc-cni"]["configuration_values"]) == {"enableNetworkPolicy": "true"}
    pods = {r["index"]: r["values"] for r in planned if r["type"] == "aws_eks_pod_identity_association"}
    assert set(pods) == WORKLOADS
    assert all(pod["namespace"] and pod["service_account"] for pod in pods.values())
    groups = {r["index"]: r["values"].get("kubernetes_groups") or [] for r in planned if r["type"] == "aws_eks_access_entry"}
    assert groups == {"arn:aws:iam::123456789012:role/administrator": [], "deploy": ["quarry-deploy"], "pipelines": ["quarry-pipelines"]}
    access = {r["index"]: r["values"] for r in planned if r["type"] == "aws_eks_access_policy_association"}
    scopes = {who: (v["policy_arn"].rpartition("/")[2], v["access_scope"][0]["type"], v["access_scope"][0]["namespaces"] or []) for who, v in access.items()}
    assert scopes == {
        "arn:aws:iam::123456789012:role/administrator": ("AmazonEKSClusterAdminPolicy", "cluster", []),
        "deploy": ("AmazonEKSAdminPolicy", "namespace", ["quarry"]),
    }
    (_, budget), *_ = of(planned, "aws_budgets_budget")
    assert budget["time_unit"] == "MONTHLY" and len(budget["notification"]) == 2


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_only_the_clusters_access_entries_say_who_gets_in(plans: dict[str, Any], name: str) -> None:
    (_, cluster), *_ = of(resources(plans[name]), "aws_eks_cluster")
    assert cluster["access_config"] == [{"authentication_mode": "API", "bootstrap_cluster_creator_admin_permissions": False}]


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_balancer_is_reached_by_the_vpc_link_alone(plans: dict[str, Any], name: str) -> None:
    (_, balancer), *_ = of(resources(plans[name]), "aws_lb")
    assert balancer["internal"] and balancer["enforce_security_group_inbound_rules_on_private_link_traffic"] == "off"
    into = [address for address, rule in of(resources(plans[name]), "aws_vpc_security_group_ingress_rule") if "edge" in address]
    assert into == ["module.edge.aws_vpc_security_group_ingress_rule.gateway"]  # into the pods, and from the balancer


def test_production_survives_a_zone_and_a_mistake(plans: dict[str, Any]) -> None:
    planned = resources(plans["production"])
    (_, database), *_ = of(planned, "aws_db_instance")
    assert database["multi_az"] and database["deletion_protection"] and not database["skip_final_snapshot"] and database["backup_retention_period"] >= 7
    (_, balancer), *_ = of(planned, "aws_lb")
    assert balancer["enable_deletion_protection"]
    assert not any(v["force_destroy"] for _, v in of(planned, "aws_s3_bucket")) and not any(v["force_delete"] for _, v in of(planned, "aws_ecr_repository"))
    zones = {v["availability_zone"] for a, v in of(planned, "aws_subnet") if "private" in a}
    assert len(zones) == len(of(planned, "aws_nat_gateway")) == 3
    groups = {v["node_group_name"]: v for _, v in of(planned, "aws_eks_node_group")}
    assert all(groups[name]["scaling_config"][0]["min_size"] >= 2 for name in ("general", "serving"))
    assert groups["training"]["ami_type"] == "AL2023_x86_64_NVIDIA" and groups["training"]["taint"]


def test_environments_do_not_overlap(plans: dict[str, Any]) -> None:
    networks = [of(resources(plan), "aws_vpc")[0][1]["cidr_block"] for plan in plans.values()]
    assert len(set(networks)) == len(ENVIRONMENTS)


def test_the_database_refuses_plain_connections(plans: dict[str, Any]) -> None:
    for plan in plans.values():  # moto does not read parameters back
        (_, group), *_ = of(resources(plan), "aws_db_parameter_group")
        assert {"rds.force_ssl": "1"}.items() <= {p["name"]: p["value"] for p in group["parameter"]}.items()


def test_the_cost_page_is_that_of_the_plans(plans: dict[str, Any]) -> None:
    assert cost.shown() == f"{cost.table(plans)}\n{cost.sources()}", "make cost"


def test_ones_own_prices_are_taken(plans: dict[str, Any], tmp_path: Path) -> None:
    own = json.loads(cost.PRICES.read_text())
    own["items"]["eks_cluster"]["usd"] = 1
    (tmp_path / "own.json").write_text(json.dumps(own))
    assert "| Kubernetes control plane | 1: 730 |" in cost.table(plans, tmp_path / "own.json")
