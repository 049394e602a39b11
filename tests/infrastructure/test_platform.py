"""The platform is told what terraform made: its output in the overlay, down to the user and the password that MLflow's pod gets, and Airflow's source."""

import json
import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml
from cryptography.fernet import Fernet

from conftest import Applied
from runner import ACCOUNT, CLONE, REGION

EXAMPLE = CLONE / "tests/manifests/account.env"


@pytest.fixture(scope="module")
def printed(applied: Applied) -> str:
    """`terraform output platform`."""
    return applied.terraform.run("output", "-raw", "platform").stdout


@pytest.fixture(scope="module")
def manifests(printed: str, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The overlay on this account, as `platform.sh staging` applies it."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed: install it to render k8s/ by kustomize")
    copy = shutil.copytree(CLONE / "k8s", tmp_path_factory.mktemp("platform") / "k8s")
    (copy / "overlays/staging/account.env").write_text(printed)
    done = subprocess.run(["kubectl", "kustomize", str(copy / "overlays/staging")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [m for m in yaml.safe_load_all(done.stdout) if m]


def told(text: str) -> dict[str, str]:
    """Value by name."""
    return dict(line.split("=", 1) for line in text.splitlines())


def test_it_is_what_the_overlays_own_tests_take_it_for(printed: str) -> None:
    """But for what AWS makes up: the host's name, and the secret's."""
    ours, example = told(printed), told(EXAMPLE.read_text())
    secret = f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:rds!db-"
    assert printed.endswith("\n") and list(ours) == list(example)
    assert ours["database_secret"].startswith(secret) and example["database_secret"].startswith(secret)
    assert all(ours[name] == example[name] for name in ours.keys() - {"database_host", "database_secret"})


def test_mlflow_gets_the_user_and_the_password_that_rds_keeps(applied: Applied, manifests: list[dict[str, Any]]) -> None:
    """As External Secrets does: the remote secret fetched, and each of its fields a key of the secret in the cluster."""
    (external,) = [m["spec"] for m in manifests if m["kind"] == "ExternalSecret" and m["metadata"]["name"] == "mlflow-database"]
    (key,) = [source["extract"]["key"] for source in external["dataFrom"]]
    made = json.loads(applied.client("secretsmanager").get_secret_value(SecretId=key)["SecretString"])
    (config,) = [m["data"] for m in manifests if m["kind"] == "ConfigMap" and m["metadata"]["name"].startswith("mlflow-")]
    (server,) = [m for m in manifests if m["kind"] == "Deployment" and m["metadata"]["name"] == "mlflow"]
    given = {v["name"]: v.get("valueFrom", {}) for v in server["spec"]["template"]["spec"]["containers"][0]["env"]}
    (database,) = applied.client("rds").describe_db_instances()["DBInstances"]
    assert key == database["MasterUserSecret"]["SecretArn"]
    assert {given["PGUSER"]["secretKeyRef"]["key"], given["PGPASSWORD"]["secretKeyRef"]["key"]} == set(made)
    endpoint = database["Endpoint"]
    assert [config[given[name]["configMapKeyRef"]["key"]] for name in ("PGHOST", "PGPORT")] == [endpoint["Address"], str(endpoint["Port"])]


def test_the_store_is_in_the_region_and_the_buckets_are_there(applied: Applied, manifests: list[dict[str, Any]], printed: str) -> None:
    (store,) = [m["spec"] for m in manifests if m["kind"] == "ClusterSecretStore"]
    assert store["provider"]["aws"]["region"] == REGION
    buckets = {f"s3://{b['Name']}" for b in applied.client("s3").list_buckets()["Buckets"]}
    assert {told(printed)[name].rpartition("/")[0] for name in ("artifacts", "QUARRY_AIRFLOW_SOURCE", "QUARRY_RELEASES")} <= buckets


def test_airflow_gets_a_user_and_keys_that_terraform_does_not_know(applied: Applied, manifests: list[dict[str, Any]]) -> None:
    """As External Secrets does: the fields of the secret are those that the template names, and what they hold is of use."""
    (external,) = [m["spec"] for m in manifests if m["kind"] == "ExternalSecret" and m["metadata"]["name"] == "airflow"]
    (key,) = [source["extract"]["key"] for source in external["dataFrom"]]
    made = json.loads(applied.client("secretsmanager").get_secret_value(SecretId=key)["SecretString"])
    assert set(re.findall(r"\{\{ \.(\w+)", json.dumps(external["target"]["template"]["data"]))) == set(made)
    (database,) = applied.client("rds").describe_db_instances()["DBInstances"]
    assert (made["username"], made["host"]) == ("airflow", database["Endpoint"]["Address"])
    assert Fernet(made["fernet_key"]).decrypt(Fernet(made["fernet_key"].encode()).encrypt(b"x")) == b"x"
    keys = [made[name] for name in ("password", "fernet_key", "api_secret_key", "jwt_secret")]
    assert len(set(keys)) == 4 and all(len(k) >= 44 for k in keys)
    assert [r["address"] for r in applied.state if any(k in json.dumps(r) for k in keys)] == []
