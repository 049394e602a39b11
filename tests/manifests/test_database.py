"""MLflow's way to its database: what terraform made, by External Secrets, and what happens when RDS changes the password."""

import re
import shutil
from typing import Any

import pytest

from .chart import CLONE
from .overlays import CLUSTER, GIVEN, OF_AWS, cluster_secrets, everything, named, pod_of
from .schemas import Manifest

ACCOUNT = dict(line.split("=", 1) for line in GIVEN.read_text().splitlines())
TERRAFORM = (CLONE / "terraform/modules/database/postgres.tf").read_text()
SECONDS = {"s": 1, "m": 60}
pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed: install it to render k8s/ by kustomize")


def server(manifests: tuple[Manifest, ...]) -> tuple[dict[str, Any], Any]:
    """(environment by name, the container) of MLflow's server."""
    [pod] = (pod for m in named(manifests, "Deployment") if m["metadata"]["name"] == "mlflow" and (pod := pod_of(m)))
    [container] = pod["containers"]
    return {v["name"]: v.get("value", v.get("valueFrom")) for v in container["env"]}, container


@pytest.mark.parametrize("overlay", OF_AWS)
def test_user_and_password_are_those_that_rds_keeps_and_the_rest_is_what_terraform_made(overlay: str) -> None:
    manifests = everything(overlay)
    environment, _ = server(manifests)
    [external] = (m for m in named(manifests, "ExternalSecret") if m["metadata"]["namespace"] == "mlflow")
    [store] = (m for m in named(manifests, "ClusterSecretStore") if m["metadata"]["name"] == external["spec"]["secretStoreRef"]["name"])
    [config] = (m for m in named(manifests, "ConfigMap") if m["metadata"]["name"].startswith("mlflow-"))
    assert external["spec"]["dataFrom"] == [{"extract": {"key": ACCOUNT["database_secret"]}}]
    assert store["spec"]["provider"]["aws"]["region"] == ACCOUNT["database_secret"].split(":")[3]
    for name, key in (("PGUSER", "username"), ("PGPASSWORD", "password")):  # as RDS names them
        assert environment[name] == {"secretKeyRef": {"name": external["spec"]["target"]["name"], "key": key}}
    for name, key in (("PGHOST", "database_host"), ("PGPORT", "database_port"), ("MLFLOW_ARTIFACTS_DESTINATION", "artifacts")):
        assert environment[name] == {"configMapKeyRef": {"name": config["metadata"]["name"], "key": key}}
    assert config["data"] == ACCOUNT
    assert f'db_name        = "{environment["PGDATABASE"]}"' in TERRAFORM and "manage_master_user_password   = true" in TERRAFORM
    assert environment["PGSSLMODE"] == "require" and re.search(r'"rds.force_ssl"\n +value = "1"', TERRAFORM)


@pytest.mark.parametrize("overlay", OF_AWS)
def test_a_new_password_is_there_before_a_server_that_has_the_old_one_is_restarted(overlay: str) -> None:
    manifests = everything(overlay)
    _, container = server(manifests)
    [external] = (m for m in named(manifests, "ExternalSecret") if m["metadata"]["name"] == "mlflow-database")
    count, unit = external["spec"]["refreshInterval"][:-1], external["spec"]["refreshInterval"][-1]
    probe = container["livenessProbe"]
    python, flag, module, address = probe["exec"]["command"]
    assert (python, flag, address) == ("python3", "-m", f"http://localhost:{container['ports'][0]['containerPort']}/health")
    assert (CLONE / f"pipelines/training/src/{module.replace('.', '/')}.py").is_file()
    assert int(count) * SECONDS[unit] < probe["periodSeconds"] * (probe["failureThreshold"] - 1)


def test_kinds_server_has_the_database_and_the_store_of_the_laptop() -> None:
    manifests = everything("kind")
    environment, container = server(manifests)
    [config] = (m for m in named(manifests, "ConfigMap") if m["metadata"]["name"].startswith("mlflow-"))
    [service] = (m for m in named(manifests, "Service") if m["metadata"]["name"] == "postgres")
    [store] = (m for m in named(manifests, "Service") if m["metadata"]["name"] == "object-store")
    assert config["data"]["database_host"] == f"postgres.{service['metadata']['namespace']}"
    assert int(config["data"]["database_port"]) == service["spec"]["ports"][0]["port"]
    assert environment["AWS_ENDPOINT_URL"] == f"http://object-store.{store['metadata']['namespace']}:{store['spec']['ports'][0]['port']}"
    assert config["data"]["artifacts"].startswith("s3://quarry/") and "bucket.py quarry " in CLUSTER.read_text()
    assert (environment["PGSSLMODE"], environment["PGDATABASE"]) == ("disable", "mlflow"), "no certificate on a laptop"
    assert cluster_secrets()["mlflow", "mlflow-database"] == {"username", "password"}
    assert container["livenessProbe"].keys() & {"exec", "httpGet"} == {"exec"}, "as on AWS"
    [image] = (c["image"] for m in named(manifests, "Deployment") for c in m["spec"]["template"]["spec"]["containers"] if c["name"] == "postgres")
    [major] = re.findall(r'engine_version = "(\d+)"', TERRAFORM)
    assert re.fullmatch(rf"postgres:{major}\.\d+-bookworm", image)
