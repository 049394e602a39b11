"""MLflow's way to its database: what terraform made, by External Secrets, and what happens when RDS changes the password."""

import re
import shutil
from typing import Any

import pytest

from .chart import CLONE
from .overlays import GIVEN, OF_AWS, everything, named, pod_of
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


def test_kinds_server_has_a_file_and_asks_no_database() -> None:
    environment, container = server(everything("kind"))
    assert environment["MLFLOW_BACKEND_STORE_URI"].startswith("sqlite:") and not [name for name in environment if name.startswith("PG")]
    assert container["livenessProbe"].keys() & {"exec", "httpGet"} == {"httpGet"}
