"""Airflow's values against what they refer to: helm/quarry, terraform, our image, the overlays' secrets. The chart itself cannot be fetched here."""

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from .chart import ACCOUNT, CHART, CLONE, HELM, render, values
from .overlays import K8S, everything, named, needs_kubectl
from .rules import RESTRICTED

AWS = yaml.safe_load(ACCOUNT.read_text())
VALUES = yaml.safe_load((K8S / "values/airflow.yaml").read_text())
RUNS = {"scheduler": ["scheduler"], "dagProcessor": ["dag-processor"], "apiServer": ["api-server"], "migrateDatabaseJob": ["db", "migrate"]}
ENVIRONMENTS = ("staging", "production")
OUTSIDE = {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"]}}
KEYS = {"secretRef": {"name": "object-store", "optional": True}}  # kind's store; nowhere else is there a secret of this name
pytestmark = needs_kubectl
needs_helm = pytest.mark.skipif(not Path(HELM).exists(), reason="helm is not there: make test P=tests fetches it")


def of_chart(environment: str, name: str) -> dict[str, Any]:
    """The pod of a workload of helm/quarry as that environment has it."""
    manifests = render(values(), [CHART / f"values-{environment}.yaml", ACCOUNT])
    [found] = (m for m in manifests if m["kind"] in ("Deployment", "CronJob") and m["metadata"]["name"] == name)
    pod: dict[str, Any] = (found["spec"].get("jobTemplate", found)["spec"])["template"]["spec"]
    return pod


def settings(environment: str) -> dict[str, str]:
    """The overlay's ConfigMap and what the values add to it, as the pods' environment."""
    [given] = (m for m in named(everything(environment), "ConfigMap") if m["metadata"]["name"] == "airflow")
    assert yaml.safe_load(VALUES["extraEnvFrom"]) == [{"configMapRef": {"name": "airflow"}}, KEYS]
    assert given["metadata"]["namespace"] == "quarry"
    return {**given["data"], **{v["name"]: v["value"] for v in yaml.safe_load(VALUES["extraEnv"])}}


def test_it_is_the_airflow_that_the_image_holds_and_runs_by_the_images_entry_point() -> None:
    lock = (CLONE / "pipelines/airflow/requirements.lock").read_text()
    dockerfile = (CLONE / "pipelines/airflow/Dockerfile").read_text()
    assert re.search(r"^apache-airflow==(\S+)", lock, re.MULTILINE).group(1) == VALUES["airflowVersion"]  # type: ignore[union-attr]
    assert 'ENTRYPOINT ["python3", "-m", "airflow"]' in dockerfile
    assert f"AIRFLOW_HOME={VALUES['airflowHome']} " in dockerfile
    assert {name: VALUES[name]["args"] for name in RUNS} == RUNS
    assert all("command" not in VALUES[name] for name in RUNS)
    for environment in ENVIRONMENTS:
        [image] = yaml.safe_load((K8S / f"values/airflow-{environment}.yaml").read_text())["images"].values()
        assert image == {"repository": "quarry/airflow", "tag": "unset"}


def test_nothing_of_the_chart_that_wants_a_shell_is_left_on() -> None:
    assert [VALUES[name]["waitForMigrations"]["enabled"] for name in ("scheduler", "dagProcessor", "apiServer")] == [False] * 3
    assert [VALUES[name]["logGroomerSidecar"]["enabled"] for name in ("scheduler", "dagProcessor")] == [False] * 2
    probes = [VALUES["scheduler"]["livenessProbe"], VALUES["scheduler"]["startupProbe"], VALUES["dagProcessor"]["livenessProbe"]]
    assert [p["command"][0] for p in probes] == ["python3"] * 3
    assert VALUES["config"]["scheduler"]["enable_health_check"] == "True"
    assert VALUES["config"]["core"]["dags_are_paused_at_creation"] == "False", "nobody is there to unpause it"
    assert not [part for part in ("createUserJob", "triggerer", "statsd", "redis", "postgresql") if VALUES[part]["enabled"]]
    assert re.search(r"\b(bash|sh)\b", str(VALUES)) is None


def test_every_container_keeps_the_restricted_profile_and_says_what_it_needs() -> None:
    pod = {k: v for k, v in RESTRICTED.items() if k not in ("allowPrivilegeEscalation", "readOnlyRootFilesystem", "capabilities")}
    assert VALUES["securityContexts"] == {"pod": {**pod, "fsGroup": 65532}, "containers": RESTRICTED}
    [fetch] = VALUES["scheduler"]["extraInitContainers"]
    assert fetch["securityContext"] == RESTRICTED
    for resources in (fetch["resources"], *(VALUES[name]["resources"] for name in RUNS)):
        assert {"cpu", "memory"} == resources["requests"].keys()
        assert "memory" in resources["limits"]
    assert [VALUES[name]["serviceAccount"]["automountServiceAccountToken"] for name in RUNS] == [False] * 4
    assert (VALUES["rbac"], VALUES["allowPodLaunching"], VALUES["enableServiceLinks"]) == ({"create": False}, False, False)


@needs_helm
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_scheduler_stands_where_ingestion_stands_with_its_volume_and_its_right(environment: str) -> None:
    ingestion, own = of_chart(environment, "quarry-ingestion"), VALUES["scheduler"]
    assert {key: own[key] for key in ("affinity", "nodeSelector", "tolerations")} == {k: ingestion[k] for k in ("affinity", "nodeSelector", "tolerations")}
    assert own["serviceAccount"]["name"] == ingestion["serviceAccountName"]
    assert own["serviceAccount"]["create"] is False
    assert 'namespace = "quarry", service_account = "quarry-ingestion"' in (CLONE / "terraform/modules/identity/workloads.tf").read_text()
    [home] = (v for v in own["extraVolumes"] if v["name"] == "home")
    assert home in ingestion["volumes"]
    assert {"name": "home", "mountPath": settings(environment)["QUARRY_HOME"]} in own["extraVolumeMounts"]
    assert {"name": "home", "mountPath": settings(environment)["QUARRY_HOME"]} in ingestion["containers"][0]["volumeMounts"]
    assert (own["replicas"], own["strategy"]) == (1, {"type": "Recreate"})
    mounted = {m["name"] for m in own["extraVolumeMounts"]}
    assert mounted == {v["name"] for v in own["extraVolumes"]}


@needs_helm
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_retriever_is_fetched_as_the_cronjob_fetches_it(environment: str) -> None:
    [theirs], [own] = of_chart(environment, "quarry-collect")["initContainers"], VALUES["scheduler"]["extraInitContainers"]
    release, prefix = theirs["args"][1], theirs["args"][4]
    assert own["command"] == theirs["command"]
    assert own["args"] == [{release: "$(QUARRY_RELEASE)", prefix: "$(QUARRY_RELEASES)"}.get(word, word) for word in theirs["args"]]
    assert {"QUARRY_RELEASE", "QUARRY_RELEASES"} <= settings(environment).keys()
    assert settings(environment)["QUARRY_AIRFLOW_MODEL_DIR"] == own["args"][-1]
    assert "TARGET=/app/ingestion " in (CLONE / "pipelines/airflow/Dockerfile").read_text()
    assert own["env"] == [{"name": "PYTHONPATH", "value": "/app/ingestion"}]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_dag_can_be_parsed_with_these_settings(environment: str) -> None:
    source = CLONE / "pipelines/airflow/src/quarry_airflow/settings.py"
    spec = importlib.util.spec_from_file_location("quarry_airflow_settings", source)
    assert spec
    assert spec.loader
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    read = module.Settings.from_environment(settings(environment))
    assert (read.source, read.home, read.model_dir) == (AWS["ingestion"]["source"], "/mnt/home", "/mnt/models")
    assert read.kfp_host == "http://ml-pipeline.kubeflow:8888"


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_its_keys_come_from_the_secret_store_and_nobody_can_log_in(environment: str) -> None:
    [secret] = (m for m in named(everything(environment), "ExternalSecret") if m["metadata"]["name"] == "airflow")
    named_here = [VALUES["data"]["metadataSecretName"], *(VALUES[f"{key}SecretName"] for key in ("fernetKey", "apiSecretKey", "jwt"))]
    assert named_here == ["airflow"] * 4
    assert (secret["metadata"]["namespace"], secret["spec"]["target"]["name"]) == ("quarry", "airflow")
    [async_connection] = VALUES["secret"]
    made = secret["spec"]["target"]["template"]["data"]
    assert made.keys() == {"connection", "fernet-key", "api-secret-key", "jwt-secret", async_connection["secretKey"]}  # the first four are the chart's names
    assert all(re.search(r"\{\{ \.\w+", text) for text in made.values())
    assert secret["spec"]["dataFrom"] == [{"extract": {"key": f"quarry-{environment}/airflow"}}]
    core = VALUES["config"]["core"]
    assert core["auth_manager"].endswith(".SimpleAuthManager")
    assert (core["simple_auth_manager_users"], "simple_auth_manager_all_admins" in core) == ("", False)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_its_pods_reach_what_they_need_and_nothing_else(environment: str) -> None:
    policies = {m["metadata"]["name"]: m["spec"] for m in named(everything(environment), "NetworkPolicy") if m["metadata"]["name"].startswith("airflow")}
    all_of_it = {"tier": "airflow", "release": "airflow"}
    scheduler, server = all_of_it | {"component": "scheduler"}, all_of_it | {"component": "api-server"}
    assert {name: p["podSelector"]["matchLabels"] for name, p in policies.items()} == {
        "airflow": all_of_it,
        "airflow-scheduler": scheduler,
        "airflow-api-server": server,
    }
    way_out = {name: [(rule["to"], [p["port"] for p in rule["ports"]]) for rule in p.get("egress", [])] for name, p in policies.items()}
    dns = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
        "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
    }
    pipelines = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kubeflow"}},
        "podSelector": {"matchLabels": {"app": "ml-pipeline"}},
    }
    assert way_out == {
        "airflow": [([dns], [53, 53]), ([{"ipBlock": {"cidr": "10.0.0.0/8"}}], [5432])],
        "airflow-scheduler": [
            ([{"podSelector": {"matchLabels": server}}], [8080]),
            ([pipelines], [8888]),
            ([{"ipBlock": {"cidr": "169.254.170.23/32"}}], [80]),
            ([OUTSIDE], [443]),
        ],
        "airflow-api-server": [],
    }
    assert policies["airflow"]["policyTypes"] == ["Ingress", "Egress"]
    ways_in = [rule for p in policies.values() for rule in p.get("ingress", [])]
    assert ways_in == [{"from": [{"podSelector": {"matchLabels": scheduler}}], "ports": [{"protocol": "TCP", "port": 8080}]}]
    [kubeflow] = (m["spec"]["ingress"] for m in named(everything(environment), "NetworkPolicy") if m["metadata"]["name"] == "pipelines-from-airflow")
    [rule] = kubeflow
    assert rule["from"] == [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "quarry"}}, "podSelector": {"matchLabels": scheduler}},
    ]


@needs_helm
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_with_an_empty_source_the_cronjob_is_off_and_the_rest_of_ingestion_is_not(environment: str) -> None:
    manifests = render(values(ingestion={"source": ""}), [CHART / f"values-{environment}.yaml", ACCOUNT])
    jobs = {m["metadata"]["name"] for m in manifests if m["kind"] == "CronJob"}
    assert jobs == {"quarry-reconcile", "quarry-backup"}
    assert any(m["metadata"]["name"] == "quarry-ingestion" and m["kind"] == "Deployment" for m in manifests)
